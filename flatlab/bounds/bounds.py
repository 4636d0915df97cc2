"""Certified bounds of a captured module over a perturbation set, by every method of linear relaxation.

    ibp               intervals, operator by operator
    forward           linear functions of the input, operator by operator
    crown-ibp         from the output back to the input; the relaxations take intervals of what is inside from ibp,
    forward+backward  from forward,
    crown             or from backward passes of their own
    alpha-crown       crown, with the free slopes optimised by gradient ascent

Xu et al. 2020 (arXiv 2002.12920); CROWN: Zhang et al. 2018; CROWN-IBP: Zhang et al. 2020; alpha-CROWN: Xu et al.
2021. All but the last are differentiable in parameters and inputs. The upper bound of C f is minus the lower one of
-C f, so C and -C travel together, and everything is written for lower bounds alone.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.bounds.backward_pass import BackwardPass, LinearFunction
from flatlab.bounds.capture import Program
from flatlab.bounds.forward_pass import ForwardPass
from flatlab.bounds.interval import Interval
from flatlab.bounds.interval_pass import IntervalPass
from flatlab.bounds.nodes import node_shaped, samples_first
from flatlab.bounds.problem import Problem
from flatlab.bounds.rows import Dense, Identity, Margins, Rows
from flatlab.bounds.sets import Box, LpBall
from flatlab.bounds.slope_ascent import ascend
from flatlab.bounds.slopes import Ascent

METHODS = ("ibp", "crown-ibp", "crown", "forward", "forward+backward", "alpha-crown")

INSIDE = {"crown-ibp": "ibp", "crown": "crown", "forward+backward": "forward", "alpha-crown": "crown"}
"""Method with a backward pass -> where the intervals inside come from."""


class Certificate(NamedTuple):
    """Bounds of C f, and the affine functions of the inputs behind them.

    Attributes:
        low, high: (B, S), or without C of the output's shape.
        function: below the rows of C f, and after them below those of -C f: a (2 S, B, *shape), bias (2 S, B). Its
            least values over the set are `low` and -`high`; without C those may be better, by intervals.
    """

    low: Tensor
    high: Tensor
    function: LinearFunction


class Bounds:
    """Bounds of one batch. A cheap object: build one for each batch, or each step of training.

    Args:
        program: the captured module.
        inputs: the batch, a tensor or one for each input.
        sets: a set for each perturbed input, by position, or the set itself if there is one input.
        weights: a ball for each perturbed parameter, by name: weights and biases of linear layers and convolutions.
        relu: the lower slope of ReLUs: adaptive, same-slope, zero-lb, one-lb or reversed-adaptive.
        chunk: most rows of one backward pass; None chooses by memory.
        memory_limit: bytes that coefficients at one node may need (backward, those of one row); None for no limit.
        sparse: bound only those neurons inside that are not known to be on or off.
        keep: hold the intervals inside, which other methods and another C ask for; otherwise "ibp" frees each once it
            has been used, where no gradient needs it.

    Raises:
        UnsupportedOperator: an operator that depends on the perturbation has no rule.
        ValueError: nothing perturbed, a set that does not fit, BatchNorm in train mode with a batch of one.
    """

    def __init__(
        self,
        program: Program,
        inputs: Tensor | Sequence[Tensor],
        sets: Box | Mapping[int, Box] | None = None,
        *,
        weights: Mapping[str, LpBall] | None = None,
        relu: str = "adaptive",
        chunk: int | None = None,
        memory_limit: int | None = None,
        sparse: bool = True,
        keep: bool = True,
    ) -> None:
        if chunk is not None:
            checks.at_least("chunk", chunk, 1)
        self.problem, self.keep = Problem(program, inputs, sets, weights, relu=relu), keep
        self._backward = BackwardPass(self.problem, chunk=chunk, memory_limit=memory_limit)
        self._forward = ForwardPass(self.problem, memory_limit=memory_limit)
        self.intervals = IntervalPass(self.problem, self._forward, self._backward, sparse=sparse)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of the module's output for this batch."""
        return self.intervals.by("ibp")[self.problem.output].shape

    def compute(
        self, method: str, c: Tensor | Margins | None = None, *, ascent: Ascent | None = None
    ) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of the output, or of C times it.

        Args:
            method: one of `METHODS`.
            c: (B, S, K), for K numbers of a sample's output, or `Margins`; None for the output as it is.
            ascent: the search of "alpha-crown" for slopes; None for the default.

        Returns:
            Two tensors (B, S), or without C of the output's shape.

        Raises:
            ValueError: an unknown method, or a C that does not fit.
            DomainError: an interval leaves the domain of an operator.
            MemoryLimitExceeded: see `memory_limit`.
        """
        low, high, _ = self._answer(method, c, ascent)
        assert high is not None
        return low, high

    def lower(self, method: str, c: Tensor | Margins | None = None, *, ascent: Ascent | None = None) -> Tensor:
        """The lower bounds of `compute` alone: with C, by one pass backward at half the cost of both.

        Args:
            method, c, ascent: as of `compute`.

        Returns:
            (B, S), or without C of the output's shape.
        """
        return self._answer(method, c, ascent, mirror=c is None)[0]

    def certificate(
        self, method: str, c: Tensor | Margins | None = None, *, ascent: Ascent | None = None
    ) -> Certificate:
        """The bounds of `compute`, and the affine functions that won: of all that the method tried, row by row.

        Args:
            method, c, ascent: as of `compute`.
        """
        low, high, function = self._answer(method, c, ascent, function=True)
        assert high is not None
        assert function is not None
        return Certificate(low, high, function)

    def _answer(
        self,
        method: str,
        c: Tensor | Margins | None,
        ascent: Ascent | None,
        *,
        mirror: bool = True,
        function: bool = False,
    ) -> tuple[Tensor, Tensor | None, LinearFunction | None]:
        """Lower bounds, upper ones if `mirror` (or if they cost nothing), and functions if they are asked for."""
        checks.one_of("method", method, METHODS)
        if method == "ibp":
            low, high = self._ibp(c)
            pre = self.problem.pre(self.problem.output) if c is None else 1
            return low, high, self._constant(low, high, pre) if function else None
        if method == "forward":
            return self._linear_forward(c, function)
        if method == "alpha-crown":
            with torch.no_grad():
                known = self.intervals.by("crown")[self.problem.output]
            run = ascend(self.intervals, self._rows(c, known), ascent or Ascent(), function=function)
        else:
            found = self.intervals.by(INSIDE[method])
            known = found[self.problem.output]
            run = self._backward.run(self.problem.output, self._rows(c, known), found, mirror=mirror, function=function)
            if not mirror:
                return run.low.T, None, run.function
        low, high = _both(run.low)
        if c is None:  # in the output's own shape, and nowhere wider than is known
            pre = self.problem.pre(self.problem.output)
            box = known.meet(*(node_shaped(t[None], known.shape, pre)[0] for t in (low, high)))
            low, high = box.low, box.high
        return low, high, run.function

    def _ibp(self, c: Tensor | Margins | None) -> tuple[Tensor, Tensor]:
        """Interval bounds; C is merged into the last affine layers."""
        found = self.intervals.by("ibp") if self.keep or torch.is_grad_enabled() else self.intervals.tail()
        output = self.problem.output
        known = found[output]
        if c is None:
            return _checked(known.low, known.high)
        rows = self._rows(c, known)
        if any(site.parameters_move for site in self.problem.sites.values()):
            return _both(self._backward.run(output, rows, found, stop=True).low)
        # all that is passed is affine, so that both ends differ by what is added up on the way
        run = self._backward.run(output, rows, found, stop=True, mirror=False, spread=True)
        assert run.spread is not None
        return _checked(run.low.T, run.low.T + run.spread.T)

    def _linear_forward(
        self, c: Tensor | Margins | None, function: bool
    ) -> tuple[Tensor, Tensor, LinearFunction | None]:
        found = self.intervals.by("forward")
        output = self.problem.output
        known, line = found[output], self._forward.at(output, found)
        if c is None and not function:
            return *_checked(known.low, known.high), None
        rows = self._forward.rows(self._rows(c, known), line)
        low, high = (known.low, known.high) if c is None else self._forward.ends(rows, 1)
        made = None
        if function:
            a = torch.cat([rows.lw.permute(2, 1, 0), -rows.uw.permute(2, 1, 0)])
            made = LinearFunction(self._forward.by_input(a), torch.cat([rows.lb.T, -rows.ub.T]))
        return *_checked(low, high), made

    def _constant(self, low: Tensor, high: Tensor, pre: int) -> LinearFunction:
        """Intervals as affine functions that do not depend on the inputs."""
        ends = [samples_first(t[None], pre, self.problem.batch)[0].T for t in (low, high)]
        bias = torch.cat([ends[0], -ends[1]])
        inputs = {i: self.problem.inputs[i] for i in self.problem.sets}
        return LinearFunction({i: bias.new_zeros(len(bias), *x.shape) for i, x in inputs.items()}, bias)

    def _rows(self, c: Tensor | Margins | None, known: Interval) -> Rows:
        batch, shape = self.problem.batch, known.shape
        count = math.prod(shape) // batch
        if c is None:
            return Identity(torch.arange(count, device=self.problem.inputs[0].device), count)
        if isinstance(c, Margins):
            if len(shape) != 2:
                raise ValueError(f"margins need an output (B, K), got {shape}")
            return c.check(batch, shape[1])
        if c.ndim != 3 or c.shape[0] != batch or c.shape[1] == 0 or c.shape[2] != count:
            raise ValueError(f"C must have shape (B, S, K) = ({batch}, S, {count}), got {tuple(c.shape)}")
        return Dense(c.transpose(0, 1).to(self.problem.dtype))


def compute_bounds(
    model: nn.Module | Program,
    x: Tensor | Sequence[Tensor],
    sets: Box | Mapping[int, Box] | None = None,
    method: str = "crown",
    c: Tensor | Margins | None = None,
    *,
    weights: Mapping[str, LpBall] | None = None,
    ascent: Ascent | None = None,
    relu: str = "adaptive",
    memory_limit: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of a module's output over a perturbation set, in one call.

    Args:
        model: the module, or what `Program` captured of it (capturing takes a moment: keep it for repeated use).
        x: the inputs, (B, ...) each.
        sets, weights, relu, memory_limit: as in `Bounds`.
        method, c, ascent: as in `Bounds.compute`.

    Returns:
        Two tensors of the output's shape, or (B, S).
    """
    checks.one_of("method", method, METHODS)
    inputs = (x,) if isinstance(x, Tensor) else tuple(x)
    program = model if isinstance(model, Program) else Program(model, *inputs)
    made = Bounds(program, inputs, sets, weights=weights, relu=relu, memory_limit=memory_limit, keep=False)
    return made.compute(method, c, ascent=ascent)


def _both(run: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and their negatives (2 S, B) -> lower and upper bounds (B, S)."""
    low, high = run.chunk(2)
    return _checked(low.T, -high.T)


def _checked(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        crossed = low - high > 1e-4 * (1 + low.abs() + high.abs())
        if bool(crossed.any()):
            raise RuntimeError(
                f"internal error: a lower bound exceeds its upper bound by {float((low - high).max()):g}"
            )
    return low, high
