"""A flat and a sharp well side by side: does an optimizer that starts in the sharp one leave it?"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from flatlab import checks
from flatlab.test_functions.base import Surface


@dataclass(frozen=True, eq=False)
class TwoBasins(Surface):
    """A surface with minima (2, D) in a flat well, row 0, and in a sharp well, row 1; `sharpness` is as in the formula.

    The rows differ by sign: the flat well lies at negative coordinates.
    """

    sharpness: float = 100.0

    def sharp_starts(self, count: int, *, generator: torch.Generator) -> Tensor:
        """`count` points in the sharp well, 1 + N(0, 1) / (2 sqrt(sharpness)): (count, D) in float64."""
        shape = (checks.at_least("count", count, 1), self.dims)
        draws = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
        return 1 + 0.5 * self.sharpness**-0.5 * draws

    def escaped(self, x: Tensor) -> Tensor:
        """Whether the points x (..., D) lie on the flat well's side: mean(x) < 0, and finite. Shape (...)."""
        return (self.points(x).mean(dim=-1) < 0) & x.isfinite().all(dim=-1)


def two_basins(dims: int = 1, sharpness: float = 100.0) -> TwoBasins:
    """Two wells, flat at about -1 and of the given sharpness at about +1 in every coordinate, on [-3, 3]^D.

        f(x) = -exp(-|x + 1|^2 / 2D) - exp(-sharpness |x - 1|^2 / 2D) + 0.02 |x|^2 / D

    The function is ours. The sharp well is the deeper one, by about exp(-2) = 0.135, since the tail of the flat well
    adds to it: who escapes does not go downhill. At the minima the curvature along every axis is about 1 / D and
    sharpness / D.

    Args:
        dims: D.
        sharpness: of the well at +1, >= 3, so that the two wells stand apart.

    Raises:
        ValueError: a number out of bounds.
    """
    checks.at_least("dims", dims, 1)
    if checks.positive("sharpness", sharpness) < 3:
        raise ValueError(f"sharpness must be >= 3, got {sharpness!r}; flatter wells run into each other")
    function = partial(two_basins_value, sharpness=sharpness)
    minima = _on_the_diagonal(function).repeat(1, dims)
    return TwoBasins("two_basins", function, dims, (-3.0, 3.0), minima, best=1, sharpness=sharpness)


def two_basins_value(x: Tensor, *, sharpness: float | Tensor) -> Tensor:
    """f (...) of `two_basins` at the points x (..., D); `sharpness` may be one number for each point, (...)."""
    flat = -(-(x + 1).square().mean(dim=-1) / 2).exp()
    sharp = -(-sharpness * (x - 1).square().mean(dim=-1) / 2).exp()
    return flat + sharp + 0.02 * x.square().mean(dim=-1)


def _on_the_diagonal(function: partial[Tensor]) -> Tensor:
    """The two minima (2, 1) for D = 1, by Newton's method from -1 and 1; for any D they have equal coordinates."""
    line = Surface("line", function, 1, (-3.0, 3.0), torch.empty(0, 1))
    c = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    for _ in range(30):
        c = c - line.gradient(c) / line.hessian(c)[..., 0]
    return c
