"""Affine operators: z' = J z + c, whose transpose autograd gives, so that no code per operator is needed."""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from flatlab.bounds import weights
from flatlab.bounds.errors import UnsupportedOperator
from flatlab.bounds.interval import Ball, Interval
from flatlab.bounds.interval_linear import interval_linear, temporary_abs
from flatlab.bounds.nodes import LinearBounds, Ref, Site
from flatlab.bounds.rule import Bound, Rule
from flatlab.bounds.transposes import TRANSPOSES

BIASED = (
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
)  # fmt: skip
"""Operators whose argument 2 is a bias."""


class Affine(Rule):
    """z' = J z + c.

    Args:
        nonneg: no coefficient of J is negative: ends map to ends.
        shape: moreover, J only moves numbers about, without a constant.
        once: moreover, none of them appears twice.
        places: J only moves numbers about, but there may be constants between them.
        product: J is the constant one of the two first arguments, as in a matrix product, so that |J| is its absolute
            value; argument 2, if any, is a bias.
        back: a faster backward pass than the general one, or None where it does not apply.
    """

    kind = "affine"

    def __init__(
        self,
        *,
        nonneg: bool = False,
        shape: bool = False,
        once: bool = False,
        places: bool = False,
        product: bool = False,
        slots: int = 1,
        back: Callable[[Site, Tensor, Sequence[Interval]], Bound | None] | None = None,
    ) -> None:
        self.shape, self.once, self.product, self.slots, self._back = shape or once, once, product, slots, back
        self.places, self.nonneg = places, nonneg or places or self.shape

    def relaxes(self, site: Site) -> bool:
        return False

    def needs(self, site: Site) -> bool:
        return False

    def check(self, site: Site) -> None:
        super().check(site)
        options = {k: v for k, v in site.node.kwargs.items() if k not in ("memory_format", "implicit")}
        if options.pop("dtype", torch.float).is_floating_point is False or options:
            raise UnsupportedOperator(f"{site.node} has no rule with the options {site.node.kwargs}")

    def interval(self, site: Site, x: Sequence[Interval]) -> Interval:
        if self.nonneg:
            ball = self._ball(site, x[0].ball) if len(x) == 1 and x[0].ball is not None else None
            if x[0]._low is None and len(x) == 1 and (self.shape or self._moves(site)):
                center = site.apply(x[0].center)
                if self.shape or center.shape == x[0].shape:
                    radius = site.apply(x[0].radius) if self.shape else x[0].radius
                    return Interval(center=center, radius=radius, ball=ball)
            low, high = site.apply(*(i.low for i in x)), site.apply(*(i.high for i in x))
            return Interval(low, high, ball=ball)
        return self._product(site, x)

    def _ball(self, site: Site, ball: Ball) -> Ball | None:
        """An Lp ball around what an Lp ball becomes, or None: it is kept by shifts and by what moves or copies numbers.

        A number that appears n times is as far from its centre in all n places: n^(1/p) times its scale is room for it.
        """
        center = site.apply(ball.center)
        if site.node.pre != 1 or center.shape[:1] != (site.batch,):
            return None
        if self.places or self.shape:
            scale = ball.scale.expand_as(ball.center)
            if not self.once:
                copies = torch.func.vjp(site.apply, scale)[1](torch.ones_like(center))[0]
                scale = scale * copies ** (1 / ball.p)
            scale = site.apply(scale) - (site.apply(0 * scale) if self.places else 0)
            return Ball(center, scale[:1], ball.p)
        return Ball(center, ball.scale, ball.p) if self._moves(site) and center.shape == ball.center.shape else None

    @staticmethod
    def _moves(site: Site) -> bool:
        """Whether all that the operator does is to add a constant, so that radii stay what they are."""
        return site.node.key == "add" and len(site.hot) == 1 and site.node.args[0] != site.node.args[1]

    def _product(self, site: Site, x: Sequence[Interval]) -> Interval:
        """J c -+ |J| r, with perturbed weights and balls where there are any."""
        if not site.hot:  # only the weights are perturbed
            center = site.node.call(site.values)
            radius = torch.zeros_like(center)
        elif site.node.key == "linear" and len(x) == 1 and site.hot == (site.node.args[0].index,):
            bias = site.argument(2, "bias")
            center, radius = interval_linear(x[0].center, x[0].radius, site.argument(1), bias)
        else:
            center, radius = site.apply(x[0].center), abs_product(site, x[0].radius, temporary_abs)
        found = Interval(center=center, radius=radius)
        ball = x[0].ball if x else None
        if ball is not None:
            reach = weights.ball_radius(site, ball)
            if isinstance(reach, Ball):
                found.ball = reach
            elif reach is not None:
                middle = site.apply(ball.center)
                found = found.meet(middle - reach, middle + reach)
        if site.parameters_move:
            size = magnitude(x[0]) if x else site.argument(0).abs()
            found = Interval(center=found.center, radius=found.radius + weights.interval_radius(site, size))
            if x and site.weight is not None and site.weight.p == math.inf:
                found = found.meet(*weights.box_ends(site, x[0]))
        return found

    def backward(self, site: Site, a: Tensor, x: Sequence[Interval], alpha: Tensor | None = None) -> Bound:
        extra: Tensor | float = 0.0
        slope: Tensor | None = None
        if site.parameters_move:
            extra, slope = weights.backward_cost(site, a, x[0] if x else cast(Tensor, site.argument(0)))
            if not x:
                return [], site.dot(a, site.node.call(site.values)) + extra
        found = self._back(site, a, x) if self._back is not None else None
        if found is None and site.node.key in TRANSPOSES and not site.node.kwargs:
            moved = TRANSPOSES[site.node.key](site.node.args, [i.shape for i in x], a)
            found = None if moved is None else (moved, 0.0)
        if found is None:
            zeros = [torch.zeros(i.shape, dtype=a.dtype, device=a.device) for i in x]
            pulled = torch.func.vjp(site.apply, *zeros)
            found = list(torch.vmap(pulled[1])(a)), 0.0 if self.shape else site.dot(a, pulled[0])
        grads = found[0] if slope is None else [found[0][0] + slope]
        return grads, found[1] + extra

    def forward(self, site: Site, x: Sequence[Interval], lines: Sequence[LinearBounds]) -> LinearBounds:
        if site.parameters_move:
            raise NotImplementedError("forward bounds do not cover perturbed weights: use a backward method")
        constant = site.apply(*(torch.zeros_like(line.lb) for line in lines))
        rows = lambda *t: torch.vmap(site.apply)(*t) - constant  # noqa: E731
        if self.nonneg:
            low, high = [[getattr(line, side) for line in lines] for side in ("lw", "uw")]
            lb, ub = (site.apply(*(getattr(line, side) for line in lines)) for side in ("lb", "ub"))
            return LinearBounds(rows(*low), lb, rows(*high), ub)
        line = lines[0]
        center, radius = (
            rows((line.lw + line.uw) / 2),
            torch.vmap(lambda r: abs_product(site, r))((line.uw - line.lw) / 2),
        )
        middle, reach = site.apply((line.lb + line.ub) / 2), abs_product(site, (line.ub - line.lb) / 2)
        return LinearBounds(center - radius, middle - reach, center + radius, middle + reach)


def magnitude(x: Interval) -> Tensor:
    """The largest absolute value in an interval."""
    return torch.maximum(x.low.abs(), x.high.abs())


def abs_product(site: Site, radius: Tensor, size: Callable[[Any], Any] = abs) -> Tensor:
    """|J| r for a product with a constant, whose absolute value is taken by `size`."""
    args = list(site.node.args)
    values = dict(site.values)
    for position, argument in enumerate(args[:2]):
        if not isinstance(argument, Ref):
            args[position] = size(argument)
        elif argument.index not in site.hot:
            values[argument.index] = size(values[argument.index])
    if site.node.key in BIASED and len(args) > 2:
        args[2] = None
    values[site.hot[0]] = radius
    fill = [values[arg.index] if isinstance(arg, Ref) else arg for arg in args]
    return site.node.op(*fill, **site.node.kwargs)  # type: ignore[misc]
