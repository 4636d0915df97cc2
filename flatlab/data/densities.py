"""Five densities of the plane that can be sampled and evaluated exactly: truth to hold an unnormalised model against.

    8gaussians     mean of 8 Gaussians N(c_k, s^2 I), c_k evenly on a circle
    rings          r ~ mean of 4 Gaussians N(R_k, s^2), the angle uniform:   p(x) = f(|x|) / (2 pi |x|)
    checkerboard   uniform on 8 of 16 squares
    moons          a uniform point of one of 2 half circles + N(0, s^2 I):   p(x) = integral over the angle
    pinwheel       w ~ N((R, 0), diag(s^2)), turned by t |w| + 2 pi k / 5:   p(x) = mean over k of N(x turned back)

The shapes are those on which flows and energies are usually shown (Grathwohl et al. 2019, "FFJORD"), made such that the
densities are known. The arms of the pinwheel turn by an angle that depends on the radius alone: a map that keeps areas,
so that the density is the Gaussian's at the point turned back. A radius of the rings that is drawn below 0 is a point
on the other side of the origin, hence f holds the mirrored Gaussians too. The integral over the half circles is a Gauss
sum of 128 points on each, right to 1e-9 of p within ten of the origin.

All lie in [-7, 7]^2 but for less than 1e-6 of their mass, with standard deviations of 1 to 1.8 a coordinate.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from flatlab import checks

CIRCLE, SPOT = 1.3986, 0.1748  # radius of the circle of eight Gaussians, their standard deviation
RADII, RING = (0.6, 1.2, 1.8, 2.4), 0.08
SIDE = 1.25  # of a square of the checkerboard: edges are exact in every dtype
MOON, BLUR = 2.0, 0.2  # radius of the half circles, standard deviation of the noise
ARM, SPREAD, TURN = 2.0, (0.6, 0.2), 0.5  # R, s along the arm and across, and t in radians per unit of length
ROWS = 1 << 14  # evaluated at a time


class _Law(NamedTuple):
    draw: Callable[[int, Generator], Tensor]
    log_prob: Callable[[Tensor], Tensor]
    entropy: float


@dataclass(frozen=True)
class Density:
    """A density p of the plane, by its name.

    Raises:
        ValueError: no such density; tells the nearest name.
    """

    name: str

    def __post_init__(self) -> None:
        checks.one_of("density", self.name, DENSITIES)

    @property
    def entropy(self) -> float:
        """-E log p(x) in nats: the lowest mean negative log-likelihood of a model. A sum over a grid, right to 1e-7."""
        return _LAWS[self.name].entropy

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        """Independent points (n, 2), float32, on the device of `generator`; without one on the CPU."""
        g = torch.default_generator if generator is None else generator
        return _LAWS[self.name].draw(checks.at_least("n", n, 1), g)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p (N,) at points x (N, 2), in nats and in the dtype of x; computed in float64, differentiable.

        Raises:
            TypeError: integers.
            ValueError: a shape other than (N, 2).
        """
        if not x.is_floating_point():
            raise TypeError(f"x must be floating point, got {x.dtype}; convert with x.float()")
        if x.ndim != 2 or x.shape[1] != 2:
            raise ValueError(f"x must hold points of the plane, of shape (N, 2), got {tuple(x.shape)}")
        return torch.cat([_LAWS[self.name].log_prob(rows.double()) for rows in x.split(ROWS)]).to(x.dtype)


def density(name: str) -> Density:
    """The density called `name`, one of `DENSITIES`; ValueError with the nearest name if there is none."""
    return Density(name)


def _polar(radius: Tensor | float, angle: Tensor) -> Tensor:
    """Points (..., 2)."""
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)


def _bells(x: Tensor, centers: Tensor, weights: Tensor, sd: float) -> Tensor:
    """log sum_k w_k N(x; c_k, sd^2 I) at (N, 2), of K centres (K, 2) with weights (K,)."""
    centers, weights = centers.to(x), weights.to(x)
    square = (x[:, :1] - centers[:, 0]).square() + (x[:, 1:] - centers[:, 1]).square()
    return (weights.log() - square / (2 * sd**2)).logsumexp(1) - math.log(2 * math.pi * sd**2)


def _circle() -> Tensor:
    return _polar(CIRCLE, torch.arange(8, dtype=torch.float64) * (math.pi / 4))


def _draw_gaussians(n: int, g: Generator) -> Tensor:
    index = torch.randint(8, (n,), generator=g, device=g.device)
    return _circle().float().to(g.device)[index] + SPOT * torch.randn(n, 2, generator=g, device=g.device)


def _log_gaussians(x: Tensor) -> Tensor:
    return _bells(x, _circle(), torch.full((8,), 1 / 8), SPOT)


def _draw_rings(n: int, g: Generator) -> Tensor:
    index = torch.randint(len(RADII), (n,), generator=g, device=g.device)
    radius = torch.tensor(RADII, device=g.device)[index] + RING * torch.randn(n, generator=g, device=g.device)
    return _polar(radius, 2 * math.pi * torch.rand(n, generator=g, device=g.device))


def _log_rings(x: Tensor) -> Tensor:
    radius = x.norm(dim=1).clamp(min=1e-6)  # the origin itself, where f / r has a pole of no mass, stays finite
    centers = torch.tensor([*RADII, *(-r for r in RADII)], dtype=x.dtype, device=x.device)
    bells = (-((radius[:, None] - centers).square()) / (2 * RING**2)).logsumexp(1)
    return bells - math.log(len(RADII) * RING * (2 * math.pi) ** 1.5) - radius.log()


def _draw_checkerboard(n: int, g: Generator) -> Tensor:
    column, half = (torch.randint(high, (n,), generator=g, device=g.device) for high in (4, 2))
    cell = torch.stack([column, 2 * half + column % 2], dim=1)
    # Centres of fine strips, so that rounding to float32 carries no point over an edge.
    strip = torch.randint(1 << 20, (n, 2), generator=g, device=g.device).double().add_(0.5) / (1 << 20)
    return ((cell - 2 + strip) * SIDE).float()


def _log_checkerboard(x: Tensor) -> Tensor:
    cell = (x / SIDE).floor() + 2
    inside = ((cell >= 0) & (cell < 4)).all(1) & (cell.sum(1) % 2 == 0)
    level = x.new_full((len(x),), -math.log(8 * SIDE**2)).masked_fill(~inside, -torch.inf)
    return level + 0 * x.clamp(-9, 9).sum(1)  # which has a gradient, of 0, and lets NaN stay NaN


def _moon(angle: Tensor, lower: Tensor) -> Tensor:
    """Points of the half circles, the lower one turned by half a circle; together they have their centre at 0."""
    side = torch.where(lower, -1.0, 1.0)[..., None].to(angle)
    return side * (_polar(MOON, angle) + angle.new_tensor([-MOON / 2, -MOON / 4]))


def _draw_moons(n: int, g: Generator) -> Tensor:
    lower = torch.randint(2, (n,), generator=g, device=g.device) == 1
    angle = math.pi * torch.rand(n, generator=g, device=g.device)
    return _moon(angle, lower) + BLUR * torch.randn(n, 2, generator=g, device=g.device)


@functools.cache
def _moon_sum() -> tuple[Tensor, Tensor]:
    """The points (256, 2) and the weights (256,) of the Gauss sum over both half circles."""
    nodes, weights = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(128))
    angle = (nodes + 1) * (math.pi / 2)
    points = torch.cat([_moon(angle, torch.full((128,), lower)) for lower in (False, True)])
    return points, torch.cat([weights, weights]) / 4


def _log_moons(x: Tensor) -> Tensor:
    return _bells(x, *_moon_sum(), BLUR)


def _turned(w: Tensor, angle: Tensor) -> Tensor:
    """Points (..., 2) turned by angles (...)."""
    u, v, cos, sin = w[..., 0], w[..., 1], angle.cos(), angle.sin()
    return torch.stack([cos * u - sin * v, sin * u + cos * v], dim=-1)


def _draw_pinwheel(n: int, g: Generator) -> Tensor:
    index = torch.randint(5, (n,), generator=g, device=g.device)
    w = torch.randn(n, 2, generator=g, device=g.device) * torch.tensor(SPREAD, device=g.device)
    w[:, 0] += ARM
    return _turned(w, TURN * w.norm(dim=1) + 2 * math.pi / 5 * index)


def _log_pinwheel(x: Tensor) -> Tensor:
    index = torch.arange(5, dtype=x.dtype, device=x.device)
    w = _turned(x[:, None], -TURN * x.norm(dim=1, keepdim=True) - 2 * math.pi / 5 * index)
    square = ((w[..., 0] - ARM) / SPREAD[0]).square() + (w[..., 1] / SPREAD[1]).square()
    return (-square / 2).logsumexp(1) - math.log(5 * 2 * math.pi * SPREAD[0] * SPREAD[1])


_LAWS = {
    "8gaussians": _Law(_draw_gaussians, _log_gaussians, 1.42280335),
    "rings": _Law(_draw_rings, _log_rings, 2.39744867),
    "checkerboard": _Law(_draw_checkerboard, _log_checkerboard, math.log(8 * SIDE**2)),
    "moons": _Law(_draw_moons, _log_moons, 2.39387920),
    "pinwheel": _Law(_draw_pinwheel, _log_pinwheel, 2.32058848),
}

DENSITIES = tuple(_LAWS)
"""Names that `density` takes."""
