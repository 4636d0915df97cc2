"""Arithmetic, slices, extremes, and what clips or drops."""

import math
from collections.abc import Callable
from typing import Any

import torch

from flatlab.bounds.expansions.registry import EXPANSIONS, expansion
from flatlab.bounds.functions import gelu_by_tanh
from flatlab.bounds.nodes import Ref
from flatlab.bounds.tape import Emitter


@expansion("div")
def _div(emit: Emitter, x: Any, y: Any, **options: Any) -> Any:
    """x / y with a perturbed y: the product with its reciprocal."""
    if options or not isinstance(y, Ref) or not emit.moves(y):
        return NotImplemented
    return emit.mul(x, emit.reciprocal(y))


@expansion("add")
def _add(emit: Emitter, x: Any, y: Any, alpha: float = 1) -> Any:
    """x + alpha y."""
    return NotImplemented if alpha == 1 else emit.add(emit.mul(y, alpha) if isinstance(y, Ref) else y * alpha, x)


@expansion("sub", "subtract")
def _sub(emit: Emitter, x: Any, y: Any, alpha: float = 1) -> Any:
    """x - y as a sum, where both are tensors."""
    if not isinstance(y, Ref):
        return emit.add(x, -alpha * y)
    return emit.add(emit.mul(y, -alpha), x)


@expansion("mul")
def _mul(emit: Emitter, x: Any, y: Any) -> Any:
    """A truth value is a number here."""
    values = [emit.value(z) if isinstance(z, Ref) else z for z in (x, y)]
    kinds = [v.dtype for v in values if isinstance(v, torch.Tensor)]
    if len(kinds) < 2 or torch.bool not in kinds:
        return NotImplemented
    kind = torch.promote_types(*kinds)
    return emit.mul(
        *(emit._to_copy(z, dtype=kind) if k == torch.bool else z for z, k in zip((x, y), kinds, strict=True))
    )


@expansion("pow")
def _pow(emit: Emitter, x: Any, exponent: Any) -> Any:
    if isinstance(exponent, Ref):  # of a constant base
        if emit.moves(exponent) and not (isinstance(x, Ref) and emit.moves(x)):
            return emit.exp(
                emit.mul(exponent, emit.log(x) if isinstance(x, Ref) else math.log(x) if x > 0 else math.nan)
            )
        return NotImplemented
    known = {2: lambda: emit.mul(x, x), 1: lambda: x, 0.5: lambda: emit.sqrt(x), -0.5: lambda: emit.rsqrt(x)}
    return known[exponent]() if exponent in known else emit.reciprocal(x) if exponent == -1 else NotImplemented


@expansion("addmm")
def _addmm(emit: Emitter, bias: Any, x: Ref, y: Any, beta: float = 1, alpha: float = 1) -> Any:
    return emit.add(emit.mm(x, y), bias) if beta == alpha == 1 else NotImplemented


@expansion("baddbmm")
def _baddbmm(emit: Emitter, bias: Any, x: Ref, y: Any, beta: float = 1, alpha: float = 1) -> Any:
    return emit.add(emit.bmm(x, y), bias) if beta == alpha == 1 else NotImplemented


@expansion("chunk")
def _chunk(emit: Emitter, x: Ref, chunks: int, dim: int = 0) -> list[Ref]:
    step = -(-x.shape[dim] // chunks)
    return [emit.slice(x, dim, i, min(i + step, x.shape[dim])) for i in range(0, x.shape[dim], step)]


@expansion("split", "split_with_sizes")
def _split(emit: Emitter, x: Ref, sizes: Any, dim: int = 0) -> list[Ref]:
    sizes = sizes if isinstance(sizes, list | tuple) else [sizes] * -(-x.shape[dim] // sizes)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [emit.slice(x, dim, end - size, min(end, x.shape[dim])) for end, size in zip(ends, sizes, strict=True)]


def _extreme(kind: str) -> Callable[..., Any]:
    """torch.max or torch.min: of two tensors, or along a dimension."""

    def expand(emit: Emitter, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, Ref):
            return emit.maximum(x, dim) if kind == "max" else emit.minimum(x, dim)
        if not isinstance(dim, int):
            return NotImplemented
        values = emit.amax(x, [dim], keepdim) if kind == "max" else emit.amin(x, [dim], keepdim)
        return [values, None]  # the indices cannot be bounded

    return expand


def _of_two(*, largest: bool) -> Any:
    """max: x + relu(y - x); min: x - relu(x - y). If one is constant, y is what moves; else ends are those of both."""

    def expand(emit: Emitter, x: Ref, y: Ref) -> Ref:
        if not emit.moves(y):
            x, y = y, x
        step = emit.sub(y, x) if largest else emit.sub(x, y)
        extreme = emit.amax if largest else emit.amin
        whole = extreme(_together(emit, x, y, step), [-1], False) if emit.moves(x) else None
        found = emit.add(emit.relu(step), x) if largest else emit.sub(x, emit.relu(step))
        return found if whole is None else emit.hint(found, lambda l, u: (l, u), whole)

    return expand


def _together(emit: Emitter, x: Ref, y: Ref, like: Ref) -> Ref:
    """Both along a new last dimension, each with the shape of their difference."""
    return emit.stack([part if part.shape == like.shape else emit.expand_as(part, like) for part in (x, y)], -1)


@expansion("amax")
def _amax(emit: Emitter, x: Ref, dim: Any = (), keepdim: bool = False) -> Any:
    """One dimension after the other."""
    if isinstance(dim, int) or len(dim) < 2:
        return NotImplemented
    for one in sorted((d % len(x.shape) for d in dim), reverse=True):
        x = emit.amax(x, [one], keepdim)
    return x


@expansion("prelu")
def _prelu(emit: Emitter, x: Ref, weight: Ref) -> Ref:
    """relu(x) - w relu(-x), with a weight for all or for each channel."""
    w = emit.reshape(weight, [-1] + [1] * (len(x.shape) - 2)) if weight.shape != (1,) and len(x.shape) > 2 else weight
    return emit.sub(emit.relu(x), emit.mul(emit.relu(emit.neg(x)), w))


@expansion("rrelu")
def _rrelu(emit: Emitter, x: Ref, low: float = 1 / 8, high: float = 1 / 3, train: bool = False, *rest: Any) -> Any:
    return NotImplemented if train else emit.leaky_relu(x, (low + high) / 2)


@expansion("gelu")
def _gelu(emit: Emitter, x: Ref, approximate: str = "none") -> Any:
    return emit.apply(gelu_by_tanh, x) if approximate == "tanh" else NotImplemented


@expansion("lerp")
def _lerp(emit: Emitter, x: Ref, y: Ref, weight: Any) -> Ref:
    """(1 - w) x + w y."""
    rest = emit.rsub(weight, 1.0) if isinstance(weight, Ref) else 1 - weight
    return emit.add(emit.mul(x, rest), emit.mul(y, weight))


@expansion("clamp", "clip")
def _clamp(emit: Emitter, x: Ref, low: Any = None, high: Any = None) -> Any:
    """Between tensors: the largest of x and low, then the smallest of that and high."""
    if not isinstance(low, Ref) and not isinstance(high, Ref):
        return NotImplemented
    x = x if low is None else emit.maximum(x, low) if isinstance(low, Ref) else emit.clamp(x, low, None)
    return x if high is None else emit.minimum(x, high) if isinstance(high, Ref) else emit.clamp(x, None, high)


@expansion("dropout", "feature_dropout", "alpha_dropout")
def _dropout(emit: Emitter, x: Ref, p: float, train: bool) -> Any:
    return x if not train or p == 0 else NotImplemented


EXPANSIONS.update(
    {
        "rsub": lambda emit, x, y, alpha=1: emit.add(emit.mul(x, -alpha), y),
        "detach": lambda emit, x: x,  # whose derivative is not that of a constant here
        "neg": lambda emit, x: emit.mul(x, -1.0),
        "square": lambda emit, x: emit.mul(x, x),
        "unbind": lambda emit, x, dim=0: [emit.select(x, dim, i) for i in range(x.shape[dim])],
        "stack": lambda emit, parts, dim=0: emit.cat([emit.unsqueeze(part, dim) for part in parts], dim),
        "fmax": lambda emit, x, y: emit.maximum(x, y),
        "fmin": lambda emit, x, y: emit.minimum(x, y),
        "logaddexp": lambda emit, x, y: emit.add(y, emit.softplus(emit.sub(x, y))),
        "sinh": lambda emit, x: emit.mul(emit.sub(emit.exp(x), emit.exp(emit.neg(x))), 0.5),
        "cosh": lambda emit, x: emit.mul(emit.add(emit.exp(x), emit.exp(emit.neg(x))), 0.5),
        "acos": lambda emit, x: emit.rsub(emit.asin(x), math.pi / 2),
        "erfc": lambda emit, x: emit.rsub(emit.erf(x), 1.0),
        "maximum": _of_two(largest=True),
        "minimum": _of_two(largest=False),
        "max": _extreme("max"),
        "min": _extreme("min"),
        "amin": lambda emit, x, dim=(), keepdim=False: emit.neg(emit.amax(emit.neg(x), dim, keepdim)),
        "relu6": lambda emit, x: emit.clamp(x, 0.0, 6.0),
        "hardtanh": lambda emit, x, low=-1.0, high=1.0: emit.clamp(x, low, high),
        "clamp_min": lambda emit, x, low: emit.clamp(x, low, None),
        "clamp_max": lambda emit, x, high: emit.clamp(x, None, high),
    }
)
