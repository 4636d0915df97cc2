"""The logarithm of a density over rows, up to a constant, and its gradient."""

from collections.abc import Callable

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]
"""Points (N, ...) -> the log of a density, not necessarily normalized, of each (N,): row i depends on point i alone."""


def starting_points(x: Tensor) -> Tensor:
    """Chains (N, ...) detached, or TypeError for integers and ValueError for none at all."""
    if not x.is_floating_point():
        raise TypeError(f"chains must be floating point, got {x.dtype}; convert with .float()")
    if x.ndim < 1 or not len(x):
        raise ValueError(f"chains must be (N, ...) with N >= 1, got shape {tuple(x.shape)}")
    return x.detach()


def value_and_gradient(f: LogDensity, x: Tensor) -> tuple[Tensor, Tensor]:
    """f (N,) and its gradient (N, ...) at x (N, ...), both detached, also where gradients are switched off around it.

    Raises:
        ValueError: f returns another shape, or something that does not depend on x.
    """
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        values = f(point)
        if values.shape != x.shape[:1]:
            raise ValueError(
                f"f must return one log density a chain, shape {tuple(x.shape[:1])}, got {tuple(values.shape)}"
            )
        if not values.requires_grad:
            raise ValueError(
                "f returned values without a gradient in x: take no_grad() and detach() out of it; "
                "to a density that is constant add 0 * x.flatten(1).sum(1)"
            )
        (gradient,) = torch.autograd.grad(values.sum(), point)
    return values.detach(), gradient


def per_chain(value: Tensor, x: Tensor) -> Tensor:
    """Reshape values (N,) so that they broadcast over the rows of x."""
    return value.reshape(-1, *[1] * (x.ndim - 1))
