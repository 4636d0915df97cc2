"""Softmax: exact intervals, and lines that follow from its logarithm (Wei et al. 2023, arXiv 2303.01713).

    p_k >= e^(x_k) / sum_j (chord of e^(x_j))     convex in x: its tangent lies below
    p_k <= a_k + c_k (x_k - LSE(x))               the chord of exp over the range of log p_k; concave in x: its tangent
                                                  lies above

Both Jacobians are a diagonal plus a product of two vectors, so that a backward pass costs no more than the softmax.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flatlab.bounds import relax
from flatlab.bounds.interval import Interval
from flatlab.bounds.kinds import Bound, Linear, Rule, Site


class Softmax(Rule):
    """Softmax along a dimension, argument 1."""

    kind = "reduction"

    def interval(self, site: Site, x: Sequence[Interval]) -> Interval:
        return Interval(*softmax_interval(x[0].low, x[0].high, self._dim(site, x[0])))

    def backward(self, site: Site, a: Tensor, x: Sequence[Interval], alpha: Tensor | None = None) -> Bound:
        dim = self._dim(site, x[0])
        up, down = a.clamp(min=0), a.clamp(max=0)
        scale, low, (diagonal, spread) = self._lower(x[0], dim, alpha)
        gradient = up * diagonal - (up * diagonal).sum(dim, keepdim=True) * spread
        c, high, share = self._upper(x[0], dim, alpha)
        gradient = gradient + down * c - (down * c).sum(dim, keepdim=True) * share
        return [gradient], site.total(up * (scale - low)) + site.total(down * high)

    def forward(self, site: Site, x: Sequence[Interval], lines: Sequence[Linear]) -> Linear:
        dim = self._dim(site, x[0])
        line = lines[0]
        scale, low, (diagonal, spread) = self._lower(x[0], dim, None)
        c, high, share = self._upper(x[0], dim, None)

        def below(own: Tensor, other: Tensor) -> Tensor:  # diagonal > 0, and so is each entry of what is subtracted
            mixed = (spread * other).sum(dim, keepdim=True) - spread * other
            return diagonal * ((1 - spread) * own - mixed)

        def above(own: Tensor, other: Tensor) -> Tensor:
            mixed = (share * other).sum(dim, keepdim=True) - share * other
            return c * ((1 - share) * own - mixed)

        return Linear(
            below(line.lw, line.uw),
            below(line.lb, line.ub) + scale - low,
            above(line.uw, line.lw),
            above(line.ub, line.lb) + high,
        )

    def start(self, site: Site, x: Sequence[Interval]) -> Tensor | None:
        return torch.full((2, *x[0].shape), 0.5, dtype=x[0].low.dtype, device=x[0].low.device)

    def _dim(self, site: Site, x: Interval) -> int:
        return site.argument(1, "dim") % len(x.shape) - len(x.shape)

    def _lower(self, x: Interval, dim: int, alpha: Tensor | None) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Value at the point of the tangent, <gradient, point>, and the gradient: diagonal and spread / sum."""
        top = x.high.detach().amax(dim, keepdim=True)
        l, u = x.low - top, x.high - top
        at = relax.between(l, u, alpha, 0)
        slope, constant = relax.chord(torch.exp, torch.exp, l, u)
        total = (slope * at + constant).sum(dim, keepdim=True).clamp(min=1e-30)
        value = at.exp() / total
        spread = slope / total
        point = at + top
        return value, value * (point - (spread * point).sum(dim, keepdim=True)), (value, spread)

    def _upper(self, x: Interval, dim: int, alpha: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """c, the constant of the tangent, and softmax at its point."""
        least, most = softmax_interval(x.low, x.high, dim)
        least, most = least.clamp(min=1e-30), most.clamp(min=1e-30)
        c, a = relax.chord(torch.exp, torch.exp, least.log(), most.log())
        at = relax.between(x.low, x.high, alpha, 1)
        share = at.softmax(dim)
        entropy = (share * at).sum(dim, keepdim=True) - at.logsumexp(dim, keepdim=True)
        return c, a + c * entropy, share


def softmax_interval(l: Tensor, u: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Each probability is least with its own logit low and the others high: 1 / (1 + sum of e^(u_j - l_k))."""

    def ends(own: Tensor, other: Tensor) -> Tensor:
        top = torch.maximum(own, other).amax(dim, keepdim=True).detach()
        mine, theirs = (own - top).exp(), (other - top).exp()
        total = theirs.sum(dim, keepdim=True) - theirs + mine
        return mine / total.clamp(min=1e-30)

    slack = 2 * torch.finfo(l.dtype).eps  # the difference of sums loses a digit
    low, high = ends(l, u), ends(u, l)
    return (low * (1 - slack) - slack).clamp(min=0), (high * (1 + slack) + slack).clamp(max=1)
