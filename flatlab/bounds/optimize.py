"""alpha-CROWN (Xu et al. 2021, arXiv 2011.13824): the free slopes of a backward pass by gradient ascent on its bounds.

Every row of every pass has slopes of its own: (k, rows, B, *shape) in [0, 1] for each relaxed operator, where k = 2 if
both lines have something free. With `joint` this holds for the passes that bound the nodes inside as well. Whatever the
slopes, the bounds are sound, so the best of all steps is kept for each row.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from flatlab import checks
from flatlab.bounds.engine import Bounds
from flatlab.bounds.interval import Interval
from flatlab.bounds.kinds import Rule
from flatlab.bounds.rules import RULES
from flatlab.bounds.specs import Margins


@dataclass(eq=False)
class Alphas:
    """Slopes by (node where a pass starts, node where they are used), and the rows that inner passes bound."""

    table: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    open: dict[int, Tensor] = field(default_factory=dict)
    base: dict[int, Interval] = field(default_factory=dict)
    window: slice | None = None

    def of(self, start: int, index: int) -> Tensor | None:
        """The slopes of one operator in one pass."""
        found = self.table.get((start, index))
        if found is None or self.window is None:
            return found
        halves = found.chunk(2, dim=1)
        return torch.cat([half[:, self.window] for half in halves], dim=1)

    def part(self, start: int, stop: int) -> "Alphas":
        """Those of some rows, and of their negatives."""
        return replace(self, window=slice(start, stop))

    def rows(self, index: int, proposed: Tensor) -> Tensor:
        """Which numbers of a node have slopes: those of the first pass."""
        return self.open.get(index, torch.zeros_like(proposed))


def optimize(
    bounds: Bounds, c: Tensor | Margins | None, *, iters: int, lr: float, joint: bool, decay: float
) -> tuple[Tensor, Tensor]:
    """See `Bounds.alpha_crown`."""
    checks.at_least("iters", iters, 1)
    checks.positive("lr", lr)
    checks.positive("decay", decay)
    with torch.no_grad():
        known = bounds._intervals("crown")
        spec = bounds._spec(c)
        best = bounds._run(bounds.output, spec, known)
        alphas = _begin(bounds, len(spec), known, joint)
    leaves = list(alphas.table.values())
    if not leaves:
        return _result(bounds, best, known, c)
    ascent = torch.optim.Adam(leaves, lr=lr)
    for _ in range(iters):
        with torch.enable_grad():
            found = known
            if joint:
                found = {}
                bounds._grow("crown", found, alphas)
            low = bounds._run(bounds.output, spec, found, alphas=alphas)
            if not low.requires_grad:  # no operator on the way has anything free
                break
            slopes = torch.autograd.grad(-low.sum(), leaves, allow_unused=True)
        best = torch.maximum(best, low.detach())
        for leaf, slope in zip(leaves, slopes, strict=True):
            leaf.grad = slope
        ascent.step()
        ascent.param_groups[0]["lr"] *= decay
        with torch.no_grad():
            for leaf in leaves:
                leaf.clamp_(0, 1)
    with torch.no_grad():
        found = known
        if joint:
            found = {}
            bounds._grow("crown", found, alphas)
        best = torch.maximum(best, bounds._run(bounds.output, spec, found, alphas=alphas))
    return _result(bounds, best, known, c)


def _begin(bounds: Bounds, rows: int, known: dict[int, Interval], joint: bool) -> Alphas:
    alphas = Alphas(base={i: Interval(box.low.detach(), box.high.detach()) for i, box in known.items()})
    starts = {bounds.output: rows}
    if joint:
        ibp = bounds._intervals("ibp")
        for index, signs in bounds._demanding().items():
            mask = bounds.open_rows(index, known[index] if signs else ibp[index], signs)
            if not bool(mask.any()) or bounds._settled(index):
                continue
            alphas.open[index] = mask
            starts[index] = int(mask.sum())
    for start, count in starts.items():
        for index in _behind(bounds, start):
            rule: Rule = RULES[bounds.program.nodes[index].key]
            site = bounds.sites[index]
            first = rule.start(site, [known[i] for i in site.hot])
            if first is not None:
                wide = first.detach()[:, None].expand(-1, 2 * count, *first.shape[1:])
                alphas.table[start, index] = wide.clone().requires_grad_()
    return alphas


def _behind(bounds: Bounds, start: int) -> list[int]:
    """The perturbed operators that the node's value depends on, itself included."""
    found: set[int] = set()
    todo = [start]
    while todo:
        index = todo.pop()
        if index in found or index not in bounds.sites:
            continue
        found.add(index)
        todo += bounds.sites[index].hot
    return sorted(found)


def _result(
    bounds: Bounds, best: Tensor, known: dict[int, Interval], c: Tensor | Margins | None
) -> tuple[Tensor, Tensor]:
    low, high = bounds._both(best)
    if c is not None:
        return low, high
    return bounds.within(known[bounds.output], low, high)
