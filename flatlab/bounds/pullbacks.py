"""The transpose of operators that only move numbers about, on all rows at once.

The general backward pass of an affine operator, vmap over vjp, needs no code per operator but a tenth of a millisecond
per call. These cover the operators of which recurrent and attention layers have hundreds. Each takes the operator's
arguments, the shapes of its hot inputs and A (S, *shape of the output), and returns A for each hot input.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, ...]
Pullback = Callable[[Sequence[Any], Sequence[Shape], Tensor], "list[Tensor] | None"]


def _reshape(args: Sequence[Any], shapes: Sequence[Shape], a: Tensor) -> list[Tensor]:
    return [a.reshape(a.shape[0], *shapes[0])]


def _transpose(args: Sequence[Any], shapes: Sequence[Shape], a: Tensor) -> list[Tensor]:
    first, second = (dim % len(shapes[0]) + 1 for dim in args[1:3])
    return [a.transpose(first, second)]


def _permute(args: Sequence[Any], shapes: Sequence[Shape], a: Tensor) -> list[Tensor]:
    order = [dim % len(shapes[0]) for dim in args[1]]
    return [a.permute(0, *(1 + order.index(dim) for dim in range(len(order))))]


def _select(args: Sequence[Any], shapes: Sequence[Shape], a: Tensor) -> list[Tensor]:
    dim = args[1] % len(shapes[0]) + 1
    return [torch.ops.aten.select_backward(a, [a.shape[0], *shapes[0]], dim, args[2])]


def _slice(args: Sequence[Any], shapes: Sequence[Shape], a: Tensor) -> list[Tensor]:
    full: list[Any] = [*args, *[None, 0, None, None, 1][len(args) :]]
    dim, start, end, step = full[1:]
    dim = dim % len(shapes[0])
    size = shapes[0][dim]
    return [
        torch.ops.aten.slice_backward(
            a, [a.shape[0], *shapes[0]], dim + 1, start or 0, size if end is None else min(end, size), step
        )
    ]


def _cat(args: Sequence[Any], shapes: Sequence[Shape], a: Tensor) -> list[Tensor] | None:
    if len(args[0]) != len(shapes):
        return None  # a part is constant, or comes twice
    dim = (args[1] if len(args) > 1 else 0) % len(shapes[0])
    return list(a.split([shape[dim] for shape in shapes], dim=dim + 1))


def _mean(args: Sequence[Any], shapes: Sequence[Shape], a: Tensor) -> list[Tensor] | None:
    found = _sum(args, shapes, a)
    return None if found is None else [found[0] / (found[0][0].numel() / a[0].numel())]


def _sum(args: Sequence[Any], shapes: Sequence[Shape], a: Tensor) -> list[Tensor] | None:
    if len(args) < 2 or not isinstance(args[1], list | tuple) or not args[1]:
        return None
    dims = sorted(dim % len(shapes[0]) for dim in args[1])
    if len(args) < 3 or not args[2]:
        for dim in dims:
            a = a.unsqueeze(dim + 1)
    return [a.expand(-1, *shapes[0])]


PULLBACKS: dict[str, Pullback] = {
    **dict.fromkeys(
        ("reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "contiguous", "clone"), _reshape
    ),
    "transpose": _transpose,
    "permute": _permute,
    "select": _select,
    "slice": _slice,
    "cat": _cat,
    "mean": _mean,
    "sum": _sum,
}
"""Name of an operator -> its transpose; None where the general way must do."""


def unbroadcast(a: Tensor, shape: Shape) -> Tensor:
    """A of a value that was broadcast to the output's shape."""
    missing = a.ndim - 1 - len(shape)
    a = a.sum(list(range(1, 1 + missing))) if missing else a
    wide = [i + 1 for i, n in enumerate(shape) if n == 1 and a.shape[i + 1] != 1]
    return a.sum(wide, keepdim=True) if wide else a
