"""Rank correlation over methods, by kinds of methods."""

import functools
import itertools

import numpy as np
from numpy.typing import ArrayLike

from flatlab.stats.estimate import Estimate, TooFew, analysis
from flatlab.stats.tools import Array, confidence, percent, vector

RESAMPLES = 2000


@analysis("x", "y", "groups", by="groups")
def spearman(
    x: ArrayLike, y: ArrayLike, *, groups: ArrayLike | None = None, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Spearman's rank correlation with a bootstrap interval over the n points, or over kinds of points.

    Points must be independent: one a method (a mean over seeds), never one a method and seed. Methods of one kind are
    not independent either: with `groups` whole kinds are resampled, and n is their number. A bootstrap of few points is
    too short (perfect order gives no width at all), so that the interval is widened to reach 0 wherever the two-sided
    permutation test does not reject: of points, or of the kinds' mean ranks. Exact up to 8 of them, drawn above. Values
    that are all equal have no order: 0, without an interval.

    Args:
        x, y: (n,) one number a point, n >= 3.
        groups: (n,) the kind of each point, one word; None makes each a kind of its own.
        level: of the interval.
        seed: of the resamples and the permutations.

    Raises:
        ValueError: fewer than three kinds.
    """
    first, second = vector("x", x), vector("y", y)
    kinds = np.arange(first.size) if groups is None else np.unique(groups, return_inverse=True)[1]
    if first.shape != second.shape or kinds.shape != first.shape or np.unique(kinds).size < 3:
        raise TooFew(
            f"x, y and groups need one length and at least 3 kinds, got {first.size} and {second.size} values of "
            f"{np.unique(kinds).size} kinds"
        )
    n = int(np.unique(kinds).size)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return Estimate(0.0, None, None, n, kind="equal values, no order")
    rho = float(_rank_correlation(first[None], second[None])[0])
    points = tuple(map(tuple, np.column_stack([first, second, kinds]).tolist()))
    replicates, p = _replicates(points, seed), _permutation_p(points, seed)
    low, high = np.quantile(replicates, [(1 - confidence(level)) / 2, (1 + level) / 2])
    if p > 1 - level:
        low, high = min(low, 0.0), max(high, 0.0)
    over = "" if n == first.size else f" over {n} kinds"
    return Estimate(rho, min(low, rho), max(high, rho), n, kind=f"Spearman, bootstrap{over}, {percent(level)}")


@functools.lru_cache(maxsize=256)
def _replicates(points: tuple[tuple[float, ...], ...], seed: int) -> Array:
    x, y, kinds = np.array(points).T
    members, rng = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)], np.random.default_rng(seed)
    draws = [
        np.concatenate([members[i] for i in row]) for row in rng.integers(len(members), size=(RESAMPLES, len(members)))
    ]
    found = np.empty(RESAMPLES)
    sizes = np.array([len(rows) for rows in draws])
    for size in np.unique(sizes):
        rows = np.array([draws[i] for i in np.flatnonzero(sizes == size)])
        found[sizes == size] = _rank_correlation(x[rows], y[rows])
    return found[~np.isnan(found)]


@functools.lru_cache(maxsize=256)
def _permutation_p(points: tuple[tuple[float, ...], ...], seed: int) -> float:
    from scipy.stats import rankdata

    x, y, kinds = np.array(points).T
    a, b = (np.array([rankdata(v)[kinds == kind].mean() for kind in np.unique(kinds)]) for v in (x, y))
    n, rng = a.size, np.random.default_rng(seed)
    if n <= 8:
        rows = np.array(list(itertools.permutations(range(n))))
    else:
        rows = np.vstack([np.arange(n), rng.permuted(np.tile(np.arange(n), (RESAMPLES, 1)), axis=1)])
    null = _rank_correlation(np.broadcast_to(a, rows.shape), b[rows])
    return float(np.mean(np.abs(null) >= abs(null[0]) - 1e-12))


def _rank_correlation(x: Array, y: Array) -> Array:
    from scipy.stats import rankdata

    a, b = rankdata(x, axis=1), rankdata(y, axis=1)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        made: Array = (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return made
