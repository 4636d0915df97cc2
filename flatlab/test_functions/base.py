"""What every test surface is: a function of a few coordinates with its box, its known minima and its derivatives."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flatlab import checks


@dataclass(frozen=True, eq=False)
class Surface:
    """A function R^D -> R that is called on any number of points at once: `surface(x)` maps (..., D) to (...).

    Args:
        name: as in `flatlab.test_functions.make`.
        function: of points (..., D), each valued on its own and twice differentiable by torch.
        dims: D.
        box: (low, high), the range of every coordinate in which starts are drawn. Nothing keeps iterates in it.
        minima: the minima that are known in closed form, (K, D) in float64; there may be others.
        best: the row of `minima` that holds the global minimum.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    dims: int
    box: tuple[float, float]
    minima: Tensor
    best: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Values (...) at the points x (..., D).

        Raises:
            TypeError: points that are not floating point.
            ValueError: points of another dimension.
        """
        return self.function(self.points(x))

    def points(self, x: Tensor) -> Tensor:
        """The points x (..., D) themselves, checked."""
        if not x.is_floating_point():
            raise TypeError(f"points must be floating point, got {x.dtype}; convert with x.double()")
        if x.ndim == 0 or x.shape[-1] != self.dims:
            raise ValueError(f"points of {self.name} must have shape (..., {self.dims}), got {tuple(x.shape)}")
        return x

    @property
    def values(self) -> Tensor:
        """The values (K,) at `minima`."""
        return self(self.minima)

    @property
    def optimum(self) -> float:
        """The global minimum's value."""
        return float(self.values[self.best])

    def gradient(self, x: Tensor) -> Tensor:
        """The gradients (..., D) at the points x (..., D)."""
        with torch.enable_grad():
            leaf = self.points(x).detach().requires_grad_()
            return torch.autograd.grad(self.function(leaf).sum(), leaf)[0]

    def hessian(self, x: Tensor) -> Tensor:
        """The Hessians (..., D, D) at the points x (..., D)."""
        flat = self.points(x).detach().reshape(-1, self.dims)
        return torch.func.vmap(torch.func.jacrev(torch.func.jacrev(self.function)))(flat).reshape(*x.shape, self.dims)

    def top_curvature(self, x: Tensor) -> Tensor:
        """The largest eigenvalue (...) of the Hessian at the points x (..., D); nan where the Hessian is not finite."""
        hessian = self.hessian(x)
        finite = hessian.isfinite().all(dim=-1).all(dim=-1)
        top = torch.linalg.eigvalsh(hessian.where(finite[..., None, None], 0.0))[..., -1]
        return top.where(finite, torch.nan)

    def uniform_starts(self, count: int, *, generator: torch.Generator) -> Tensor:
        """`count` points drawn uniformly from the box, (count, D) in float64 on the generator's device."""
        shape = (checks.at_least("count", count, 1), self.dims)
        low, high = self.box
        draws = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
        return low + (high - low) * draws
