"""One- and two-dimensional slices of a landscape (Goodfellow et al. 2015; Li et al. 2018).

    line:     t -> L(w + t d)                    surface:     (a, b) -> L(w + a d1 + b d2)

A straight path between two points w and v is the line with d = v - w over (0, 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flatlab import checks
from flatlab.flatness.landscape import Landscape

NORMALIZATIONS = ("peak", "center")


@dataclass(frozen=True)
class Line:
    """Values (n,) of a landscape at displacements t (n,) along a direction."""

    values: Tensor
    t: Tensor


@dataclass(frozen=True)
class Plane:
    """Values (n, m), or (N, n, m) for N planes, at displacements a (n,) along d1 and b (m,) along d2."""

    values: Tensor
    a: Tensor
    b: Tensor

    def normalized(self, how: str | None) -> "Plane":
        """The same plane relative to its own highest value ("peak": all <= 0) or to its middle ("center")."""
        if how is None:
            return self
        if checks.one_of("normalize", how, NORMALIZATIONS) == "peak":
            return replace(self, values=self.values - self.values.amax((-2, -1), keepdim=True))
        i, j = len(self.a) // 2, len(self.b) // 2
        return replace(self, values=self.values - self.values[..., i : i + 1, j : j + 1])


def loss_line(
    landscape: Landscape,
    direction: Tensor | Sequence[Tensor],
    span: float | tuple[float, float] = 1.0,
    *,
    n: int = 51,
) -> Line:
    """Values of the landscape along a line through its point.

    Args:
        direction: shaped like the landscape's point.
        span: (low, high), or r for (-r, r), in lengths of `direction`.
        n: number of values.
    """
    direction = _nonzero(landscape.direction(direction), "direction")
    landscape.home()
    t = _grid(span, n)
    return Line(torch.tensor([landscape.value(*landscape.displaced(direction, float(at))) for at in t]).to(t), t)


def loss_surface(
    landscape: Landscape,
    d1: Tensor | Sequence[Tensor],
    d2: Tensor | Sequence[Tensor],
    span: float | tuple[float, float] = 1.0,
    *,
    n: int = 21,
) -> Plane:
    """Values of the landscape on a square grid of a plane through its point: values[i, j] at a[i] d1 + b[j] d2.

    Args:
        d1, d2: shaped like the landscape's point, neither zero nor parallel.
        span: (low, high), or r for (-r, r), in lengths of d1 and d2.
        n: grid points per axis; an odd number puts the point itself into the middle of a symmetric span.
    """
    first, second = landscape.direction(d1), landscape.direction(d2)
    require_plane(torch.cat([d.flatten() for d in first])[None], torch.cat([d.flatten() for d in second])[None])
    landscape.home()
    t = _grid(span, n)
    rows = []
    for a in t:
        across = landscape.displaced(first, float(a))
        points = ([p + float(b) * d for p, d in zip(across, second, strict=True)] for b in t)
        rows.append([landscape.value(*point) for point in points])
    return Plane(torch.tensor(rows).to(t), t, t.clone())


def symmetric_grid(radius: float, n: int) -> Tensor:
    """n evenly spaced float64 numbers from -radius to radius; an odd n has an exact zero in the middle."""
    return torch.arange(1 - n, n, 2, dtype=torch.float64) * (radius / (n - 1))


def require_plane(d1: Tensor, d2: Tensor) -> None:
    """Raise ValueError unless each row of d1 (N, D) spans a plane with that of d2 (N, D)."""
    for name, d in (("d1", d1), ("d2", d2)):
        _finite(d, name)
        zero = d.abs().amax(1) == 0
        if zero.any():
            raise ValueError(f"direction {name} is zero{_at(zero)}: it spans no plane")
    one, two = (d.double() / d.double().norm(dim=1, keepdim=True) for d in (d1, d2))
    # The distance between unit vectors keeps its precision where their cosine is 1 to rounding.
    parallel = torch.minimum((one - two).norm(dim=1), (one + two).norm(dim=1)) < 1e-5
    if parallel.any():
        raise ValueError(f"directions d1 and d2 are parallel{_at(parallel)}: they span a line, not a plane")


def _at(bad: Tensor) -> str:
    return f" for batch index {int(bad.nonzero()[0])}" if len(bad) > 1 else ""


def _nonzero(direction: tuple[Tensor, ...], name: str) -> tuple[Tensor, ...]:
    for tensor in direction:
        _finite(tensor, name)
    if not any(tensor.any() for tensor in direction):
        raise ValueError(f"{name} is zero: it spans no line")
    return direction


def _finite(direction: Tensor, name: str) -> None:
    if not direction.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite coordinates")


def _grid(span: float | tuple[float, float], n: int) -> Tensor:
    checks.at_least("n", n, 2)
    if not isinstance(span, tuple):
        return symmetric_grid(checks.positive("span", span), n)
    low, high = span
    if not low < high:
        raise ValueError(f"span must be (low, high) with low < high, got {span}")
    return torch.linspace(low, high, n, dtype=torch.float64)
