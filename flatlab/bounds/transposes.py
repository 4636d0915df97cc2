"""Transposes of common affine operators, on all rows at once, faster than those that autograd gives.

The general backward pass of an affine operator, vmap over vjp, needs no code per operator but a tenth of a millisecond
per call. The first part covers the operators that only move numbers about, of which recurrent and attention layers have
hundreds: each takes the operator's arguments, the shapes of its hot inputs and A (S, *shape of the output), and returns
A for each hot input. The second part covers sums and products with constants, which have a bias besides. All return
None where the general way must do.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab.bounds.interval import Interval
from flatlab.bounds.nodes import Ref, Site
from flatlab.bounds.rule import MANY_ROWS, Bound

Shape = tuple[int, ...]
Pair = tuple[int, int]

SMALL = 256
"""Maps of fewer numbers are fastest one channel after another, larger ones with channels last."""

Transpose = Callable[[Sequence[Any], Sequence[Shape], Tensor], "list[Tensor] | None"]


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


TRANSPOSES: dict[str, Transpose] = {
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


def linear_back(site: Site, a: Tensor, x: Sequence[Interval]) -> Bound | None:
    """A W, and <A, b>."""
    if site.node.args[0].index not in site.hot or len(site.hot) != 1:
        return None
    bias = site.argument(2, "bias")
    return [a @ site.argument(1)], 0.0 if bias is None else site.total(a * bias)


def conv2d_back(site: Site, a: Tensor, x: Sequence[Interval]) -> Bound | None:
    """A transposed convolution of all rows as one batch."""
    if site.node.args[0].index not in site.hot or len(site.hot) != 1 or isinstance(site.argument(4, "padding", 0), str):
        return None
    weight, bias = site.argument(1), site.argument(2, "bias")
    stride, padding, dilation = (
        pair(site.argument(i, n, d)) for i, n, d in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
    )
    back = _transposed(
        a.flatten(0, 1), weight, x[0].shape[-2:], stride, padding, dilation, site.argument(6, "groups", 1)
    )
    constant = 0.0 if bias is None else site.total(a.sum((3, 4)) @ bias)
    return [back.unflatten(0, a.shape[:2])], constant


def _transposed(
    a: Tensor, weight: Tensor, size: Sequence[int], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Tensor:
    """A (N, outputs, h, w) -> (N, inputs, *size), by the fastest of three ways on a CPU.

    Args:
        weight: of the convolution.
        size: of its input.
        stride, padding, dilation, groups: its options.
    """
    kernel = weight.shape[2:]
    if groups == 1 and a.shape[2:] == (1, 1) and tuple(size) == tuple(kernel):  # one position, which sees its kernel
        return (a.flatten(1) @ weight.flatten(1)).unflatten(1, weight.shape[1:])
    reach = [dilation[i] * (kernel[i] - 1) for i in range(2)]
    room = [reach[i] - padding[i] for i in range(2)]
    small = math.prod(a.shape[2:]) < SMALL and a.dtype != torch.float64
    if small and stride == (1, 1) and min(room) >= 0:  # a convolution with the kernel turned around
        turned = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3)
        return F.conv2d(a.contiguous(), turned, None, 1, room, dilation, groups)
    extra = [size[i] - ((a.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + reach[i] + 1) for i in range(2)]
    rows = a.contiguous(memory_format=MANY_ROWS)
    return F.conv_transpose2d(rows, weight, None, stride, padding, extra, groups, dilation)


def pair(value: Any) -> Pair:
    """Both numbers of an option of a convolution."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return (values[0], values[-1])


def mul_back(site: Site, a: Tensor, x: Sequence[Interval]) -> Bound | None:
    """A times the constant."""
    other = site.argument(1 if isinstance(site.node.args[0], Ref) and site.node.args[0].index in site.hot else 0)
    return [unbroadcast(a * other, x[0].shape)], 0.0


def add_back(site: Site, a: Tensor, x: Sequence[Interval]) -> Bound | None:
    """A for each summand."""
    if site.node.kwargs:
        return None
    first, second = site.node.args[:2]
    hot = [isinstance(arg, Ref) and arg.index in site.hot for arg in (first, second)]
    if all(hot):
        if first == second:
            return [a * 2], 0.0
        return [unbroadcast(a, i.shape) for i in x], 0.0
    other = site.argument(1 if hot[0] else 0)
    return [unbroadcast(a, x[0].shape)], site.total(a * other)
