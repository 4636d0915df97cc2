"""Intervals behind a linear layer: products with absolute values of weights, in memory that is used again.

Fresh memory of the size of a large weight costs more than the arithmetic on it: the system hands it out page by page,
and takes it back. So |W| of one layer after another lies in the same place, and is made anew for the backward pass.
"""

import threading
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.held = torch.empty(0)

    def like(self, t: Tensor) -> Tensor:
        """Memory for a tensor of the shape and dtype of t; valid until the next call in this thread."""
        if self.held.dtype != t.dtype or self.held.numel() < t.numel():
            self.held = t.new_empty(t.numel())
        return self.held[: t.numel()].view(t.shape)


_scratch = _Scratch()


def temporary_abs(t: Any) -> Any:
    """|t| for immediate use; valid until the next call in this thread, if no gradient is recorded."""
    if not isinstance(t, Tensor) or torch.is_grad_enabled() or t.device.type != "cpu":
        return abs(t)
    return torch.abs(t, out=_scratch.like(t))


class _IntervalLinear(torch.autograd.Function):
    """Keeps neither |W| nor its sign for the backward pass, and adds both gradients of W in one place."""

    @staticmethod
    def forward(center: Tensor, radius: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        return F.linear(center, weight, bias), F.linear(radius, temporary_abs(weight))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[:3])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        center, radius, weight = ctx.saved_tensors
        down, across = grads
        wanted = ctx.needs_input_grad
        to_center = down @ weight if wanted[0] else None
        to_radius = across @ temporary_abs(weight) if wanted[1] else None
        flat = [t.reshape(-1, t.shape[-1]) for t in (down, across, center, radius)]
        to_weight = None
        if wanted[2]:
            to_weight = flat[1].mT @ flat[3]
            if torch.is_grad_enabled():  # a gradient of this gradient may be asked for
                to_weight = to_weight * weight.sign() + flat[0].mT @ flat[2]
            else:
                sign = torch.sign(weight, out=_scratch.like(weight)) if weight.device.type == "cpu" else weight.sign()
                to_weight.mul_(sign).addmm_(flat[0].mT, flat[2])
        return to_center, to_radius, to_weight, flat[0].sum(0) if wanted[3] else None


def interval_linear(center: Tensor, radius: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Centre and radius behind a linear layer: W c + b and |W| r, (..., m) each.

    Args:
        center, radius: of the input, (..., n) each.
        weight, bias: W (m, n) and b (m,), or None.
    """
    return cast(tuple[Tensor, Tensor], _IntervalLinear.apply(center, radius, weight, bias))
