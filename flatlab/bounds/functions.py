"""Functions of one number whose bounds follow from what is said of them in one entry: its shape, and where it bends.

    convex, concave    two lines as everywhere
    bends(...)         smooth but for these points: the second derivative changes its sign, or the first one jumps
    broken(...)        straight lines between these points, at which the function may jump
    stairs(...)        steps of height 1 that stay within a distance of the diagonal

Slopes are derivatives that forward differentiation finds.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab.bounds import relax
from flatlab.bounds.errors import DomainError
from flatlab.bounds.interval import Interval
from flatlab.bounds.nodes import Site
from flatlab.bounds.pointwise import Pointwise
from flatlab.bounds.relax import Lines


def slope(f: relax.Function) -> relax.Function:
    """The derivative of a function of one number."""
    return lambda z: torch.func.jvp(f, (z,), (torch.ones_like(z),))[1]


class Inside(Pointwise):
    """A function whose domain is not all that lies above a number.

    Args:
        lines, f: as of `Pointwise`; so are further options.
        inside: (low, high) -> which intervals lie in the domain.
        domain: its name.
    """

    def __init__(
        self,
        lines: Callable[..., Lines],
        f: relax.Function | None = None,
        *,
        inside: Callable[[Tensor, Tensor], Tensor],
        domain: str,
        increasing: bool | None = None,
        interval: Callable[..., tuple[Tensor, Tensor]] | None = None,
        free: bool = True,
    ) -> None:
        super().__init__(lines, f, increasing=increasing, interval=interval, free=free)
        self.inside, self.domain = inside, domain

    def _domain(self, site: Site, x: Interval) -> None:
        if not bool(self.inside(x.low, x.high).all()):
            raise DomainError(
                f"{site.node} needs inputs {self.domain}, but they may lie in [{float(x.low.min()):g}, "
                f"{float(x.high.max()):g}]: make the perturbation smaller, use a tighter method, or add a constant in "
                "the model"
            )


def mirrored(lines: Callable[..., Lines], *, odd: bool) -> Callable[..., Lines]:
    """Lines for positive intervals -> lines for those on either side of 0.

    Args:
        lines: (l, u, alpha) with l > 0.
        odd: f(-z) = -f(z); otherwise f(-z) = f(z).
    """

    def both(l: Tensor, u: Tensor, alpha: Tensor | None = None, *parameters: Any) -> Lines:
        left = u < 0
        al, bl, au, bu = lines(torch.where(left, -u, l), torch.where(left, -l, u), alpha, *parameters)
        zero = torch.zeros_like(l)
        bl, bu = (zero if b is None else b for b in (bl, bu))
        if not odd:
            return torch.where(left, -al, al), bl, torch.where(left, -au, au), bu
        return (
            torch.where(left, au, al),
            torch.where(left, -bu, bl),
            torch.where(left, al, au),
            torch.where(left, -bl, bu),
        )

    return both


def either_side(l: Tensor, u: Tensor) -> Tensor:
    """Which intervals leave 0 out."""
    return (l > 0) | (u < 0)


def smooth(f: Callable[..., Tensor], *points: float) -> Pointwise:
    """A function that is smooth, with a monotone derivative, between some points; further arguments are parameters."""

    def at(l: Tensor) -> list[Tensor]:
        return [torch.full_like(l, p) for p in points]

    def lines(l: Tensor, u: Tensor, alpha: Tensor | None, *parameters: Any) -> Lines:
        g = lambda z: f(z, *parameters)  # noqa: E731
        return relax.curved(g, slope(g), at)(l, u, alpha)

    def interval(l: Tensor, u: Tensor, *parameters: Any) -> tuple[Tensor, Tensor]:
        g = lambda z: f(z, *parameters)  # noqa: E731
        return relax.extent(g, slope(g), at(l), l, u)

    return Pointwise(lines, f, interval=interval, free=False)


def broken(
    f: Callable[..., Tensor], corners: Callable[..., tuple[float, ...]], *, increasing: bool | None = True
) -> Pointwise:
    """Straight lines between corners, at which the function may jump.

    Args:
        f: z and parameters -> values.
        corners: (*parameters) -> where they lie.
        increasing: whether it is monotone; None: its extremes lie at the corners and at both ends.
    """

    def around(l: Tensor, parameters: tuple[Any, ...]) -> list[Tensor]:
        at = [torch.full_like(l, c) for c in corners(*parameters)]
        return [p for c in at for p in (c.nextafter(c - 1), c, c.nextafter(c + 1))]

    def lines(l: Tensor, u: Tensor, alpha: Tensor | None, *parameters: Any) -> Lines:
        return relax.broken(lambda z: f(z, *parameters), around(l, parameters), l, u)

    def interval(l: Tensor, u: Tensor, *parameters: Any) -> tuple[Tensor, Tensor]:
        points = [l, *(torch.minimum(torch.maximum(p, l), u) for p in around(l, parameters)), u]
        values = torch.stack([f(p, *parameters) for p in points])
        return values.amin(0), values.amax(0)

    if increasing:
        return Pointwise(lines, f, increasing=True, free=False)
    return Pointwise(lines, interval=interval, free=False)


def stairs(f: relax.Function, below: float, above: float) -> Pointwise:
    """Steps of height 1: z + below <= f(z) <= z + above, and monotone."""

    def lines(l: Tensor, u: Tensor, alpha: Tensor | None) -> Lines:
        middle, low, high = (l + u) / 2, f(l), f(u)
        flat_below, flat_above = low >= middle + below, high <= middle + above
        return (
            (~flat_below).to(l), torch.where(flat_below, low, below),
            (~flat_above).to(l), torch.where(flat_above, high, above),
        )  # fmt: skip

    return Pointwise(lines, f, increasing=True, free=False)


def above(x: Tensor) -> Tensor:
    """1 where x > 0, else 0; NaN remains, so that samples can be followed."""
    return (x > 0).to(x.dtype).masked_fill(x.isnan(), torch.nan)


def at_least(x: Tensor) -> Tensor:
    """1 where x >= 0, else 0; NaN remains."""
    return (x >= 0).to(x.dtype).masked_fill(x.isnan(), torch.nan)


def huber(x: Tensor, delta: float) -> Tensor:
    """x^2 / 2 up to delta, a line of slope delta from there on."""
    return torch.where(x.abs() <= delta, x * x / 2, delta * (x.abs() - delta / 2))


def gelu_by_tanh(x: Tensor) -> Tensor:
    """The approximation of GELU by tanh."""
    return F.gelu(x, approximate="tanh")


def _celu_lines(l: Tensor, u: Tensor, alpha: Tensor | None, a: float = 1.0) -> Lines:
    return relax.convex(lambda z: F.celu(z, a), lambda z: (z.clamp(max=0) / a).exp())(l, u, alpha)


def _huber_lines(l: Tensor, u: Tensor, alpha: Tensor | None, delta: float) -> Lines:
    """Tangent below, whose intercept is exact, and chord above."""
    f, df = (lambda z: huber(z, delta)), (lambda z: z.clamp(-delta, delta))
    k = df(relax.between(l, u, alpha, 0))
    return relax.settle(f, l, u, (k, -k * k / 2, *relax.chord(f, df, l, u)))


def valley(f: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """The interval of a function that falls until 0 and then rises."""

    def interval(l: Tensor, u: Tensor, *parameters: Any) -> tuple[Tensor, Tensor]:
        a, b = f(l, *parameters), f(u, *parameters)
        bottom = torch.where((l < 0) & (u > 0), f(torch.zeros_like(l), *parameters), a)
        return torch.minimum(torch.minimum(a, b), bottom), torch.maximum(a, b)

    return interval


def _exponential(f: relax.Function, base: float) -> Pointwise:
    """Convex; no tangent touches where the base would be raised by more than e^2 over the lower end."""
    reach = 1.98 / math.log(base)
    return Pointwise(relax.convex(f, slope(f), lambda l, u: torch.minimum(u, l + reach)), f, increasing=True)


def _concave(f: relax.Function, **options: Any) -> Pointwise:
    return Pointwise(relax.concave(f, slope(f)), f, increasing=True, **options)


def _odd(f: relax.Function) -> Pointwise:
    """S-shaped, and f(-z) = -f(z)."""
    return Pointwise(relax.s_shaped(f, slope(f), lambda k, b: (k, -b)), f, increasing=True, start=tangent_start)


def tangent_start(l: Tensor, u: Tensor, lines: Lines, *parameters: Any) -> Tensor:
    """Tangent points of S-shaped functions: as far as they may go where the sign is open, else the middle.

    Args:
        l, u: (*shape) each.
        lines, parameters: without effect.
    """
    below = torch.where(u > 0, ((l + u) / 2 < 0) * 0.5 + 0.5, 0.5).to(l)
    above = torch.where(l < 0, ((l + u) / 2 > 0) * 0.5 + 0.5, 0.5).to(l)
    return torch.stack([torch.where(u > 0, 1.0, below), torch.where(l < 0, 1.0, above)]).to(l)


def _branch(z: Tensor) -> Tensor:
    """Which branch of the tangent a number lies on."""
    return torch.floor(z / math.pi + 0.5)


def _within_one(l: Tensor, u: Tensor) -> Tensor:
    return (l > -1) & (u < 1)


def _rising(f: relax.Function, bend: relax.Function, inside: Callable[[Tensor, Tensor], Tensor], domain: str) -> Inside:
    """Increasing, bent once."""
    lines = relax.curved(f, slope(f), lambda l: [bend(l)])
    return Inside(lines, f, increasing=True, free=False, inside=inside, domain=domain)


FUNCTIONS: dict[str, Pointwise] = {
    # bent once
    "expm1": _exponential(torch.expm1, math.e),
    "exp2": _exponential(torch.exp2, 2.0),
    "log1p": _concave(torch.log1p, above=-1.0),
    "log2": _concave(torch.log2, above=0.0),
    "log10": _concave(torch.log10, above=0.0),
    "log_sigmoid": _concave(F.logsigmoid),
    "celu": Pointwise(
        _celu_lines, F.celu, increasing=True, refuse=lambda a=1.0: "" if a > 0 else f"alpha must be > 0, got {a:g}",
    ),
    "huber": Pointwise(_huber_lines, interval=valley(huber)),
    # bent at 0, and odd
    "atan": _odd(torch.atan),
    "asinh": _odd(torch.asinh),
    "erf": _odd(torch.erf),
    # bent elsewhere, or with kinks
    "selu": smooth(F.selu, 0.0),
    "mish": smooth(F.mish, -2.2563763963607935, 1.4905711794854282),
    "gelu_by_tanh": smooth(gelu_by_tanh, -1.4185040087908285, 1.4185040087908285),
    "hardswish": smooth(F.hardswish, -3.0, 3.0),
    # of a part of the line
    "reciprocal": Inside(
        mirrored(relax.convex(torch.reciprocal, lambda z: -z.pow(-2)), odd=True), torch.reciprocal, increasing=False,
        inside=either_side, domain="> 0 or < 0",
    ),
    "tan": _rising(
        torch.tan, lambda l: _branch(l) * math.pi, lambda l, u: _branch(l) == _branch(u), "between two poles"
    ),
    "asin": _rising(torch.asin, torch.zeros_like, _within_one, "between -1 and 1"),
    "atanh": _rising(torch.atanh, torch.zeros_like, _within_one, "between -1 and 1"),
    # straight, with corners and jumps
    "above": broken(above, lambda: (0.0,)),
    "at_least": broken(at_least, lambda: (0.0,)),
    "softshrink": broken(F.softshrink, lambda a=0.5: (-a, a)),
    "hardshrink": broken(F.hardshrink, lambda a=0.5: (-a, a)),
    "threshold": broken(F.threshold, lambda at, value: (at,), increasing=None),
    "floor": stairs(torch.floor, -1.0, 0.0),
    "ceil": stairs(torch.ceil, 0.0, 1.0),
    "round": stairs(torch.round, -0.5, 0.5),
    "trunc": stairs(torch.trunc, -1.0, 1.0),
}  # fmt: skip
"""Name -> rule."""
