"""Norms, distances, variances, and other functions of the sizes of what they are given."""

import math
from typing import Any

from flatlab.bounds.expansions.registry import expansion
from flatlab.bounds.functions import huber
from flatlab.bounds.nodes import Ref
from flatlab.bounds.tape import Emitter


def _dims(x: Ref, dim: Any) -> list[int]:
    """The dimensions that are meant: all for None or none."""
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return list(range(len(x.shape)))
    return [d % len(x.shape) for d in (dim if isinstance(dim, list | tuple) else [dim])]


@expansion("linalg_vector_norm")
def _norm(emit: Emitter, x: Ref, order: float = 2, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
    dims = _dims(x, dim)
    if options.get("dtype") is not None or order == 0:
        return NotImplemented
    if math.isinf(order):
        return (emit.amax if order > 0 else emit.amin)(emit.abs(x), dims, keepdim)
    if order == 1:
        return emit.sum(emit.abs(x), dims, keepdim)
    if order == 2:
        return emit.sqrt(emit.sum(emit.mul(x, x), dims, keepdim))
    return emit.pow(emit.sum(emit.pow(emit.abs(x), order), dims, keepdim), 1 / order)


@expansion("cdist")
def _cdist(emit: Emitter, x: Ref, y: Ref, p: float = 2, *rest: Any) -> Ref:
    return _norm(emit, emit.sub(emit.unsqueeze(x, -2), emit.unsqueeze(y, -3)), p, [-1])


@expansion("hypot")
def _hypot(emit: Emitter, x: Ref, y: Ref) -> Ref:
    return emit.sqrt(emit.add(emit.mul(x, x), emit.mul(y, y)))


@expansion("var")
def _var(
    emit: Emitter, x: Ref, dim: Any = None, unbiased: Any = True, keepdim: bool = False, *, correction: Any = None
) -> Ref:
    """The mean of squares about the mean, times n / (n - correction)."""
    if isinstance(dim, bool):  # var(x, unbiased)
        dim, unbiased = None, dim
    dims = _dims(x, dim)
    less = (1 if unbiased else 0) if correction is None else correction
    count = math.prod(x.shape[d] for d in dims)
    d = emit.sub(x, emit.mean(x, dims, True))
    return emit.mul(emit.sum(emit.mul(d, d), dims, keepdim), 1 / (count - less) if count > less else math.nan)


@expansion("std")
def _std(emit: Emitter, *args: Any, **options: Any) -> Ref:
    return emit.sqrt(_var(emit, *args, **options))


@expansion("prod")
def _prod(emit: Emitter, x: Ref, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
    """Products of halves."""
    if not isinstance(dim, int) or options.get("dtype") is not None:
        return NotImplemented
    parts = [emit.slice(x, dim, i, i + 1) for i in range(x.shape[dim])]
    while len(parts) > 1:
        rest = parts[-1:] if len(parts) % 2 else []
        parts = [emit.mul(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)] + rest
    return parts[0] if keepdim else emit.squeeze(parts[0], dim)


@expansion("huber_loss")
def _huber_loss(emit: Emitter, x: Ref, y: Ref, reduction: int = 1, delta: float = 1.0) -> Ref:
    return _reduced(emit, emit.apply(huber, emit.sub(x, y), delta), reduction)


@expansion("smooth_l1_loss")
def _smooth_l1_loss(emit: Emitter, x: Ref, y: Ref, reduction: int = 1, beta: float = 1.0) -> Ref:
    return _reduced(emit, emit.mul(emit.apply(huber, emit.sub(x, y), beta), 1 / beta), reduction)


def _reduced(emit: Emitter, z: Ref, reduction: int) -> Ref:
    """torch's codes: 0 each number, 1 their mean, 2 their sum."""
    return z if reduction == 0 else (emit.mean if reduction == 1 else emit.sum)(z, list(range(len(z.shape))))


@expansion("bilinear")
def _bilinear(emit: Emitter, x: Ref, y: Ref, weight: Ref, bias: Any = None) -> Ref:
    """Output k is x^T W_k y: linear in x with the rows of all W_k^T, then the product with y."""
    outs, ins, other = weight.shape
    rows = emit.reshape(emit.transpose(weight, 1, 2), [outs * other, ins])
    mixed = emit.unflatten(emit.linear(x, rows), -1, [outs, other])
    z = emit.sum(emit.mul(mixed, emit.unsqueeze(y, -2)), [-1])
    return z if bias is None else emit.add(z, bias)
