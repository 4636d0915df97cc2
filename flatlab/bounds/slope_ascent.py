"""alpha-CROWN (Xu et al. 2021, arXiv 2011.13824): the free slopes of a backward pass by gradient ascent on its bounds.

Every row of every pass has slopes of its own: (k, rows, B, *shape) in [0, 1] for each relaxed operator, where k = 2 if
both lines have something free. With `joint` this holds for the passes that bound the nodes inside as well. Whatever the
slopes, the bounds are sound, so the best of all steps is kept for each row. A bound that is not a number says nothing,
and a slope whose gradient is not one stays where it is.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from flatlab.bounds.backward_pass import LinearFunction, RowBounds
from flatlab.bounds.interval import Interval
from flatlab.bounds.interval_pass import IntervalPass
from flatlab.bounds.rows import Identity, Rows
from flatlab.bounds.slopes import Ascent, Slopes


def ascend(intervals: IntervalPass, rows: Rows, ascent: Ascent, *, function: bool = False) -> RowBounds:
    """Bound rows of the output and their negatives by `crown` with optimised slopes; without a gradient.

    Args:
        intervals: of the problem; those by "crown" are where the ascent begins.
        rows: S functions of the output's numbers.
        ascent: how long, how fast, and whether the bounds inside are optimised as well.
        function: return the affine functions that won, row by row.
    """
    output, backward = intervals.problem.output, intervals.backward
    with torch.no_grad():
        known = intervals.by("crown")
        best = backward.run(output, rows, known, function=function)
        slopes = _begin(intervals, rows, known, ascent.joint)

    def run() -> RowBounds:
        found = known
        if ascent.joint:
            found = {}
            intervals.grow("crown", found, slopes)
        return backward.run(output, rows, found, slopes=slopes, function=function)

    leaves = list(slopes.table.values())
    if not leaves:
        return best
    adam = torch.optim.Adam(leaves, lr=ascent.lr)
    for _ in range(ascent.iters):
        with torch.enable_grad():
            now = run()
            if not now.low.requires_grad:  # no operator on the way has anything free
                break
            gradients = torch.autograd.grad(-now.low.sum(), leaves, allow_unused=True)
        best = _better(best, now)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = None if gradient is None else gradient.nan_to_num(nan=0.0)
        adam.step()
        adam.param_groups[0]["lr"] *= ascent.decay
        with torch.no_grad():
            for leaf in leaves:
                leaf.clamp_(0, 1)
    with torch.no_grad():
        return _better(best, run())


def _begin(intervals: IntervalPass, rows: Rows, known: Mapping[int, Interval], joint: bool) -> Slopes:
    """The slopes that the ascent begins with."""
    problem = intervals.problem
    slopes = Slopes(base={i: Interval(box.low.detach(), box.high.detach()) for i, box in known.items()})
    starts: dict[int, Rows] = {problem.output: rows}
    if joint:
        ibp = intervals.by("ibp")
        for index, signs in problem.demanding().items():
            mask = intervals.open(index, known[index] if signs else ibp[index], signs).any(0)
            if not bool(mask.any()) or problem.settled(index):
                continue
            slopes.open[index] = mask
            starts[index] = Identity(mask.nonzero()[:, 0], len(mask))
    for start, some in starts.items():
        places = intervals.backward.places(start, some, known)
        for index in problem.behind(start):
            site = problem.sites[index]
            first = problem.rule(index).start(site, [known[i] for i in site.hot])
            if first is None:
                continue
            if places is not None and index in places.plan.windows:
                wide = places.slopes(first.detach(), index)
            else:
                wide = first.detach()[:, None].expand(-1, 2 * len(some), *first.shape[1:])
            slopes.table[start, index] = wide.clone().requires_grad_()
    return slopes


def _better(best: RowBounds, now: RowBounds) -> RowBounds:
    """The better of two bounds, row by row and sample by sample."""
    take = now.low.detach() > best.low  # not where either is NaN
    low = torch.where(take, now.low.detach(), best.low)
    if best.function is None or now.function is None:
        return RowBounds(low)
    old, new = best.function, now.function

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(take.reshape(*take.shape, *[1] * (a.ndim - 2)), a.detach(), b)

    function = LinearFunction({i: pick(a, old.a[i]) for i, a in new.a.items()}, pick(new.bias, old.bias))
    return RowBounds(low, None, function)
