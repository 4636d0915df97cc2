"""Rank correlation, and trends along ordered doses (Page 1963; Jonckheere 1954)."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, cast

import numpy as np
from numpy.typing import ArrayLike

from flatlab.stats.bootstrap import bootstrap_interval
from flatlab.stats.rules import Estimate, left_out
from flatlab.stats.tools import Alternative, Array, confidence, percent, reach_zero, side, t_interval, tail, vector


def spearman(
    x: ArrayLike,
    y: ArrayLike,
    *,
    level: float = 0.95,
    alternative: Alternative = "two-sided",
    resamples: int = 5000,
    seed: int = 0,
) -> Estimate:
    """Spearman's rank correlation with a permutation p and a bootstrap interval over the n points.

    Points must be independent: one per method (means over seeds), never one per method and seed. p is exact up to
    n = 8 and drawn above. A bootstrap of few points is too short (perfect order gives no width at all), so that the
    interval is widened to reach 0 wherever the two-sided permutation test does not reject at `level`.

    Args:
        x, y: (n,) one number a point, n >= 3.
        level: of the interval.
        alternative: concerns p only; "greater" tests for a positive correlation.
        resamples: of the bootstrap, and permutations above n = 8.
        seed: of both.
    """
    whole = _spearman(x, y, level, alternative, resamples, seed)
    if whole.n == 3:
        return whole
    first, second = vector("x", x), vector("y", y)
    rest = [(np.delete(first, i), np.delete(second, i)) for i in range(whole.n)]
    if any(np.ptp(part) == 0 for pair in rest for part in pair):
        return whole
    few = max(resamples // 5, 500)  # the ends of n intervals need no finer a resolution, and n times the time
    return replace(whole, without=left_out([_spearman(*pair, level, alternative, few, seed) for pair in rest]))


def _spearman(
    x: ArrayLike, y: ArrayLike, level: float, alternative: Alternative, resamples: int, seed: int
) -> Estimate:
    first, second = vector("x", x), vector("y", y)
    if first.shape != second.shape or first.size < 3:
        raise ValueError(f"x and y need the same length of at least 3, got {first.size} and {second.size}")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        raise ValueError("x or y is constant: there is no order to correlate")
    n, rng = first.size, np.random.default_rng(seed)
    rho = float(_rank_correlation(first[None], second[None])[0])
    if n <= 8:
        rows = np.array(list(itertools.permutations(range(n))))
    else:
        rows = np.vstack([np.arange(n), rng.permuted(np.tile(np.arange(n), (resamples, 1)), axis=1)])
    null = _rank_correlation(np.broadcast_to(first, rows.shape), second[rows])
    draws = rng.integers(n, size=(resamples, n))
    replicates = _rank_correlation(first[draws], second[draws])
    low, high = np.quantile(replicates[~np.isnan(replicates)], [(1 - confidence(level)) / 2, (1 + level) / 2])
    low, high = reach_zero(low, high, tail(null, rho, "two-sided"), level)
    return Estimate(rho, low, high, n, tail(null, rho, alternative), f"Spearman, bootstrap {percent(level)}")


def trend(
    responses: ArrayLike | Sequence[ArrayLike],
    *,
    method: Literal["page", "jonckheere"] = "page",
    level: float = 0.95,
    alternative: Alternative = "two-sided",
    resamples: int = 5000,
    seed: int = 0,
) -> Estimate:
    """Does the response rise (+1) or fall (-1) along ordered doses?

    Args:
        responses: for "page" (n, k), the same n seeds at each of k doses in order: the value is the mean over seeds of
            the rank correlation of dose and response, with Student's interval. For "jonckheere" k arrays of independent
            repetitions: the value is P(later > earlier) - P(later < earlier) over all pairs of doses, with a bootstrap
            interval within doses and a drawn permutation p.
        alternative: concerns p only; "greater" tests for a rise.

    As in `spearman`, the interval reaches 0 wherever the two-sided test does not reject at `level`.
    """
    if method == "page":
        blocks = np.asarray(responses, dtype=float)
        whole = _page(blocks, level, alternative)
        rest = [_page(np.delete(blocks, i, axis=0), level, alternative) for i in range(whole.n) if whole.n > 2]
        return replace(whole, without=left_out(rest))
    if method != "jonckheere":
        raise ValueError(f"unknown method {method!r}: choose page or jonckheere")
    groups = [vector("responses", group) for group in cast(Sequence[ArrayLike], responses)]
    if len(groups) < 2:
        raise ValueError(f"a trend needs at least 2 doses, got {len(groups)}")
    value, rng = _ascent(*groups), np.random.default_rng(seed)
    pool, cuts = np.concatenate(groups), np.cumsum([group.size for group in groups])[:-1]
    null = np.array([value] + [_ascent(*np.split(rng.permutation(pool), cuts)) for _ in range(resamples)])
    p, n = tail(null, value, alternative), min(group.size for group in groups)
    if n == 1:
        return Estimate(value, None, None, 1, p, "one value a dose, no interval")
    spread = bootstrap_interval(groups, _ascent, level=level, resamples=resamples, seed=seed, paired=False)
    low, high = reach_zero(cast(float, spread.low), cast(float, spread.high), tail(null, value, "two-sided"), level)
    return Estimate(value, low, high, n, p, f"Jonckheere, bootstrap {percent(level)}")


def _page(blocks: Array, level: float, alternative: Alternative) -> Estimate:
    from scipy.stats import page_trend_test, rankdata

    if blocks.ndim != 2 or blocks.shape[1] < 3 or not np.isfinite(blocks).all():
        raise ValueError(f"Page's trend needs finite responses (seeds, doses >= 3), got shape {blocks.shape}")
    n, k = blocks.shape
    ranks, doses = rankdata(blocks, axis=1), np.arange(k) - (k - 1) / 2
    order = ranks @ doses * 12 / (k**3 - k)  # Spearman's coefficient of each seed; 0 where all doses are equal
    if n == 1:
        return Estimate(float(order[0]), None, None, 1, kind="one seed, no interval")
    rise, fall = (float(page_trend_test(data).pvalue) for data in (blocks, blocks[:, ::-1]))
    both = min(1.0, 2 * min(rise, fall))
    low, high = (min(max(end, -1.0), 1.0) for end in t_interval(order, level))
    low, high = reach_zero(low, high, both, level)
    p = {"two-sided": both, "greater": rise, "less": fall}[side(alternative)]
    return Estimate(float(order.mean()), low, high, n, p, f"Page trend, {percent(level)}")


def _ascent(*groups: Array) -> float:
    signs = [np.sign(b[None, :] - a[:, None]).ravel() for a, b in itertools.combinations(groups, 2)]
    return float(np.concatenate(signs).mean())


def _rank_correlation(x: Array, y: Array) -> Array:
    from scipy.stats import rankdata

    a, b = rankdata(x, axis=1), rankdata(y, axis=1)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return cast(Array, (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1)))
