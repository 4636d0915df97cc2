"""Several quantities under one claim, and several claims in one family.

Sources: Berger 1982 (a claim of several conditions is tested by testing each); Holm 1979 (step-down adjustment).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from flatlab.stats.estimate import Estimate, analysis_of_parts
from flatlab.stats.rules import Rule, p_value


@analysis_of_parts
def smallest(parts: Sequence[Estimate], *, level: float | None = None, without: bool = True) -> Estimate:
    """The smallest of several quantities, for claims that all of them exceed a threshold ("A > B > C").

    The low end is the smallest low end at `level`: if it exceeds the threshold, then each quantity does, and no
    adjustment is needed. The high end is the smallest high end at the level that lets all of them hold together: one of
    m intervals lies too low by chance m times as often, and must not refute the claim.

    Args:
        parts: estimates of the quantities; n is their smallest.
        level: of the interval of the smallest; None takes that of the parts.
        without: whether to make the intervals without each unit.
    """
    return _extreme(parts, level, without, smallest_wanted=True)


@analysis_of_parts
def largest(parts: Sequence[Estimate], *, level: float | None = None, without: bool = True) -> Estimate:
    """The largest of several quantities, for claims that all of them stay below a threshold; see `smallest`."""
    return _extreme(parts, level, without, smallest_wanted=False)


@analysis_of_parts
def hull(parts: Sequence[Estimate], *, level: float | None = None, without: bool = True) -> Estimate:
    """The interval from the lowest to the highest end of several, for claims that all lie within two thresholds.

    If it lies within them, each quantity does, and no adjustment is needed; it is seldom short enough to refute. The
    value is the one that is farthest from 0. The arguments are those of `smallest`.
    """
    low, high = smallest(parts, level=level, without=without), largest(parts, level=level, without=without)
    value = max((low.value, high.value), key=abs)
    ends = None if low.without is None or high.without is None else (*low.without[:2], *high.without[2:])
    kind = low.kind.replace("smallest", "farthest", 1)
    return Estimate(value, low.low, high.high, low.n, kind=kind, level=low.level, without=ends)


def judged(estimates: Mapping[str, tuple[Estimate, Rule]], *, level: float = 0.95) -> dict[str, Estimate]:
    """Estimates of a family with intervals that hold together, and the p-values of their rules by Holm's method.

    Each of the m intervals is made at level 1 - (1 - level) / m (Bonferroni). Where Holm's step-down decides a rule and
    that interval does not, it is made at the level of its step, so that interval, p and verdict say the same; the
    verdicts of a family are right together with probability `level`. Exact numbers need no adjustment.

    Args:
        estimates: name -> (estimate, rule); a family of one is not adjusted.
        level: at which the verdicts hold together; an estimate of another level, as of two one-sided tests, keeps its
            own in this one's place.
    """
    tested = {name: p for name, pair in estimates.items() if (p := p_value(*pair)) is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    rising, alpha, result = sorted(tested, key=tested.__getitem__), 1 - level, dict[str, Estimate]()
    for name, (estimate, _) in estimates.items():
        result[name] = estimate
        if name in tested and estimate.level is not None:
            decided_by_step = adjusted[name] <= alpha < len(tested) * tested[name]
            share = len(tested) - rising.index(name) if decided_by_step else len(tested)
            made = estimate if share == 1 else estimate.at(1 - (1 - estimate.level) / share)
            result[name] = replace(made, p=adjusted[name])
    return result


def holm(p: ArrayLike) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given."""
    raw = np.asarray(p, dtype=float).reshape(-1)
    if not ((raw >= 0) & (raw <= 1)).all():  # written so that NaN fails too
        raise ValueError(f"p-values must lie in [0, 1], got {raw.tolist()}")
    order = np.argsort(raw, kind="stable")
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(raw[order] * np.arange(raw.size, 0, -1)), 1.0)
    return adjusted.tolist()


def _extreme(parts: Sequence[Estimate], level: float | None, without: bool, *, smallest_wanted: bool) -> Estimate:
    if not parts:
        raise ValueError("no estimates to choose from: name at least one")
    level = max(part.level or 0.95 for part in parts) if level is None else level
    pick = min if smallest_wanted else max
    single = [part.at(level, without=without) for part in parts]
    joint = [part.at(1 - (1 - level) / len(parts), without=without) for part in parts]
    lows, highs = (single, joint) if smallest_wanted else (joint, single)
    low, high = [e.low for e in lows if e.low is not None], [e.high for e in highs if e.high is not None]
    known = len(low) == len(high) == len(parts)
    left = [(a.without[:2], b.without[2:]) for a, b in zip(lows, highs, strict=True) if a.without and b.without]
    ends = None
    if known and len(left) == len(parts):
        a, b, c, d = (pick(column) for column in zip(*[(*low_, *high_) for low_, high_ in left], strict=True))
        ends = (a, b, c, d)
    kind = f"{'smallest' if smallest_wanted else 'largest'} of {len(parts)}, {single[0].kind}"
    return Estimate(
        pick(e.value for e in single),
        pick(low) if known else None,
        pick(high) if known else None,
        min(e.n for e in single),
        kind=kind,
        level=level,
        without=ends,
    )
