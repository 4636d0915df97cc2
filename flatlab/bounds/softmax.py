"""Softmax: exact intervals, and lines that follow from its logarithm (Wei et al. 2023, arXiv 2303.01713).

    p_k >= e^(x_k) / sum_j (chord of e^(x_j))     convex in x: its tangent lies below
    p_k <= a_k + c_k (x_k - LSE(x))               the chord of exp over the range of log p_k; concave in x: its tangent
                                                  lies above

Both Jacobians are a diagonal plus a product of two vectors, so that a backward pass costs no more than the softmax.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab.bounds import relax
from flatlab.bounds.errors import UnsupportedOperator
from flatlab.bounds.interval import Interval
from flatlab.bounds.nodes import LinearBounds, Site
from flatlab.bounds.rule import Bound, Rule


class Softmax(Rule):
    """Softmax along a dimension, argument 1."""

    kind = "reduction"

    def check(self, site: Site) -> None:
        super().check(site)
        if site.node.key != "masked_softmax" and any(site.node.args[2:]):
            raise UnsupportedOperator(f"{site.node} has no rule with a type of its own for the result: convert before")

    def interval(self, site: Site, x: Sequence[Interval]) -> Interval:
        logs = log_softmax_interval(*self._kept(site, x[0]), self._dim(site, x[0]))
        slack = 4 * torch.finfo(logs[0].dtype).eps
        low, high = (t.exp() for t in logs)
        return Interval(low * (1 - slack), (high * (1 + slack)).clamp(max=1))

    def backward(self, site: Site, a: Tensor, x: Sequence[Interval], alpha: Tensor | None = None) -> Bound:
        dim, ends = self._dim(site, x[0]), self._kept(site, x[0])
        up, down = a.clamp(min=0), a.clamp(max=0)
        scale, low, (diagonal, spread) = self._lower(*ends, dim, alpha)
        gradient = up * diagonal - (up * diagonal).sum(dim, keepdim=True) * spread
        c, high, share = self._upper(*ends, dim, alpha)
        gradient = gradient + down * c - (down * c).sum(dim, keepdim=True) * share
        return [gradient], site.total(up * (scale - low)) + site.total(down * high)

    def forward(self, site: Site, x: Sequence[Interval], lines: Sequence[LinearBounds]) -> LinearBounds:
        dim, ends = self._dim(site, x[0]), self._kept(site, x[0])
        line = lines[0]
        scale, low, (diagonal, spread) = self._lower(*ends, dim, None)
        c, high, share = self._upper(*ends, dim, None)

        def below(own: Tensor, other: Tensor) -> Tensor:  # diagonal > 0, and so is each entry of what is subtracted
            mixed = (spread * other).sum(dim, keepdim=True) - spread * other
            return diagonal * ((1 - spread) * own - mixed)

        def above(own: Tensor, other: Tensor) -> Tensor:
            mixed = (share * other).sum(dim, keepdim=True) - share * other
            return c * ((1 - share) * own - mixed)

        return LinearBounds(
            below(line.lw, line.uw),
            below(line.lb, line.ub) + scale - low,
            above(line.uw, line.lw),
            above(line.ub, line.lb) + high,
        )

    def start(self, site: Site, x: Sequence[Interval]) -> Tensor | None:
        return torch.full((2, *x[0].shape), 0.5, dtype=x[0].low.dtype, device=x[0].low.device)

    def _dim(self, site: Site, x: Interval) -> int:
        return site.argument(1, "dim") % len(x.shape) - len(x.shape)

    def _kept(self, site: Site, x: Interval) -> tuple[Tensor, Tensor]:
        """Ends of the logits; where a mask, or another logit, leaves nothing, a number to which they count 0."""
        dim, low, high = self._dim(site, x), x.low, x.high
        if site.node.key == "masked_softmax":
            low, high = (end.masked_fill(~site.argument(2), -torch.inf) for end in (low, high))
        least = low.detach().amax(dim, keepdim=True) - FAR
        none = high < least
        return torch.where(none, least, low), torch.where(none, least, high)

    def _lower(
        self, low: Tensor, high: Tensor, dim: int, alpha: Tensor | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Value at the point of the tangent, <gradient, point>, and the gradient: diagonal and spread / sum."""
        top = high.detach().amax(dim, keepdim=True)
        l, u = low - top, high - top
        at = relax.between(l, u, alpha, 0)
        slope, constant = relax.chord(torch.exp, torch.exp, l, u)
        total = (slope * at + constant).sum(dim, keepdim=True).clamp(min=1e-30)
        value = at.exp() / total
        spread = slope / total
        point = at + top
        return value, value * (point - (spread * point).sum(dim, keepdim=True)), (value, spread)

    def _upper(self, low: Tensor, high: Tensor, dim: int, alpha: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """c, the constant of the tangent, and softmax at its point."""
        c, a = relax.chord(torch.exp, torch.exp, *log_softmax_interval(low, high, dim))
        at = relax.between(low, high, alpha, 1)
        share = at.softmax(dim)
        entropy = (share * at).sum(dim, keepdim=True) - at.logsumexp(dim, keepdim=True)
        return c, a + c * entropy, share


FAR = 1000.0
"""A logit that is lower than another by so much has no share: e^-1000 is 0 in double precision as well."""


def log_softmax_interval(l: Tensor, u: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Each log probability is least with its own logit low and the others high, and largest the other way round.

    It is -log(1 + e^(rest - own)), with the logarithm of the others' sum from what is left of the whole sum without
    the own part; but where the own part is the largest of it, the others are summed anew, since no digit would be left.

    Args:
        l, u: ends of the logits' intervals, (*shape) each.
        dim: the dimension of the classes.
    """

    def end(own: Tensor, other: Tensor) -> Tensor:
        top, best = other.max(dim, keepdim=True)
        top = top.detach()
        parts = (other - top).exp()
        others = parts.sum(dim, keepdim=True) - parts
        rest = (others + (1 - others.detach()).clamp(min=0)).log()  # only rounding makes them less than 1, with a slope
        largest = torch.zeros_like(own, dtype=torch.bool).scatter_(dim, best, True)
        without = (other - top).masked_fill(largest, -torch.inf).logsumexp(dim, keepdim=True)
        return F.logsigmoid(own - top - torch.where(largest, without, rest))

    return end(l, u), end(u, l)
