"""Four kinds of operators, and how intervals and linear functions pass through each.

    affine      z' = J z + c     backward: A' = A J by vmap(vjp), no code per operator; interval: J c -+ |J| r
    pointwise   al z + bl <= f(z) <= au z + bu     backward: A' = A+ al + A- au
    bilinear    McCormick's planes: f(x, y) >= f(x, y_l) + f(x_l, y) - f(x_l, y_l), and likewise above with y_u
    reduction   max: z_j of the largest lower end below, and above the largest upper end (or z_j if it dominates)

Only lower bounds are propagated backward: the upper bound of C f is minus the lower one of -C f. A+ and A- are the
positive and the negative part of A, whose shape is (S, *shape of the node): S rows for each sample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab.bounds import relax, weights
from flatlab.bounds.absolute import interval_linear, passing
from flatlab.bounds.errors import DomainError, UnsupportedOperator
from flatlab.bounds.graph import Node, Ref
from flatlab.bounds.interval import Ball, Interval
from flatlab.bounds.pullbacks import PULLBACKS, unbroadcast

_ROWS = torch.channels_last  # the memory order in which convolutions of many rows are fastest on a CPU


@dataclass(eq=False)
class Linear:
    """lw x + lb <= z <= uw x + ub: lw, uw (D, *shape of z), with D inputs of a sample; lb, ub (*shape)."""

    lw: Tensor
    lb: Tensor
    uw: Tensor
    ub: Tensor


@dataclass(eq=False)
class Site:
    """An operator where it is used.

    Attributes:
        node: the operator.
        values: what does not depend on the perturbation, by node.
        hot: the nodes among its inputs that do.
        batch: the number of samples.
        relu: name of the lower slope of ReLUs.
        weight, bias: sets of its perturbed parameters (linear and convolution only).
    """

    node: Node
    values: dict[int, Any]
    hot: tuple[int, ...]
    batch: int
    relu: str = "adaptive"
    weight: Any = None
    bias: Any = None

    def apply(self, *hot: Tensor) -> Tensor:
        """The operator with its hot inputs replaced."""
        values = {i: self.values.get(i) for i in self.node.inputs}
        return self.node.call(values | dict(zip(self.hot, hot, strict=True)))

    def argument(self, position: int, name: str = "", default: Any = None) -> Any:
        """The value of a constant argument."""
        args = self.node.args
        found = args[position] if position < len(args) else self.node.kwargs.get(name, default)
        return self.values[found.index] if isinstance(found, Ref) else found

    def dot(self, a: Tensor, t: Tensor | None) -> Tensor | float:
        """sum over each sample of a t: (S, *shape), (*shape) -> (S, B)."""
        return 0.0 if t is None else self.total(a * t)

    def total(self, a: Tensor) -> Tensor:
        """Sum (S, *shape) over everything but rows and samples: (S, B)."""
        if self.node.pre == 1 and a.ndim > 2 and a.shape[1] == self.batch:
            return a.sum(tuple(range(2, a.ndim)))
        return samples_first(a, self.node.pre, self.batch).sum(2)


def samples_first(a: Tensor, pre: int, batch: int) -> Tensor:
    """(S, *shape of a node) -> (S, B, numbers of a sample)."""
    if pre == 1:
        return a.reshape(a.shape[0], batch, -1)
    return a.reshape(a.shape[0], pre, batch, -1).transpose(1, 2).flatten(2)


Bound = tuple[list[Tensor], Tensor | float]
"""Coefficients for each hot input, and a constant (S, B)."""


class Rule:
    """How bounds pass through an operator."""

    kind = ""
    slots = 1  # how many of the first arguments may depend on what is perturbed
    tight = True  # whether the quality of the bounds depends on intervals of the inputs
    settled = False  # whether no backward pass can improve on the interval

    def check(self, site: Site) -> None:
        """Raise UnsupportedOperator where the rule does not hold: of options, or of arguments that are perturbed."""
        if any(index in site.hot for index in site.node.beyond(self.slots)):
            raise UnsupportedOperator(
                f"{site.node} depends on what is perturbed by an argument that has no rule; only its first "
                f"{self.slots} may"
            )

    def interval(self, site: Site, x: Sequence[Interval]) -> Interval:
        """The operator's interval from those of its hot inputs."""
        raise NotImplementedError

    def backward(self, site: Site, a: Tensor, x: Sequence[Interval], alpha: Tensor | None = None) -> Bound:
        """A lower bound of <a, z> as a function of the hot inputs."""
        raise NotImplementedError

    def forward(self, site: Site, x: Sequence[Interval], lines: Sequence[Linear]) -> Linear:
        """Linear bounds of z from those of the hot inputs."""
        raise NotImplementedError

    def start(self, site: Site, x: Sequence[Interval]) -> Tensor | None:
        """What alpha is to begin with, (2, *shape); None if nothing is free."""
        return None


class Affine(Rule):
    """z' = J z + c.

    Args:
        nonneg: no coefficient of J is negative: ends map to ends.
        shape: moreover, J only moves numbers about, without a constant.
        once: moreover, none of them appears twice.
        product: J is the constant one of the two first arguments, as in a matrix product, so that |J| is its absolute
            value; argument 2, if any, is a bias.
        back: a faster backward pass than the general one, or None where it does not apply.
    """

    kind = "affine"
    tight = False

    def __init__(
        self,
        *,
        nonneg: bool = False,
        shape: bool = False,
        once: bool = False,
        product: bool = False,
        slots: int = 1,
        back: Callable[[Site, Tensor, Sequence[Interval]], Bound | None] | None = None,
    ) -> None:
        self.shape, self.once, self.product, self.slots, self._back = shape or once, once, product, slots, back
        self.nonneg = nonneg or self.shape

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
        """What becomes of an Lp ball: one that is moved, or whose coordinates are exchanged; a copy of one is none."""
        center = site.apply(ball.center)
        if site.node.pre != 1 or center.shape[:1] != (site.batch,):
            return None
        if self.once:
            return Ball(center, site.apply(ball.scale.expand_as(ball.center))[:1], ball.p)
        return Ball(center, ball.scale, ball.p) if self._moves(site) and center.shape == ball.center.shape else None

    @staticmethod
    def _moves(site: Site) -> bool:
        """Whether a constant is added, and no more; of the same shape, the radius stays what it is."""
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
            center, radius = site.apply(x[0].center), absolute(site, x[0].radius, passing)
        found = Interval(center=center, radius=radius)
        ball = x[0].ball if x else None
        if ball is not None:
            reach = weights.ball_radius(site, ball)
            if isinstance(reach, Ball):
                found.ball = reach
            elif reach is not None:
                middle = site.apply(ball.center)
                found = found.meet(middle - reach, middle + reach)
        if site.weight is not None or site.bias is not None:
            size = magnitude(x[0]) if x else site.argument(0).abs()
            found = Interval(center=found.center, radius=found.radius + weights.interval_radius(site, size))
        return found

    def backward(self, site: Site, a: Tensor, x: Sequence[Interval], alpha: Tensor | None = None) -> Bound:
        extra: Tensor | float = 0.0
        if site.weight is not None or site.bias is not None:
            extra = weights.backward_cost(site, a, x[0] if x else cast(Tensor, site.argument(0)))
            if not x:
                return [], site.dot(a, site.node.call(site.values)) + extra
        found = self._back(site, a, x) if self._back is not None else None
        if found is None and site.node.key in PULLBACKS and not site.node.kwargs:
            moved = PULLBACKS[site.node.key](site.node.args, [i.shape for i in x], a)
            found = None if moved is None else (moved, 0.0)
        if found is None:
            zeros = [torch.zeros(i.shape, dtype=a.dtype, device=a.device) for i in x]
            pulled = torch.func.vjp(site.apply, *zeros)
            found = list(torch.vmap(pulled[1])(a)), 0.0 if self.shape else site.dot(a, pulled[0])
        return found[0], found[1] + extra

    def forward(self, site: Site, x: Sequence[Interval], lines: Sequence[Linear]) -> Linear:
        if site.weight is not None or site.bias is not None:
            raise NotImplementedError("forward bounds do not cover perturbed weights: use a backward method")
        constant = site.apply(*(torch.zeros_like(line.lb) for line in lines))
        rows = lambda *t: torch.vmap(site.apply)(*t) - constant  # noqa: E731
        if self.nonneg:
            low, high = [[getattr(line, side) for line in lines] for side in ("lw", "uw")]
            lb, ub = (site.apply(*(getattr(line, side) for line in lines)) for side in ("lb", "ub"))
            return Linear(rows(*low), lb, rows(*high), ub)
        line = lines[0]
        center, radius = rows((line.lw + line.uw) / 2), torch.vmap(lambda r: absolute(site, r))((line.uw - line.lw) / 2)
        middle, reach = site.apply((line.lb + line.ub) / 2), absolute(site, (line.ub - line.lb) / 2)
        return Linear(center - radius, middle - reach, center + radius, middle + reach)


def magnitude(x: Interval) -> Tensor:
    """The largest absolute value in an interval."""
    return torch.maximum(x.low.abs(), x.high.abs())


def absolute(site: Site, radius: Tensor, size: Callable[[Any], Any] = abs) -> Tensor:
    """|J| r for a product with a constant, whose absolute value `size` is to find."""
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


BIASED = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d")


class Pointwise(Rule):
    """z' = f(z), elementwise.

    Args:
        lines: (l, u, alpha, *parameters) -> slopes and intercepts, see `flatlab.bounds.relax`.
        f: needed for the interval of a monotone function.
        increasing: True, False, or None if `interval` is given.
        interval: (l, u, *parameters) -> ends.
        above: the domain is z > above; or (*parameters) -> above, or None where every z is in it.
        free: whether `lines` uses alpha; `start` (l, u, lines) -> alpha (2, ...) to begin with, default 1/2.
        refuse: (*parameters) -> why there is no rule with these parameters, or "".
    """

    kind = "pointwise"
    settled = True

    def __init__(
        self,
        lines: Callable[..., relax.Lines],
        f: Callable[..., Tensor] | None = None,
        *,
        increasing: bool | None = None,
        interval: Callable[..., tuple[Tensor, Tensor]] | None = None,
        above: float | Callable[..., float | None] | None = None,
        free: bool = True,
        start: Callable[..., Tensor] | None = None,
        refuse: Callable[..., str] = lambda *parameters: "",
    ) -> None:
        self.lines, self.f, self.increasing, self._interval = lines, f, increasing, interval
        self.above, self.free, self._start, self._refuse = above, free, start, refuse

    def check(self, site: Site) -> None:
        super().check(site)
        others = site.node.args[1:]
        tensors = any(isinstance(leaf, Ref) for leaf in others)
        why = "they must be numbers" if tensors else self._refuse(*others, *site.node.kwargs.values())
        if why:
            raise UnsupportedOperator(f"{site.node} has no rule with its parameters: {why}")

    def _domain(self, site: Site, x: Interval) -> None:
        above = self.above(*self.parameters(site)) if callable(self.above) else self.above
        if above is not None and not bool((x.low > above).all()):
            raise DomainError(
                f"{site.node} needs inputs > {above:g}, but their lower bound is {float(x.low.min()):g}: "
                "make the perturbation smaller, use a tighter method, or add a constant in the model"
            )

    def parameters(self, site: Site) -> tuple[Any, ...]:
        """The operator's further arguments."""
        return tuple(site.argument(i) for i in range(1, len(site.node.args))) + tuple(site.node.kwargs.values())

    def interval(self, site: Site, x: Sequence[Interval]) -> Interval:
        self._domain(site, x[0])
        if self._interval is not None:
            return Interval(*self._interval(x[0].low, x[0].high, *self.parameters(site)))
        ends = site.apply(x[0].low), site.apply(x[0].high)
        return Interval(*ends) if self.increasing else Interval(*ends[::-1])

    def relax(self, site: Site, x: Interval, alpha: Tensor | None = None) -> relax.Lines:
        """The lines on an interval."""
        self._domain(site, x)
        if site.node.key == "relu":
            return relax.relu(x.low, x.high, alpha, site.relu)
        return self.lines(x.low, x.high, alpha, *self.parameters(site))

    def backward(self, site: Site, a: Tensor, x: Sequence[Interval], alpha: Any = None) -> Bound:
        lines = alpha if isinstance(alpha, tuple) else self.relax(site, x[0], alpha)
        if a.ndim == 5 and not a.is_contiguous():  # behind a convolution: lines in the memory order of its rows
            lines = tuple(t if t is None or t.ndim != 4 else t.contiguous(memory_format=_ROWS) for t in lines)
        al, bl, au, bu = lines
        down = a.clamp(max=0)
        bias: Tensor | float = 0.0 if bl is None else site.dot(a, bl)
        if bu is not None:
            bias = bias + site.dot(down, bu if bl is None else bu - bl)
        elif bl is not None:
            bias = bias - site.dot(down, bl)
        return [torch.addcmul(a * al, down, au - al)], bias

    def forward(self, site: Site, x: Sequence[Interval], lines: Sequence[Linear]) -> Linear:
        al, bl, au, bu = self.relax(site, x[0])
        line = lines[0]
        low = _scaled(al, line)
        high = _scaled(au, line)
        return Linear(low[0], low[1] + (0 if bl is None else bl), high[2], high[3] + (0 if bu is None else bu))

    def start(self, site: Site, x: Sequence[Interval]) -> Tensor | None:
        if not self.free:
            return None
        l, u = x[0].low, x[0].high
        if self._start is not None:
            return self._start(l, u, self.relax(site, x[0]), *self.parameters(site))
        return torch.full((2, *l.shape), 0.5, dtype=l.dtype, device=l.device)


def _scaled(k: Tensor, line: Linear) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bounds of k z."""
    up = k >= 0
    low, high = (torch.where(up, line.lw, line.uw), torch.where(up, line.uw, line.lw))
    return k * low, k * torch.where(up, line.lb, line.ub), k * high, k * torch.where(up, line.ub, line.lb)


class Bilinear(Affine):
    """A product of two arguments: affine in one of them if the other is constant, else relaxed by McCormick's planes.

    Args:
        corners: the interval of the product of two intervals; None if products of two perturbed values are refused.
        square: the rule for a value times itself.
    """

    kind = "bilinear"

    def __init__(
        self,
        *,
        corners: Callable[[Interval, Interval], tuple[Tensor, Tensor]] | None = None,
        square: "Pointwise | None" = None,
        slots: int = 2,
        back: Callable[[Site, Tensor, Sequence[Interval]], Bound | None] | None = None,
    ) -> None:
        super().__init__(product=True, slots=slots, back=back)
        self.corners, self.square = corners, square

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

    def needs(self, site: Site) -> bool:
        """Whether intervals of the inputs matter for the quality of the bounds."""
        return self.both(site) or site.weight is not None

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

    def backward(self, site: Site, a: Tensor, x: Sequence[Interval], alpha: Any = None) -> Bound:
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

    def forward(self, site: Site, x: Sequence[Interval], lines: Sequence[Linear]) -> Linear:
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
        return Linear(low[0].lw + low[1].lw, lb, high[0].uw + high[1].uw, ub)

    def _times(self, site: Site, line: Linear, other: Tensor, position: int) -> Linear:
        """Linear bounds of the product of a bounded value and a constant."""
        f = lambda t, o: self._f(site, t, o) if position == 0 else self._f(site, o, t)  # noqa: E731
        plus, minus = other.clamp(min=0), other.clamp(max=0)
        rows = torch.vmap(lambda lo, hi: f(lo, plus) + f(hi, minus))
        ends = lambda lo, hi: f(lo, plus) + f(hi, minus)  # noqa: E731
        return Linear(rows(line.lw, line.uw), ends(line.lb, line.ub), rows(line.uw, line.lw), ends(line.ub, line.lb))

    def start(self, site: Site, x: Sequence[Interval]) -> Tensor | None:
        if self.itself(site):
            return self.square.start(site, x)  # type: ignore[union-attr]
        if not self.both(site) or site.node.key != "mul":
            return None
        shape = torch.broadcast_shapes(*(i.shape for i in x))
        return torch.ones((2, *shape), dtype=x[0].low.dtype, device=x[0].low.device)


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


class Largest(Rule):
    """z' = max of z along one dimension (argument 1, kept or not)."""

    kind = "reduction"
    settled = True

    def check(self, site: Site) -> None:
        super().check(site)
        dims = site.argument(1, "dim", ())
        if not isinstance(dims, int) and len(dims) != 1:
            raise UnsupportedOperator(f"{site.node} has a rule for one dimension only: give it one after the other")

    def _where(self, site: Site, x: Interval) -> tuple[int, Tensor, Tensor, Tensor]:
        dims = site.argument(1, "dim")
        dim = dims[0] if isinstance(dims, list | tuple) else dims
        best = x.low.argmax(dim, keepdim=True)
        rest = x.high.scatter(dim, best, -torch.inf).amax(dim, keepdim=True)
        chosen = torch.zeros_like(x.low).scatter_(dim, best, 1.0)
        return dim, chosen, x.low.gather(dim, best) >= rest, x.high.amax(dim, keepdim=True)

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

    def forward(self, site: Site, x: Sequence[Interval], lines: Sequence[Linear]) -> Linear:
        dim, chosen, alone, top = self._where(site, x[0])
        keep = site.argument(2, "keepdim", False)
        dim = dim % x[0].low.ndim
        pick = lambda t, d: (t * chosen).sum(d, keepdim=keep)  # noqa: E731
        alone, top = (alone, top) if keep else (alone.squeeze(dim), top.squeeze(dim))
        line = lines[0]
        return Linear(
            pick(line.lw, dim + 1),
            pick(line.lb, dim),
            torch.where(alone, pick(line.uw, dim + 1), 0.0),
            torch.where(alone, pick(line.ub, dim), top),
        )


def linear_back(site: Site, a: Tensor, x: Sequence[Interval]) -> Bound | None:
    """A W, and <A, b>."""
    if site.node.args[0].index not in site.hot or len(site.hot) != 1:
        return None
    bias = site.argument(2, "bias")
    return [a @ site.argument(1)], 0.0 if bias is None else site.total(a * bias)


def conv2d_back(site: Site, a: Tensor, x: Sequence[Interval]) -> Bound | None:
    """A transposed convolution of all rows as one batch."""
    if site.node.args[0].index not in site.hot or len(site.hot) != 1 or isinstance(site.argument(4, "padding", 0), str):
        return None
    weight, bias = site.argument(1), site.argument(2, "bias")
    stride, padding, dilation = (
        pair(site.argument(i, n, d)) for i, n, d in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
    )
    groups, size = site.argument(6, "groups", 1), x[0].shape[-2:]
    extra = [
        size[i] - ((a.shape[-2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[2 + i] - 1) + 1)
        for i in range(2)
    ]
    flat = a.flatten(0, 1).contiguous(memory_format=_ROWS)  # two to three times as fast on a CPU
    back = F.conv_transpose2d(flat, weight, None, stride, padding, extra, groups, dilation)
    constant = 0.0 if bias is None else site.total(torch.einsum("snchw,c->sn", a, bias))
    return [back.unflatten(0, a.shape[:2])], constant


def pair(value: Any) -> tuple[int, int]:
    """Both numbers of an option of a convolution."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return (values[0], values[-1])


def mul_back(site: Site, a: Tensor, x: Sequence[Interval]) -> Bound | None:
    """A times the constant."""
    other = site.argument(1 if isinstance(site.node.args[0], Ref) and site.node.args[0].index in site.hot else 0)
    return [unbroadcast(a * other, x[0].shape)], 0.0


def add_back(site: Site, a: Tensor, x: Sequence[Interval]) -> Bound | None:
    """A for each summand."""
    if site.node.kwargs:
        return None
    first, second = site.node.args[:2]
    hot = [isinstance(arg, Ref) and arg.index in site.hot for arg in (first, second)]
    if all(hot):
        if first == second:
            return [a * 2], 0.0
        return [unbroadcast(a, i.shape) for i in x], 0.0
    other = site.argument(1 if hot[0] else 0)
    return [unbroadcast(a, x[0].shape)], site.total(a * other)
