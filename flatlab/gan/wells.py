"""Potentials of one variable with wells: does a ball with mass pass a narrow one, and where does it settle?

Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", section 3 and
figure 2, argue with a drawing that Adam overshoots a small local minimum and settles in a flat one. The paper gives no
function; these are ours:

    f(x) = k/2 (x - x0)^2 - sum_i A_i exp(-(x - c_i)^2 / (2 w_i^2))

`dip` is a wide valley with a narrow dip in its slope, `equal_wells` a sharp and a flat well of the same depth. The
surface `flatlab.test_functions.two_basins` asks another question: its sharp well is the deeper one.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from flatlab import checks


@dataclass(frozen=True)
class Wells:
    """Gaussian wells in a parabola; value, gradient and basins at many points at once.

    Attributes:
        stiffness, middle: k > 0 and x0 of the parabola.
        depths, places, widths: A_i, c_i and w_i, as many of each.
    """

    stiffness: float
    middle: float
    depths: tuple[float, ...]
    places: tuple[float, ...]
    widths: tuple[float, ...]

    def value(self, x: Tensor) -> Tensor:
        """f at the points x, with their shape."""
        return self.stiffness / 2 * (x - self.middle).square() - self._bumps(x)[0].sum(-1)

    def gradient(self, x: Tensor) -> Tensor:
        """f' at the points x, with their shape."""
        bump, offset, variance = self._bumps(x)
        return self.stiffness * (x - self.middle) + (bump * offset / variance).sum(-1)

    def curvature(self, x: Tensor) -> Tensor:
        """f'' at the points x, with their shape."""
        bump, offset, variance = self._bumps(x)
        return self.stiffness + (bump * (1 - offset.square() / variance) / variance).sum(-1)

    @cached_property
    def stationary(self) -> Tensor:
        """The stationary points in rising order, float64: minima at the even places, ridges between them."""
        low = min(self.middle, *self.places) - 1
        high = max(self.middle, *self.places) + 1  # outside the hull of the places the gradient has one sign
        line = torch.linspace(low, high, 20_001, dtype=torch.float64)
        rising = self.gradient(line) > 0
        turn = (rising[1:] != rising[:-1]).nonzero()[:, 0]
        left, right, side = line[turn], line[turn + 1], rising[turn]
        for _ in range(50):
            middle = (left + right) / 2
            before = (self.gradient(middle) > 0) == side
            left, right = middle.where(before, left), right.where(before, middle)
        return (left + right) / 2

    @property
    def minima(self) -> Tensor:
        """(K,) from left to right."""
        return self.stationary[::2]

    def basin(self, x: Tensor) -> Tensor:
        """Which of the minima 0..K-1 the gradient flow from x leads to, with the shape of x; int64."""
        return torch.searchsorted(self.stationary[1::2].contiguous(), x.double())

    def _bumps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        offset = x[..., None] - x.new_tensor(self.places)
        variance = x.new_tensor(self.widths).square()
        return x.new_tensor(self.depths) * (-offset.square() / (2 * variance)).exp(), offset, variance


def dip(depth: float = 0.15, width: float = 0.1) -> Wells:
    """f = 0.15 (x - 1.5)^2 with a dip at -0.5, which a ball from x = -3 meets on its way down to 1.5.

    The dip has about the curvature depth / width^2: a plain gradient step of rate lr is unstable there, and leaves for
    no reason of inertia, where lr depth / width^2 > 2. Below a depth of about width it is no minimum at all.

    Raises:
        ValueError: a number that is not > 0.
    """
    return Wells(0.3, 1.5, (checks.positive("depth", depth),), (-0.5,), (checks.positive("width", width),))


def equal_wells(sharp: float = 0.15, flat: float = 0.9) -> Wells:
    """A sharp well at -1.5 and a flat one at 1.5, whose minima have the same value, 0.5 below a shallow parabola.

    Args:
        sharp, flat: widths, 0 < sharp < flat <= 1. The curvatures at the minima are about 0.5 / width^2.

    Raises:
        ValueError: widths out of bounds.
    """
    if not 0 < sharp < flat <= 1:
        raise ValueError(f"widths must be 0 < sharp < flat <= 1, got {sharp!r} and {flat!r}; wider wells merge")
    depth = 0.5
    for _ in range(20):  # the tail of the flat well makes the sharp one deeper, and moves it a little
        wells = Wells(0.02, 0.0, (depth, 0.5), (-1.5, 1.5), (sharp, flat))
        left, right = wells.value(wells.minima).tolist()
        depth += left - right
    return wells
