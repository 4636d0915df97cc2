"""Backward passes: from rows of linear functions of a node to linear functions of the inputs that lie below them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flatlab.bounds.errors import MemoryLimitExceeded
from flatlab.bounds.interval import Interval
from flatlab.bounds.nodes import node_shaped, samples_first
from flatlab.bounds.places import Places
from flatlab.bounds.problem import Problem
from flatlab.bounds.rows import Identity, Rows
from flatlab.bounds.slopes import Slopes
from flatlab.bounds.windows import Plan, plan

CHUNK = {"cpu": 1 << 24, "cuda": 1 << 28}
"""Bytes of coefficients that one backward pass may hold before its rows are split: on a CPU, what caches can use."""


@dataclass(frozen=True, eq=False)
class LinearFunction:
    """Affine functions of the inputs that bound <C, f> from below: <a_i, x_i> summed over inputs, plus bias.

    Attributes:
        a: one (S, B, *shape) for each perturbed input, by position.
        bias: (S, B).
    """

    a: dict[int, Tensor]
    bias: Tensor


@dataclass(frozen=True, eq=False)
class RowBounds:
    """What a backward pass finds for S rows, and after them for their negatives.

    Attributes:
        low: lower bounds (S, B), or (2 S, B) with the negatives.
        spread: the distance of upper from lower bounds (S, B), if it was asked for.
        function: the affine functions of which `low` are the least values, if they were asked for.
    """

    low: Tensor
    spread: Tensor | None = None
    function: LinearFunction | None = None


class BackwardPass:
    """Backward passes through the operators of a problem.

    Args:
        problem: what is asked.
        chunk: most rows of one pass; None chooses by memory.
        memory_limit: bytes that the coefficients of one row may need at one node; None for no limit.
    """

    def __init__(self, problem: Problem, *, chunk: int | None, memory_limit: int | None) -> None:
        self.problem, self.chunk, self.memory_limit = problem, chunk, memory_limit
        self._plans: dict[int, Plan | None] = {}

    def run(
        self,
        start: int,
        rows: Rows,
        found: Mapping[int, Interval],
        *,
        mirror: bool = True,
        stop: bool = False,
        slopes: Slopes | None = None,
        spread: bool = False,
        function: bool = False,
    ) -> RowBounds:
        """Bound rows of linear functions of a node from below, a chunk of them at a time.

        Args:
            start: the node.
            rows: S functions of the numbers of a sample.
            found: the intervals of the nodes behind it.
            mirror: bound the negatives of the rows as well.
            stop: end on intervals at the first operators that are not affine.
            slopes: free slopes; None for the default ones.
            spread: find the distance of upper bounds too; only of what is affine, or with `stop`.
            function: return the affine functions.
        """
        options = {"mirror": mirror, "stop": stop, "spread": spread, "function": function}
        places = self.places(start, rows, found) if mirror and not stop and not spread else None
        parts = []
        if places is not None:
            step = max(1, self._at_once(*places.plan.largest(), mirror) // places.most)
            for part, some, where in places.parts(step):
                own = None if slopes is None else slopes.part(some, where)
                parts.append(self._pass(start, part, found, own, **options))
            order = places.back
            return _joined(parts, lambda run: _halves(run)[torch.cat([order, order + len(rows)])])
        largest = max((i for i in found if i <= start), key=lambda i: math.prod(found[i].shape))
        step = self._at_once(largest, math.prod(found[largest].shape), mirror)
        if len(rows) <= step:
            return self._pass(start, rows, found, slopes, **options)
        for i in range(0, len(rows), step):
            own = None if slopes is None else slopes.part(slice(i, i + step))
            parts.append(self._pass(start, rows.part(i, i + step), found, own, **options))
        return _joined(parts, _halves if mirror else torch.cat)

    def places(self, start: int, rows: Rows, found: Mapping[int, Interval]) -> Places | None:
        """The rows of a pass by their places; None where windows are of no use.

        Args:
            start: the node.
            rows: S functions of the numbers of a sample.
            found: the intervals of the nodes behind it.
        """
        if not isinstance(rows, Identity):
            return None
        if start not in self._plans:
            self._plans[start] = plan(self.problem, start, found)
        way = self._plans[start]
        return None if way is None else Places.of(way, start, rows.index, self._at_once(*way.largest(), True))

    def _pass(
        self,
        start: int,
        rows: Rows | Places,
        found: Mapping[int, Interval],
        slopes: Slopes | None,
        *,
        mirror: bool,
        stop: bool,
        spread: bool,
        function: bool,
    ) -> RowBounds:
        """One pass with all rows at once; arguments as of `run`."""
        problem, places = self.problem, rows if isinstance(rows, Places) else None
        pending, total, near = self._begin(start, rows, mirror, found)
        wide = torch.zeros_like(total)
        reached: dict[int, Tensor] = {}
        for index in range(start, -1, -1):
            a = pending.pop(index, None)
            if a is None:
                continue
            here = places if places is not None and index in places.plan.windows else None
            if index in problem.program.inputs:
                position = problem.program.inputs.index(index)
                if here is not None and not function:
                    near = near + here.lower(a, problem.sets[position], index)
                else:
                    reached[position] = a if here is None else here.spread(a, here.plan.windows[index], index)
                continue
            site = problem.sites[index]
            if stop and problem.relaxes(index):
                pre, box = site.node.pre, found[index]
                flat = samples_first(a, pre, problem.batch)
                c, r = (samples_first(t[None], pre, problem.batch)[0] for t in (box.center, box.radius))
                radius = torch.einsum("sbn,bn->sb", flat.abs(), r)
                total = total + torch.einsum("sbn,bn->sb", flat, c) - radius
                wide = wide + 2 * radius
                continue
            alpha = None
            if slopes is not None:
                alpha = slopes.of(start, index, placed=here is not None)
                site.lines = None  # each pass of an ascent differentiates lines of its own
            if here is None:
                grads, bias = problem.rule(index).backward(site, a, [found[i] for i in site.hot], alpha)
                total = total + bias
            else:
                small, x = here.operator(problem, index, found, alpha)
                grads, bias = problem.rule(index).backward(small, a, x, alpha)
                grads = [here.carry(grad, index, i) for i, grad in zip(site.hot, grads, strict=True)]
                near = near + bias
            for i, grad in zip(site.hot, grads, strict=True):
                pending[i] = pending[i] + grad if i in pending else grad
        if places is not None:
            total = total + places.rows(near)
        linear = LinearFunction(reached, total) if function else None
        for i, a in reached.items():
            low = problem.sets[i].lower(a)
            total = total + low
            wide = wide - problem.sets[i].lower(-a) - low if spread else wide
        return RowBounds(total, wide if spread else None, linear)

    def _begin(
        self, start: int, rows: Rows | Places, mirror: bool, found: Mapping[int, Interval]
    ) -> tuple[dict[int, Tensor], Tensor, Tensor]:
        """The coefficients that a pass begins with, by node, and the constants of rows and of rows by place."""
        if isinstance(rows, Places):
            a = rows.begin(start, found[start].low)
            return {start: a}, a.new_zeros(2 * len(rows.slot), rows.batch), a.new_zeros(a.shape[:2])
        site, shape = self.problem.sites.get(start), tuple(found[start].shape)
        merged = None if site is None else self.problem.rule(start).merge(site, rows, shape)
        if site is not None and merged is not None:
            (a, total), index = merged, site.hot[0]
        else:
            flat = rows.dense(self.problem.batch, found[start].low)
            a, index = node_shaped(flat, shape, self.problem.pre(start)), start
            total = torch.zeros(len(rows), self.problem.batch, dtype=flat.dtype, device=flat.device)
        if mirror:
            a, total = torch.cat([a, -a]), torch.cat([total, -total])
        return {index: a}, total, total

    def _at_once(self, node: int, count: int, mirror: bool) -> int:
        """How many rows a pass may have whose largest coefficients are `count` numbers of a row, at a node."""
        problem = self.problem
        row = count * torch.finfo(problem.dtype).bits // 8 * (2 if mirror else 1) * 3
        if self.memory_limit is not None and row > self.memory_limit:
            raise MemoryLimitExceeded(
                f"one row of coefficients needs {row:,} bytes at node {problem.program.nodes[node]}, over the limit "
                f"of {self.memory_limit:,}: bound a smaller batch, or raise memory_limit"
            )
        most = max(1, (self.memory_limit or CHUNK.get(problem.inputs[0].device.type, 1 << 28)) // row)
        return most if self.chunk is None else min(most, self.chunk)


def _joined(parts: Sequence[RowBounds], join: Callable[[list[Tensor]], Tensor]) -> RowBounds:
    """The bounds of all rows, from those of chunks of them."""
    spreads = [part.spread for part in parts if part.spread is not None]
    some = [part.function for part in parts if part.function is not None]
    function = None
    if some:
        function = LinearFunction({i: join([f.a[i] for f in some]) for i in some[0].a}, join([f.bias for f in some]))
    return RowBounds(join([part.low for part in parts]), torch.cat(spreads) if spreads else None, function)


def _halves(parts: Sequence[Tensor]) -> Tensor:
    """Rows and their negatives in chunks, (2 s, B, ...) each -> all rows, and then all negatives."""
    halves = [part.chunk(2) for part in parts]
    return torch.cat([*(h[0] for h in halves), *(h[1] for h in halves)])
