"""The logarithm of a sum of exponentials: convex, so that tangents lie below it, and exact on intervals.

    LSE(x) >= LSE(m) + <softmax(m), x - m>
    LSE(x) <= t + log T(x) <= t + log T(m) + <s, x - m> / T(m)

where T(x) is the sum of the chords s_j x_j + c_j of e^(x_j - t), and t the largest upper end: no exponential overflows,
so that logits may be as wide as they like.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flatlab.bounds import relax
from flatlab.bounds.interval import Interval
from flatlab.bounds.nodes import LinearBounds, Site
from flatlab.bounds.rule import Bound, Rule


class LogSumExp(Rule):
    """logsumexp along some dimensions, argument 1, kept or not."""

    kind = "reduction"

    def interval(self, site: Site, x: Sequence[Interval]) -> Interval:
        return Interval(site.apply(x[0].low), site.apply(x[0].high))

    def backward(self, site: Site, a: Tensor, x: Sequence[Interval], alpha: Tensor | None = None) -> Bound:
        dims, kept = self._dims(site, x[0])
        if not kept:
            for dim in sorted(dim % len(x[0].shape) for dim in dims):
                a = a.unsqueeze(dim + 1)
        up, down = a.clamp(min=0), a.clamp(max=0)
        (p, low), (g, high) = self._lines(x[0], dims, alpha)
        return [up * p + down * g], site.total(up * low + down * high)

    def forward(self, site: Site, x: Sequence[Interval], lines: Sequence[LinearBounds]) -> LinearBounds:
        dims, kept = self._dims(site, x[0])
        line = lines[0]
        (p, low), (g, high) = self._lines(x[0], dims, None)  # neither slope is negative
        mix = lambda slope, t: (slope * t).sum(dims, keepdim=kept)  # noqa: E731
        low, high = (t if kept else t.squeeze(dims) for t in (low, high))
        return LinearBounds(mix(p, line.lw), mix(p, line.lb) + low, mix(g, line.uw), mix(g, line.ub) + high)

    def start(self, site: Site, x: Sequence[Interval]) -> Tensor | None:
        return torch.full((2, *x[0].shape), 0.5, dtype=x[0].low.dtype, device=x[0].low.device)

    def _dims(self, site: Site, x: Interval) -> tuple[tuple[int, ...], bool]:
        """The dimensions, counted from the last, and whether they are kept."""
        dims = site.argument(1, "dim")
        dims = [dims] if isinstance(dims, int) else dims
        return tuple(dim % len(x.shape) - len(x.shape) for dim in dims), bool(site.argument(2, "keepdim", False))

    def _lines(
        self, x: Interval, dims: tuple[int, ...], alpha: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Slope and constant, with the dimensions kept, of the lower line and of the upper one."""
        at = relax.between(x.low, x.high, alpha, 0)
        total = at.logsumexp(dims, keepdim=True)
        p = (at - total).exp()
        low = total - (p * at).sum(dims, keepdim=True)
        top = x.high.detach().amax(dims, keepdim=True)
        l, u = x.low - top, x.high - top
        s, c = relax.chord(torch.exp, torch.exp, l, u)
        at = relax.between(l if alpha is None else l + (u - l) / 64, u, alpha, 1)
        chords = (s * at + c).sum(dims, keepdim=True)  # >= 1/64 at the largest end
        g = s / chords
        return (p, low), (g, chords.log() + top - (g * (at + top)).sum(dims, keepdim=True))
