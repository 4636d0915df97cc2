"""Products: affine where one factor is constant; where both are perturbed, McCormick's planes and exact corners."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from flatlab.bounds.affine import Affine
from flatlab.bounds.errors import UnsupportedOperator
from flatlab.bounds.interval import Interval
from flatlab.bounds.nodes import LinearBounds, Ref, Site
from flatlab.bounds.pointwise import Pointwise
from flatlab.bounds.rows import Rows
from flatlab.bounds.rule import Bound
from flatlab.bounds.transposes import unbroadcast


class Bilinear(Affine):
    """A product of two arguments: affine in one of them if the other is constant, else relaxed by McCormick's planes.

    Args:
        corners: the interval of the product of two intervals; None if products of two perturbed values are refused.
        square: the rule for a value times itself.
        slots, back: as of `Affine`.
        exact_on_boxes: as of `Rule`.
    """

    kind = "bilinear"

    def __init__(
        self,
        *,
        corners: Callable[[Interval, Interval], tuple[Tensor, Tensor]] | None = None,
        square: Pointwise | None = None,
        slots: int = 2,
        back: Callable[[Site, Tensor, Sequence[Interval]], Bound | None] | None = None,
        exact_on_boxes: bool = False,
    ) -> None:
        super().__init__(product=True, slots=slots, back=back)
        self.corners, self.square, self.exact_on_boxes = corners, square, exact_on_boxes

    def check(self, site: Site) -> None:
        super().check(site)
        if self.corners is None and self.both(site):
            raise UnsupportedOperator(f"{site.node} is a product of two perturbed values, which has no rule here")

    def both(self, site: Site) -> bool:
        """Whether both factors are perturbed."""
        x, y = site.node.args[:2]
        return all(isinstance(arg, Ref) and arg.index in site.hot for arg in (x, y))

    def itself(self, site: Site) -> bool:
        """Whether it is the square of one value."""
        return self.square is not None and self.both(site) and len(site.hot) == 1

    def relaxes(self, site: Site) -> bool:
        return self.both(site)

    def needs(self, site: Site) -> bool:
        return self.both(site) or site.weight is not None

    def settled(self, site: Site) -> bool:
        return self.itself(site)

    def _factors(self, site: Site, x: Sequence[Any]) -> tuple[Any, Any]:
        by = dict(zip(site.hot, x, strict=True))
        return by[site.node.args[0].index], by[site.node.args[1].index]

    def _f(self, site: Site, x: Tensor, y: Tensor) -> Tensor:
        return site.node.op(x, y)  # type: ignore[misc]

    def interval(self, site: Site, x: Sequence[Interval]) -> Interval:
        if self.itself(site):
            return self.square.interval(site, x)  # type: ignore[union-attr]
        if not self.both(site):
            return super().interval(site, x)
        return Interval(*cast(Any, self.corners)(*self._factors(site, x)))

    def backward(self, site: Site, a: Tensor, x: Sequence[Interval], alpha: Tensor | None = None) -> Bound:
        if self.itself(site):
            return self.square.backward(site, a, x, alpha)  # type: ignore[union-attr]
        if not self.both(site):
            return super().backward(site, a, x)
        (p, q) = self._factors(site, x)
        up, down = a.clamp(min=0), a.clamp(max=0)
        if alpha is None:
            gx = self._pull(site, p, q.low, up, 0) + self._pull(site, p, q.high, down, 0)
            gy = self._pull(site, q, p.low, a, 1)
            bias = -site.dot(up, self._f(site, p.low, q.low)) - site.dot(down, self._f(site, p.low, q.high))
        else:  # a mixture of both planes on each side; elementwise products only
            r, s = alpha[0], alpha[1]
            r1, r0, s1, s0 = up * r, up * (1 - r), down * s, down * (1 - s)
            gx = self._pull(site, p, q.low, r1 + s0, 0) + self._pull(site, p, q.high, r0 + s1, 0)
            gy = self._pull(site, q, p.low, r1 + s1, 1) + self._pull(site, q, p.high, r0 + s0, 1)
            parts = ((r1, p.low, q.low), (r0, p.high, q.high), (s1, p.low, q.high), (s0, p.high, q.low))
            bias = -sum(site.dot(c, self._f(site, x, y)) for c, x, y in parts)
        if len(site.hot) == 1:
            return [gx + gy], bias
        first = site.hot.index(site.node.args[0].index)
        return ([gx, gy] if first == 0 else [gy, gx]), bias

    def _pull(self, site: Site, at: Interval, other: Tensor, a: Tensor, position: int) -> Tensor:
        """The transpose of the product with `other`, on every row."""
        if site.node.key == "mul":
            return unbroadcast(a * other, at.shape)
        zero = torch.zeros(at.shape, dtype=a.dtype, device=a.device)
        f = (lambda t: self._f(site, t, other)) if position == 0 else (lambda t: self._f(site, other, t))
        return torch.vmap(torch.func.vjp(f, zero)[1])(a)[0]

    def forward(self, site: Site, x: Sequence[Interval], lines: Sequence[LinearBounds]) -> LinearBounds:
        if self.itself(site):
            return self.square.forward(site, x, lines)  # type: ignore[union-attr]
        if not self.both(site):
            return super().forward(site, x, lines)
        p, q = self._factors(site, x)
        px, qx = self._factors(site, lines)
        low = [self._times(site, px, q.low, 0), self._times(site, qx, p.low, 1)]
        high = [self._times(site, px, q.high, 0), self._times(site, qx, p.low, 1)]
        lb = low[0].lb + low[1].lb - self._f(site, p.low, q.low)
        ub = high[0].ub + high[1].ub - self._f(site, p.low, q.high)
        return LinearBounds(low[0].lw + low[1].lw, lb, high[0].uw + high[1].uw, ub)

    def _times(self, site: Site, line: LinearBounds, other: Tensor, position: int) -> LinearBounds:
        """Linear bounds of the product of a bounded value and a constant."""
        f = lambda t, o: self._f(site, t, o) if position == 0 else self._f(site, o, t)  # noqa: E731
        plus, minus = other.clamp(min=0), other.clamp(max=0)
        rows = torch.vmap(lambda lo, hi: f(lo, plus) + f(hi, minus))
        ends = lambda lo, hi: f(lo, plus) + f(hi, minus)  # noqa: E731
        return LinearBounds(
            rows(line.lw, line.uw), ends(line.lb, line.ub), rows(line.uw, line.lw), ends(line.ub, line.lb)
        )

    def start(self, site: Site, x: Sequence[Interval]) -> Tensor | None:
        if self.itself(site):
            return self.square.start(site, x)  # type: ignore[union-attr]
        if not self.both(site) or site.node.key != "mul":
            return None
        shape = torch.broadcast_shapes(*(i.shape for i in x))
        return torch.ones((2, *shape), dtype=x[0].low.dtype, device=x[0].low.device)


class LinearLayer(Bilinear):
    """x W^T + b. Functions of it are combinations of rows of W, which spares a product with an identity matrix."""

    def merge(self, site: Site, rows: Rows, shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
        node = site.node
        plain = site.hot == (node.args[0].index,) and node.pre == 1 and shape[:-1] == (site.batch,)
        if not plain or site.parameters_move:
            return None
        return rows.through(site.argument(1), site.argument(2, "bias"), site.batch)


def product_corners(x: Interval, y: Interval) -> tuple[Tensor, Tensor]:
    """Exact interval of an elementwise product: the least and largest of four corners."""
    ends = torch.stack(torch.broadcast_tensors(x.low * y.low, x.low * y.high, x.high * y.low, x.high * y.high))
    return ends.amin(0), ends.amax(0)


def matmul_corners(x: Interval, y: Interval) -> tuple[Tensor, Tensor]:
    """Exact interval of a matrix product with independent entries: corners of each of the products that are summed."""
    m, k, n = x.shape[-2], x.shape[-1], y.shape[-1]
    lead = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2]).numel()
    step = max(1, (1 << 24) // max(1, lead * k * n))
    low, high = [], []
    for start in range(0, m, step):
        rows = Interval(*(t[..., start : start + step, :, None] for t in (x.low, x.high)))
        ends = product_corners(rows, Interval(y.low.unsqueeze(-3), y.high.unsqueeze(-3)))
        low.append(ends[0].sum(-2))
        high.append(ends[1].sum(-2))
    return torch.cat(low, -2), torch.cat(high, -2)
