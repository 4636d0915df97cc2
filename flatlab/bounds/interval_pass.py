"""The intervals of all nodes, in turn: by interval arithmetic alone, or tightened by forward or backward passes."""

from collections.abc import Collection

import torch
from torch import Tensor

from flatlab.bounds.backward_pass import BackwardPass
from flatlab.bounds.forward_pass import ForwardPass
from flatlab.bounds.interval import Interval
from flatlab.bounds.nodes import node_shaped, reach, samples_first
from flatlab.bounds.problem import Problem
from flatlab.bounds.rows import Identity
from flatlab.bounds.slopes import Slopes


class IntervalPass:
    """The intervals of the nodes of a problem, kept by the method that found them.

    Args:
        problem: what is asked.
        forward, backward: passes that tighten intervals.
        sparse: bound only those neurons inside that are not known to be on or off.
    """

    def __init__(self, problem: Problem, forward: ForwardPass, backward: BackwardPass, *, sparse: bool) -> None:
        self.problem, self.forward, self.backward, self.sparse = problem, forward, backward, sparse
        self._kept: dict[tuple[str, bool], dict[int, Interval]] = {}

    def by(self, kind: str) -> dict[int, Interval]:
        """The intervals of all perturbed nodes: by "ibp", "forward" or "crown"."""
        key = (kind, torch.is_grad_enabled())  # what was computed without a graph must not serve a gradient
        if key not in self._kept:
            self._kept[key] = {}
            self.grow(kind, self._kept[key])
        return self._kept[key]

    def tail(self) -> dict[int, Interval]:
        """Those of the output and of what only affine operators separate from it; the others are freed once used."""
        if ("ibp", False) in self._kept:
            return self._kept["ibp", False]
        sites, found = self.problem.sites, dict[int, Interval]()
        behind = lambda i: sites[i].hot if i in sites and not self.problem.relaxes(i) else ()  # noqa: E731
        self.grow("ibp", found, kept=reach([self.problem.output], behind))
        return found

    def grow(
        self,
        kind: str,
        found: dict[int, Interval],
        slopes: Slopes | None = None,
        kept: Collection[int] | None = None,
    ) -> None:
        """Find the intervals of all nodes in turn.

        Args:
            kind: "ibp", "forward" or "crown".
            found: where they are written, by node.
            slopes: free slopes of the passes of "crown"; None for the default ones.
            kept: nodes whose intervals are held, others only until their last use; None holds all.
        """
        problem = self.problem
        over = {} if kept is None else self._last_uses(kept)
        for i, region in problem.sets.items():
            found[problem.program.inputs[i]] = region.interval()
        demanding = problem.demanding() if kind == "crown" else {}
        if kind == "forward":
            self.forward.check_room(self.by("ibp"))
        for index, site in problem.sites.items():
            box = problem.rule(index).interval(site, [found[i] for i in site.hot])
            if site.node.hint is not None and site.node.hint[1].index in found:
                how, of = site.node.hint
                box = box.meet(*how(found[of.index].low, found[of.index].high))
            if kind == "forward":
                box = box.meet(*self.forward.ends(self.forward.at(index, found), site.node.pre))
            elif index in demanding:
                if slopes is not None:
                    box = box.meet(slopes.base[index].low, slopes.base[index].high)
                box = self._tighten(index, box, found, demanding[index], slopes)
            found[index] = box
            for i in over.get(index, ()):
                found.pop(i, None)  # what a hint refers to need not be perturbed

    def open(self, index: int, box: Interval, signs: bool) -> Tensor:
        """Which numbers of each sample a backward pass should bound, bool (B, N).

        Args:
            index: the node.
            box: its interval.
            signs: only signs matter, so that those of open sign are meant; otherwise those that are not points.
        """
        pre, batch = self.problem.pre(index), self.problem.batch
        low, high = (samples_first(t.detach()[None], pre, batch)[0] for t in (box.low, box.high))
        return (low < 0) & (high > 0) if signs and self.sparse else low < high

    def _last_uses(self, kept: Collection[int]) -> dict[int, list[int]]:
        """Node -> those nodes, apart from `kept`, whose intervals it is the last to use."""
        last: dict[int, int] = {}
        for index, site in self.problem.sites.items():
            hint = site.node.hint
            last |= dict.fromkeys(site.hot if hint is None else (*site.hot, hint[1].index), index)
        over: dict[int, list[int]] = {}
        for i in last.keys() - set(kept):
            over.setdefault(last[i], []).append(i)
        return over

    def _tighten(
        self, index: int, box: Interval, found: dict[int, Interval], signs: bool, slopes: Slopes | None
    ) -> Interval:
        """Bound a node by a backward pass of its own; where only signs matter, just what is open."""
        pre, batch = self.problem.pre(index), self.problem.batch
        open_ = self.open(index, box, signs)
        rows = (open_.any(0) if slopes is None else slopes.rows(index, open_[0])).nonzero()[:, 0]
        if not len(rows) or self.problem.settled(index):
            return box
        run = self.backward.run(index, Identity(rows, open_.shape[1]), {**found, index: box}, slopes=slopes).low
        full = [samples_first(t[None], pre, batch)[0] for t in (box.low, box.high)]
        known = ~(run[: len(rows)] + run[len(rows) :]).T.isnan()  # what is not a number says nothing
        own = open_[:, rows] & known  # a sample has the same bounds in any company
        lo = torch.where(own, run[: len(rows)].T, full[0][:, rows])
        hi = torch.where(own, -run[len(rows) :].T, full[1][:, rows])
        if slopes is not None:  # what is no better than what is known must feel the gradient, or it never becomes so
            lo = torch.maximum(lo, full[0][:, rows]).detach() + (lo - lo.detach())  # exact: the latter is 0
            hi = torch.minimum(hi, full[1][:, rows]).detach() + (hi - hi.detach())
        full = [t.index_copy(1, rows, new) for t, new in zip(full, (lo, hi), strict=True)]
        ends = [node_shaped(t[None], box.shape, pre)[0] for t in full]
        return box.meet(*ends) if slopes is None else Interval(torch.minimum(*ends), torch.maximum(*ends))
