"""Gradients in buckets, and norms and products over all of them: one number, or one for each of S stacked networks.

Sums run in float32 at least, on the device of the first gradient, and nothing here waits for a device.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_LOW = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Bucket:
    """The parameters of one group that have a gradient and share device and dtype; complex ones as pairs of reals.

    Attributes:
        group: the parameter group they belong to.
        sources: the parameters themselves.
        params, grads: tensors that share memory with the parameters and with their `.grad`.
    """

    group: dict[str, Any]
    sources: list[Tensor]
    params: list[Tensor]
    grads: list[Tensor]


def gradient_buckets(groups: Iterable[dict[str, Any]], name: str) -> list[Bucket]:
    """The buckets of all parameters that have a gradient, which they may write into: an expanded one is copied first.

    RuntimeError, in the name of optimizer `name`, for a sparse gradient.
    """
    buckets: list[Bucket] = []
    for group in groups:
        kinds: dict[tuple[torch.device, torch.dtype], Bucket] = {}
        for param in group["params"]:
            if param.grad is None:
                continue
            if param.grad.layout != torch.strided:
                raise RuntimeError(f"{name} does not support sparse gradients: use a dense layer (sparse=False)")
            if 0 in param.grad.stride():  # expanded: what is written into one number would appear in others
                param.grad = param.grad.clone(memory_format=torch.contiguous_format)
            bucket = kinds.setdefault((param.device, param.dtype), Bucket(group, [], [], []))
            bucket.sources.append(param)
            bucket.params.append(as_real(param.detach()))
            bucket.grads.append(as_real(param.grad.detach()))
        buckets += kinds.values()
    return buckets


def as_real(tensor: Tensor) -> Tensor:
    """A complex tensor as a view of pairs of reals, any other one as it is."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def norm(lists: Sequence[Sequence[Tensor]], networks: int | None) -> Tensor:
    """The L2 norm over all tensors of all lists: a scalar, or (S,) over the slices along dim 0."""
    parts: list[Tensor] = []
    for tensors in lists:
        dtype = torch.float32 if tensors and tensors[0].dtype in _LOW else None
        if networks is None:
            parts += torch._foreach_norm(list(tensors), 2, dtype=dtype)
        else:
            parts += [torch.linalg.vector_norm(t.reshape(networks, -1), dim=1, dtype=dtype) for t in tensors]
    return torch.linalg.vector_norm(_together(parts), dim=0)


def inner(a: Sequence[Sequence[Tensor]], b: Sequence[Sequence[Tensor]], networks: int | None) -> Tensor:
    """The inner product over all tensors: a scalar, or (S,) over the slices along dim 0.

    Args:
        a, b: lists of lists of tensors, equally shaped.
        networks: number S of stacked networks; None for a scalar.
    """
    products = [
        p for x, y in zip(a, b, strict=True) if x for p in torch._foreach_mul(at_least_float32(x), at_least_float32(y))
    ]
    return _together([p.sum() if networks is None else p.reshape(networks, -1).sum(1) for p in products]).sum(0)


def scaled(tensors: Sequence[Tensor], factor: Tensor) -> list[Tensor]:
    """New tensors: each one times `factor`, a scalar or one number for each slice; at least in float32."""
    tensors = at_least_float32(tensors)
    factor = factor.to(tensors[0])
    if factor.ndim == 0:
        return list(torch._foreach_mul(tensors, factor))
    return list(torch._foreach_mul(tensors, [rows(factor, t) for t in tensors]))


def rows(values: Tensor, like: Tensor) -> Tensor:
    """Numbers (S,) in the shape (S, 1, ...) that multiplies the slices of `like` along dim 0."""
    return values.view(-1, *[1] * (like.ndim - 1))


def zero_where_(tensors: Sequence[Tensor], where: Tensor) -> None:
    """Set to zero, in place, what `where` marks: everything, or slices along dim 0; free of NaN, unlike a product."""
    if where.device.type == "cpu" and not bool(where.any()):
        return  # looking is free on a CPU; on an accelerator it would wait for the device
    for tensor in tensors:
        mask = where.to(tensor.device)
        tensor.masked_fill_(rows(mask, tensor) if mask.ndim else mask, 0.0)


def nan_where_(tensor: Tensor, where: Tensor) -> None:
    """Make `tensor` NaN, in place, where `where` says: everywhere, or in slices along dim 0."""
    mask = where.to(tensor.device)
    tensor.masked_fill_(rows(mask, tensor) if mask.ndim else mask, torch.nan)


def at_least_float32(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Half precision as float32, anything else as it is."""
    return [t.float() if t.dtype in _LOW else t for t in tensors]


def _together(parts: Sequence[Tensor]) -> Tensor:
    """The parts stacked on the device of the first, in the widest of their dtypes."""
    dtype = torch.float64 if any(part.dtype == torch.float64 for part in parts) else torch.float32
    return torch.stack([part.to(parts[0].device, dtype) for part in parts])
