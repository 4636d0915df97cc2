"""Functions of one number: z' = f(z), elementwise, between two lines on the input's interval."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from flatlab.bounds import relax
from flatlab.bounds.errors import DomainError, UnsupportedOperator
from flatlab.bounds.interval import Interval
from flatlab.bounds.nodes import LinearBounds, Ref, Site
from flatlab.bounds.relax import Lines
from flatlab.bounds.rule import MANY_ROWS, Bound, Rule


class Pointwise(Rule):
    """z' = f(z), elementwise.

    Args:
        lines: (l, u, alpha, *parameters) -> slopes and intercepts, see `flatlab.bounds.relax`.
        f: needed for the interval of a monotone function.
        increasing: True, False, or None if `interval` is given.
        interval: (l, u, *parameters) -> ends.
        above: the domain is z > above; or (*parameters) -> above, or None where every z is in it.
        least: the domain is z >= least, likewise.
        free: whether `lines` uses alpha; `start` (l, u, lines) -> alpha (2, ...) to begin with, default 1/2.
        by_sign: whether the lines of an input whose sign is known are the function itself.
        refuse: (*parameters) -> why there is no rule with these parameters, or "".
    """

    kind = "pointwise"

    def __init__(
        self,
        lines: Callable[..., Lines],
        f: Callable[..., Tensor] | None = None,
        *,
        increasing: bool | None = None,
        interval: Callable[..., tuple[Tensor, Tensor]] | None = None,
        above: float | Callable[..., float | None] | None = None,
        least: float | Callable[..., float | None] | None = None,
        free: bool = True,
        start: Callable[..., Tensor] | None = None,
        by_sign: bool = False,
        refuse: Callable[..., str] = lambda *parameters: "",
    ) -> None:
        self.lines, self.f, self.increasing, self._interval = lines, f, increasing, interval
        self.limits = (above, torch.gt, ">"), (least, torch.ge, ">=")
        self.free, self.by_sign, self._start, self._refuse = free, by_sign, start, refuse

    def settled(self, site: Site) -> bool:
        return True

    def check(self, site: Site) -> None:
        super().check(site)
        others = site.node.args[1:]
        tensors = any(isinstance(leaf, Ref) for leaf in others)
        why = "they must be numbers" if tensors else self._refuse(*others, *site.node.kwargs.values())
        if why:
            raise UnsupportedOperator(f"{site.node} has no rule with its parameters: {why}")

    def _domain(self, site: Site, x: Interval) -> None:
        for limit, inside, sign in self.limits:
            least = limit(*self.parameters(site)) if callable(limit) else limit
            if least is not None and not bool(inside(x.low, least).all()):
                low = float(x.low.detach().min())
                raise DomainError(
                    f"{site.node} needs inputs {sign} {least:g}, but their lower bound is {low:g}: "
                    "make the perturbation smaller, use a tighter method, or add a constant in the model"
                )

    def _finite(self, site: Site, x: Interval, found: Sequence[Tensor | None]) -> None:
        """Raise where what is found of finite inputs is infinite, or not a number."""
        if self.by_sign or all(t is None or bool(t.isfinite().all()) for t in found):
            return
        low, high = float(x.low.detach().min()), float(x.high.detach().max())
        if math.isfinite(low) and math.isfinite(high):
            raise DomainError(
                f"{site.node} leaves the numbers of {x.low.dtype} for inputs in [{low:g}, {high:g}]: make the "
                "perturbation smaller, use a tighter method, or double precision"
            )

    def parameters(self, site: Site) -> tuple[Any, ...]:
        """The operator's further arguments."""
        return tuple(site.argument(i) for i in range(1, len(site.node.args))) + tuple(site.node.kwargs.values())

    def interval(self, site: Site, x: Sequence[Interval]) -> Interval:
        self._domain(site, x[0])
        if self._interval is not None:
            ends = self._interval(x[0].low, x[0].high, *self.parameters(site))
        else:
            ends = site.apply(x[0].low), site.apply(x[0].high)
            ends = ends if self.increasing else ends[::-1]
        self._finite(site, x[0], ends)
        return Interval(*ends)

    def relax(self, site: Site, x: Interval, alpha: Tensor | None = None) -> Lines:
        """The lines on an interval."""
        self._domain(site, x)
        if site.node.key == "relu":
            return relax.relu(x.low, x.high, alpha, site.relu)
        found = self.lines(x.low, x.high, alpha, *self.parameters(site))
        self._finite(site, x, found)
        return found

    def kept(self, site: Site, x: Interval) -> Lines:
        """The lines of an interval that the next pass will ask for again."""
        if site.lines is None or site.lines[0] is not x:
            site.lines = x, self.relax(site, x)
        return site.lines[1]

    def backward(self, site: Site, a: Tensor, x: Sequence[Interval], alpha: Tensor | None = None) -> Bound:
        al, bl, au, bu = self.kept(site, x[0]) if alpha is None else self.relax(site, x[0], alpha)
        if a.ndim == 5 and not a.is_contiguous():  # behind a convolution: lines in the memory order of its rows
            al, au = _in_row_order(al), _in_row_order(au)
            bl, bu = (None if t is None else _in_row_order(t) for t in (bl, bu))
        down = a.clamp(max=0)
        bias: Tensor | float = 0.0 if bl is None else site.dot(a, bl)
        if bu is not None:
            bias = bias + site.dot(down, bu if bl is None else bu - bl)
        elif bl is not None:
            bias = bias - site.dot(down, bl)
        return [torch.addcmul(a * al, down, au - al)], bias

    def forward(self, site: Site, x: Sequence[Interval], lines: Sequence[LinearBounds]) -> LinearBounds:
        al, bl, au, bu = self.relax(site, x[0])
        line = lines[0]
        low = _scaled(al, line)
        high = _scaled(au, line)
        return LinearBounds(low[0], low[1] + (0 if bl is None else bl), high[2], high[3] + (0 if bu is None else bu))

    def start(self, site: Site, x: Sequence[Interval]) -> Tensor | None:
        if not self.free:
            return None
        l, u = x[0].low, x[0].high
        if self._start is not None:
            return self._start(l, u, self.relax(site, x[0]), *self.parameters(site))
        return torch.full((2, *l.shape), 0.5, dtype=l.dtype, device=l.device)


def _in_row_order(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=MANY_ROWS) if t.ndim == 4 else t


def _scaled(k: Tensor, line: LinearBounds) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bounds of k z."""
    up = k >= 0
    low, high = (torch.where(up, line.lw, line.uw), torch.where(up, line.uw, line.lw))
    return k * low, k * torch.where(up, line.lb, line.ub), k * high, k * torch.where(up, line.ub, line.lb)
