"""Two lines around a function on an interval: al z + bl <= f(z) <= au z + bu for all z in [l, u].

Each builder returns a function (l, u, alpha) -> (al, bl, au, bu), all of the shape of l. `alpha`, (2, ..., *l.shape)
in [0, 1], moves what is free in the lower (alpha[0]) and in the upper line (alpha[1]), such as where a tangent touches;
None stands for the default. Throughout, l and u are the ends of intervals, and f and df a function and its derivative.
Formulas: Xu et al. 2020 (arXiv 2002.12920), and Zhang et al. 2018 (arXiv 1811.00866).

Where the two ends nearly meet, a chord has no digits left: the slope is then the derivative, and every line is moved by
what it misses at the ends. In float32 the lines hold up to rounding, about 1e-6 of the values.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

Lines = tuple[Tensor, Tensor | None, Tensor, Tensor | None]
"""Slope and intercept of the lower line, slope and intercept of the upper one; an intercept of None is 0."""

Function = Callable[[Tensor], Tensor]


def tiny(l: Tensor) -> float:
    """Below this relative width an interval counts as a point."""
    return 1e-5 if l.dtype == torch.float32 else 1e-9


def chord(f: Function, df: Function, l: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The line through both ends of f on [l, u].

    Args:
        f, df: the function, and its derivative, which is the slope where the ends nearly meet.
        l, u: (*shape) each.

    Returns:
        Slope and intercept, (*shape) each.
    """
    width = u - l
    flat = width <= tiny(l) * (1 + l.abs())
    slope = torch.where(flat, df((l + u) / 2), (f(u) - f(l)) / width.masked_fill(flat, 1.0))
    return slope, f(l) - slope * l


def tangent(f: Function, df: Function, at: Tensor) -> tuple[Tensor, Tensor]:
    """The line that touches f at a point.

    Args:
        f, df: the function and its derivative.
        at: the points (*shape).

    Returns:
        Slope and intercept, (*shape) each.
    """
    slope = df(at)
    return slope, f(at) - slope * at


def settle(f: Function, l: Tensor, u: Tensor, lines: tuple[Tensor, Tensor, Tensor, Tensor]) -> Lines:
    """Move each line by what it misses at the two ends.

    Args:
        f: the function between the lines.
        l, u: (*shape) each.
        lines: slope and intercept of the lower line, and those of the upper one.
    """
    al, bl, au, bu = lines
    low = torch.minimum(f(l) - al * l - bl, f(u) - al * u - bl).clamp(max=0)
    high = torch.maximum(f(l) - au * l - bu, f(u) - au * u - bu).clamp(min=0)
    return al, bl + low, au, bu + high


def between(l: Tensor, u: Tensor, alpha: Tensor | None, row: int) -> Tensor:
    """The point l + alpha (u - l), by default the middle.

    Args:
        l, u: (*shape) each.
        alpha: (2, ..., *shape) in [0, 1], or None.
        row: which of the two to take, 0 for the lower line and 1 for the upper one.
    """
    return (l + u) / 2 if alpha is None else l + (u - l) * alpha[row]


def convex(f: Function, df: Function, reach: Callable[[Tensor, Tensor], Tensor] | None = None) -> Callable[..., Lines]:
    """Tangent below, chord above.

    Args:
        f, df: the function and its derivative.
        reach: (l, u) -> the largest point where the tangent may touch; None for u.
    """

    def lines(l: Tensor, u: Tensor, alpha: Tensor | None = None) -> Lines:
        end = u if reach is None else reach(l, u)
        return settle(f, l, u, (*tangent(f, df, between(l, end, alpha, 0)), *chord(f, df, l, u)))

    return lines


def concave(f: Function, df: Function, reach: Callable[[Tensor, Tensor], Tensor] | None = None) -> Callable[..., Lines]:
    """Chord below, tangent above.

    Args:
        f, df: the function and its derivative.
        reach: (l, u) -> the least point where the tangent may touch; None for l.
    """

    def lines(l: Tensor, u: Tensor, alpha: Tensor | None = None) -> Lines:
        at = between(l, u, alpha, 1)
        at = at if reach is None else torch.maximum(at, reach(l, u))
        return settle(f, l, u, (*chord(f, df, l, u), *tangent(f, df, at)))

    return lines


def s_shaped(f: Function, df: Function, odd: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable[..., Lines]:
    """Increasing, convex left of 0 and concave right of it, such as tanh and the sigmoid.

    Args:
        f, df: the function and its derivative.
        odd: maps the line (slope, intercept) below f on [-u, -l] to the one above f on [l, u].
    """

    def lower(l: Tensor, u: Tensor, alpha: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.no_grad():  # the tangent point from which the line reaches (u, f(u)), by bisection
            left, right = -3 * u.clamp(min=0) - 2, torch.zeros_like(u)
            for _ in range(22):
                middle = (left + right) / 2
                below = df(middle) * (u - middle) + f(middle) <= f(u)
                left, right = torch.where(below, middle, left), torch.where(below, right, middle)
            point = torch.where(u > 0, left, u)
        slope, intercept = chord(f, df, l, u)
        end = torch.maximum(torch.minimum(point, u), l)
        if alpha is None:
            at = torch.where(u > 0, torch.minimum(end, torch.maximum((l + u) / 2, l)), (l + u) / 2)
        else:
            at = l + (end - l) * alpha
        a, b = tangent(f, df, at)
        straight = point <= l
        return torch.where(straight, slope, a), torch.where(straight, intercept, b)

    def lines(l: Tensor, u: Tensor, alpha: Tensor | None = None) -> Lines:
        below = lower(l, u, None if alpha is None else alpha[0])
        above = odd(*lower(-u, -l, None if alpha is None else alpha[1]))
        return settle(f, l, u, (*below, *above))

    return lines


def curved(f: Function, df: Function, bends: Callable[[Tensor], Sequence[Tensor]]) -> Callable[..., Lines]:
    """Any function whose derivative is monotone between neighbouring `bends(l)`, its inflection points and kinks.

    Of the slopes of the chord and of the tangents at both ends and in the middle, each side takes the one whose best
    line passes closest to f in the middle. The best line of a slope follows from the extrema of f(z) - slope z.

    Args:
        f, df: the function and its derivative.
        bends: left ends (*shape) -> the inflection points and kinks from there on, (*shape) each.
    """

    def lines(l: Tensor, u: Tensor, alpha: Tensor | None = None) -> Lines:
        middle = (l + u) / 2
        slopes = [chord(f, df, l, u)[0], df(middle), df(l), df(u)]
        best: list[Tensor | None] = [None, None, None, None]
        for slope in slopes:
            low, high = extent(f, df, bends(l), l, u, slope)
            for side, b, better in ((0, low, torch.gt), (2, high, torch.lt)):
                if best[side] is None:
                    best[side], best[side + 1] = slope, b
                    continue
                take = better(slope * middle + b, best[side] * middle + best[side + 1])  # type: ignore[operator]
                best[side] = torch.where(take, slope, best[side])  # type: ignore[arg-type]
                best[side + 1] = torch.where(take, b, best[side + 1])  # type: ignore[arg-type]
        return settle(f, l, u, tuple(best))  # type: ignore[arg-type]

    return lines


def extent(
    f: Function, df: Function, bends: Sequence[Tensor], l: Tensor, u: Tensor, slope: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """The least and the largest value of f(z) - slope z on [l, u], where df is monotone between neighbouring bends.

    Args:
        f, df: the function and its derivative.
        bends: inflection points, (*shape) each, in order; they are clipped to [l, u].
        l, u: (*shape) each.
        slope: (*shape), or one number.
    """
    ends = [l, *(torch.minimum(torch.maximum(b.to(l), l), u) for b in bends), u]
    points = list(ends)
    for a, b in pairwise(ends):
        with torch.no_grad():
            left, right = torch.zeros_like(a), torch.ones_like(a)
            rising = df(b.nextafter(a)) > df(a.nextafter(b))  # at a kink, on the side that is meant
            for _ in range(26):
                middle = (left + right) / 2
                up = (df(a + (b - a) * middle) > slope) == rising
                left, right = torch.where(up, left, middle), torch.where(up, middle, right)
        points.append(a + (b - a) * ((left + right) / 2))  # it moves with the ends, where these are all there is
    values = torch.stack([f(p) - slope * p for p in points])
    slack = 4 * torch.finfo(l.dtype).eps * (1 + values.detach().abs().amax(0))
    return values.amin(0) - slack, values.amax(0) + slack


def relu(l: Tensor, u: Tensor, alpha: Tensor | None = None, slope: str = "adaptive") -> Lines:
    """Below: slope alpha through 0 where the sign is open; above: the chord.

    Args:
        l, u: (*shape) each.
        alpha: the lower slope, (1, ..., *shape) in [0, 1]; None for that of `slope`.
        slope: a name in `SLOPES`.
    """
    on, off = l >= 0, u <= 0
    open_ = ~(on | off)
    top = torch.where(open_, u, torch.ones_like(u))
    au = torch.where(open_, top / torch.where(open_, u - l, torch.ones_like(u)), on.to(u))
    bu = torch.where(open_, -au * l, torch.zeros_like(u))
    free = SLOPES[slope](l, u, au) if alpha is None else alpha[0]
    return torch.where(open_, free, on.to(u)), None, au, bu


SLOPES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "adaptive": lambda l, u, k: (u > -l).to(u),
    "reversed-adaptive": lambda l, u, k: (u <= -l).to(u),
    "same-slope": lambda l, u, k: k,
    "zero-lb": lambda l, u, k: torch.zeros_like(u),
    "one-lb": lambda l, u, k: torch.ones_like(u),
}
"""The slope of the lower line of a ReLU whose sign is open, by the names of auto_LiRPA; adaptive minimises the area."""


def leaky_relu(l: Tensor, u: Tensor, alpha: Tensor | None, a: float) -> Lines:
    """As `relu`, with slope a left of 0: the chord above, a line through 0 below; mirrored if a > 1.

    Args:
        l, u: (*shape) each.
        alpha: where the free slope lies between a and 1, (2, ..., *shape) in [0, 1]; None for the nearer one.
        a: >= 0.
    """
    on, off = l >= 0, u <= 0
    one = torch.ones_like(u)
    straight = torch.where(on, one, one * a)
    f = lambda z: torch.where(z > 0, z, a * z)  # noqa: E731
    width = torch.where(on | off, one, u - l)
    k, b = (f(u) - f(l)) / width, (a - 1) * l * u / width  # not f(u) - k u, which loses digits
    low, high = min(a, 1.0), max(a, 1.0)
    free = (k > (1 + a) / 2).to(u) * (high - low) + low if alpha is None else low + (high - low) * alpha[int(a > 1)]
    open_ = ~(on | off)
    line, cut = torch.where(open_, free, straight), torch.where(open_, k, straight)
    b = torch.where(open_, b, torch.zeros_like(b))
    return (line, None, cut, b) if a <= 1 else (cut, b, line, None)


def absolute(l: Tensor, u: Tensor, alpha: Tensor | None = None) -> Lines:
    """|z|: the chord above; below, a line through 0, by default parallel to the chord.

    Args:
        l, u: (*shape) each.
        alpha: the slope below is 2 alpha[0] - 1, (2, ..., *shape) in [0, 1].
    """
    on, off = l >= 0, u <= 0
    sign = torch.where(on, 1.0, -1.0).to(u)
    width = torch.where(on | off, torch.ones_like(u), u - l)
    k = (u.abs() - l.abs()) / width
    open_ = ~(on | off)
    free = k if alpha is None else 2 * alpha[0] - 1
    au = torch.where(open_, k, sign)
    return torch.where(open_, free, sign), None, au, torch.where(open_, -2 * l * u / width, torch.zeros_like(u))


def clamp(l: Tensor, u: Tensor, alpha: Tensor | None, low: float | None, high: float | None) -> Lines:
    """min(max(z, low), high), as `broken`.

    Args:
        l, u: (*shape) each.
        alpha: without effect.
        low, high: the range, or None for no limit on that side.
    """
    corners = [torch.full_like(l, c) for c in (low, high) if c is not None]
    return broken(lambda z: z.clamp(low, high), corners, l, u, slopes=(0.0, 1.0))


def broken(f: Function, corners: Sequence[Tensor], l: Tensor, u: Tensor, slopes: Sequence[float] = (0.0,)) -> Lines:
    """Straight lines between corners: of the lines through two of its points, and of given slopes, the closest.

    Args:
        f: the function.
        corners: (*shape) each, in order; both sides of a jump are corners of their own.
        l, u: (*shape) each.
        slopes: that are tried besides.
    """
    points = [l, *(c.maximum(l).minimum(u) for c in corners), u]
    values = torch.stack([f(p) for p in points])
    place, middle = torch.stack(points), (l + u) / 2
    tried = [torch.full_like(l, slope) for slope in slopes]
    for one in range(len(points) - 1):
        for other in range(one + 1, len(points)):
            gap = points[other] - points[one]
            near = gap <= tiny(l) * (1 + points[one].abs())
            tried.append(torch.where(near, 0.0, (values[other] - values[one]) / gap.masked_fill(near, 1.0)))
    table = torch.stack(tried)
    least = (values - table[:, None] * place).amin(1)
    most = (values - table[:, None] * place).amax(1)
    below = (table * middle + least).argmax(0, keepdim=True)
    above = (table * middle + most).argmin(0, keepdim=True)
    pick = lambda t, index: t.gather(0, index)[0]  # noqa: E731
    return pick(table, below), pick(least, below), pick(table, above), pick(most, above)
