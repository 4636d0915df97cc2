"""Linear functions of the inputs around every node, carried forward operator by operator."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from flatlab.bounds.errors import MemoryLimitExceeded
from flatlab.bounds.interval import Interval
from flatlab.bounds.nodes import LinearBounds, node_shaped, samples_first
from flatlab.bounds.problem import Problem
from flatlab.bounds.rows import Rows


class ForwardPass:
    """Linear bounds of the nodes of a problem, each computed once.

    Args:
        problem: what is asked; parameters cannot be perturbed.
        memory_limit: bytes that linear functions may need at one node; None for no limit.
    """

    def __init__(self, problem: Problem, *, memory_limit: int | None) -> None:
        self.problem, self.memory_limit = problem, memory_limit
        self._known: dict[tuple[int, bool], LinearBounds] = {}

    def at(self, index: int, found: Mapping[int, Interval]) -> LinearBounds:
        """The linear bounds of a node, given the intervals of those before it."""
        key = (index, torch.is_grad_enabled())
        if key in self._known:
            return self._known[key]
        if index in self.problem.program.inputs:
            made = self._inputs()[index]
        else:
            site = self.problem.sites[index]
            lines = [self.at(i, found) for i in site.hot]
            made = self.problem.rule(index).forward(site, [found[i] for i in site.hot], lines)
        self._known[key] = made
        return made

    def rows(self, rows: Rows, line: LinearBounds) -> LinearBounds:
        """Linear bounds of rows of linear functions of the output: lw, uw (D, B, S) and lb, ub (B, S)."""
        problem = self.problem
        dense = rows.dense(problem.batch, line.lb)
        plus, minus = dense.clamp(min=0), dense.clamp(max=0)
        pre = problem.pre(problem.output)

        def mix(low: Tensor, high: Tensor) -> Tensor:
            lo, hi = (samples_first(t, pre, problem.batch) for t in (low, high))
            return torch.einsum("sbk,dbk->dbs", plus, lo) + torch.einsum("sbk,dbk->dbs", minus, hi)

        ends = lambda lo, hi: mix(lo[None], hi[None])[0]  # noqa: E731
        return LinearBounds(
            mix(line.lw, line.uw), ends(line.lb, line.ub), mix(line.uw, line.lw), ends(line.ub, line.lb)
        )

    def ends(self, line: LinearBounds, pre: int) -> tuple[Tensor, Tensor]:
        """The least and the largest values of linear bounds over the sets, (*shape of the node) each."""
        ends = []
        for w, b, sign in ((line.lw, line.lb, 1), (line.uw, line.ub, -1)):
            rows = samples_first(w, pre, self.problem.batch).permute(2, 1, 0) * sign  # (numbers, B, D)
            value = torch.zeros(rows.shape[:2], dtype=w.dtype, device=w.device)
            for i, part in self.by_input(rows).items():
                value = value + self.problem.sets[i].lower(part)
            ends.append(node_shaped((sign * value.T)[None], line.lb.shape, pre)[0] + b)
        return ends[0], ends[1]

    def by_input(self, rows: Tensor) -> dict[int, Tensor]:
        """Coefficients (S, B, D) of all numbers of a sample -> (S, B, *shape) for each perturbed input."""
        found, start = {}, 0
        for i in self.problem.sets:
            x = self.problem.inputs[i]
            size = x[0].numel()
            found[i] = rows[..., start : start + size].reshape(*rows.shape[:2], *x.shape[1:])
            start += size
        return found

    def check_room(self, found: Mapping[int, Interval]) -> None:
        """Raise MemoryLimitExceeded where linear functions of all inputs would need more than the limit at a node."""
        problem = self.problem
        largest = max(found, key=lambda i: math.prod(found[i].shape))
        size = sum(problem.inputs[i][0].numel() for i in problem.sets)
        need = math.prod(found[largest].shape) * size * 2 * torch.finfo(problem.dtype).bits // 8
        if self.memory_limit is not None and need > self.memory_limit:
            raise MemoryLimitExceeded(
                f"linear functions of {size} inputs need {need:,} bytes at node {problem.program.nodes[largest]}, over "
                f"the limit of {self.memory_limit:,}: bound a smaller batch, or by a backward method"
            )

    def _inputs(self) -> dict[int, LinearBounds]:
        """Each perturbed input as a linear function of all of them, by node."""
        if self.problem.weights:
            raise NotImplementedError("forward bounds do not cover perturbed weights: use a backward method")
        inputs = {i: self.problem.inputs[i] for i in self.problem.sets}
        total, made, start = sum(x[0].numel() for x in inputs.values()), {}, 0
        for i, x in inputs.items():
            size = x[0].numel()
            eye = x.new_zeros(total, size)
            eye[start : start + size] = torch.eye(size, dtype=x.dtype, device=x.device)
            w = eye.reshape(-1, 1, *x.shape[1:]).expand(-1, *x.shape)
            made[self.problem.program.inputs[i]] = LinearBounds(w, torch.zeros_like(x), w, torch.zeros_like(x))
            start += size
        return made
