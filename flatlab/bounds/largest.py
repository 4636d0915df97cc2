"""The largest of several values: its lines are those of one of them, or a constant."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flatlab.bounds.errors import UnsupportedOperator
from flatlab.bounds.interval import Interval
from flatlab.bounds.nodes import LinearBounds, Site
from flatlab.bounds.rule import Bound, Rule


class Largest(Rule):
    """z' = max of z along one dimension (argument 1, kept or not), of all or of those of a mask (argument 3)."""

    kind = "reduction"

    def settled(self, site: Site) -> bool:
        return True

    def check(self, site: Site) -> None:
        super().check(site)
        dims = site.argument(1, "dim", ())
        if not isinstance(dims, int) and len(dims) != 1:
            raise UnsupportedOperator(f"{site.node} has a rule for one dimension only: give it one after the other")

    def _where(self, site: Site, x: Interval) -> tuple[int, Tensor, Tensor, Tensor]:
        dims = site.argument(1, "dim")
        dim = dims[0] if isinstance(dims, list | tuple) else dims
        low, high = x.low, x.high
        if site.node.key == "masked_amax":
            low, high = (end.masked_fill(~site.argument(3), -torch.inf) for end in (low, high))
        best = low.argmax(dim, keepdim=True)
        rest = high.scatter(dim, best, -torch.inf).amax(dim, keepdim=True)
        chosen = torch.zeros_like(low).scatter_(dim, best, 1.0)
        return dim, chosen, low.gather(dim, best) >= rest, high.amax(dim, keepdim=True)

    def interval(self, site: Site, x: Sequence[Interval]) -> Interval:
        return Interval(site.apply(x[0].low), site.apply(x[0].high))

    def backward(self, site: Site, a: Tensor, x: Sequence[Interval], alpha: Tensor | None = None) -> Bound:
        dim, chosen, alone, top = self._where(site, x[0])
        dim = dim % x[0].low.ndim
        if not site.argument(2, "keepdim", False):
            a, flat = a.unsqueeze(dim + 1), top.squeeze(dim)
            open_ = (~alone).squeeze(dim)
        else:
            flat, open_ = top, ~alone
        down = a.clamp(max=0)
        shifted = down if site.argument(2, "keepdim", False) else down.squeeze(dim + 1)
        return [torch.where(alone, a, a.clamp(min=0)) * chosen], site.dot(shifted * open_, flat)

    def forward(self, site: Site, x: Sequence[Interval], lines: Sequence[LinearBounds]) -> LinearBounds:
        dim, chosen, alone, top = self._where(site, x[0])
        keep = site.argument(2, "keepdim", False)
        dim = dim % x[0].low.ndim
        pick = lambda t, d: (t * chosen).sum(d, keepdim=keep)  # noqa: E731
        alone, top = (alone, top) if keep else (alone.squeeze(dim), top.squeeze(dim))
        line = lines[0]
        return LinearBounds(
            pick(line.lw, dim + 1),
            pick(line.lb, dim),
            torch.where(alone, pick(line.uw, dim + 1), 0.0),
            torch.where(alone, pick(line.ub, dim), top),
        )


def masked_amax(x: Tensor, dim: list[int], keepdim: bool, keep: Tensor) -> Tensor:
    """The largest of what is kept."""
    return x.masked_fill(~keep, -torch.inf).amax(dim, keepdim)
