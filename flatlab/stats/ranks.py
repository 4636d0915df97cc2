"""Correlations over methods, by kinds of methods: of ranks, and of values."""

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
    return _correlation("Spearman", x, y, groups, level, seed)


@analysis("x", "y", "groups", by="groups")
def pearson(
    x: ArrayLike, y: ArrayLike, *, groups: ArrayLike | None = None, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Pearson's correlation, of the values themselves: made as `spearman` is, whose arguments are those of it.

    The permutation test of kinds takes the kinds' mean values. One point far from the others can decide it: report it
    beside Spearman's, not alone.
    """
    return _correlation("Pearson", x, y, groups, level, seed)


def permutation_test(x: ArrayLike, y: ArrayLike, *, kind: str = "Spearman", seed: int = 0) -> tuple[float, float]:
    """A correlation and its two-sided p over all orders of n points, exact up to n = 8, over 2000 drawn ones above.

    Args:
        x, y: (n,) one number a point, neither all equal.
        kind: "Spearman" or "Pearson".
        seed: of the drawn orders.
    """
    first, second = vector("x", x), vector("y", y)
    points = tuple(zip(first.tolist(), second.tolist(), range(first.size), strict=True))
    return float(_coefficients(first[None], second[None], kind)[0]), _permutation_p(points, seed, kind)


def _correlation(kind: str, x: ArrayLike, y: ArrayLike, groups: ArrayLike | None, level: float, seed: int) -> Estimate:
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
    rho = float(_coefficients(first[None], second[None], kind)[0])
    points = tuple(map(tuple, np.column_stack([first, second, kinds]).tolist()))
    replicates, p = _replicates(points, seed, kind), _permutation_p(points, seed, kind)
    low, high = np.quantile(replicates, [(1 - confidence(level)) / 2, (1 + level) / 2])
    if p > 1 - level:
        low, high = min(low, 0.0), max(high, 0.0)
    over = "" if n == first.size else f" over {n} kinds"
    return Estimate(rho, min(low, rho), max(high, rho), n, kind=f"{kind}, bootstrap{over}, {percent(level)}")


@functools.lru_cache(maxsize=256)
def _replicates(points: tuple[tuple[float, ...], ...], seed: int, kind: str) -> Array:
    x, y, kinds = np.array(points).T
    members, rng = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)], np.random.default_rng(seed)
    draws = [
        np.concatenate([members[i] for i in row]) for row in rng.integers(len(members), size=(RESAMPLES, len(members)))
    ]
    found = np.empty(RESAMPLES)
    sizes = np.array([len(rows) for rows in draws])
    for size in np.unique(sizes):
        rows = np.array([draws[i] for i in np.flatnonzero(sizes == size)])
        found[sizes == size] = _coefficients(x[rows], y[rows], kind)
    return found[~np.isnan(found)]


@functools.lru_cache(maxsize=256)
def _permutation_p(points: tuple[tuple[float, ...], ...], seed: int, kind: str) -> float:
    from scipy.stats import rankdata

    x, y, kinds = np.array(points).T
    values = (rankdata(v) if kind == "Spearman" else v for v in (x, y))
    a, b = (np.array([v[kinds == label].mean() for label in np.unique(kinds)]) for v in values)
    n, rng = a.size, np.random.default_rng(seed)
    if n <= 8:
        rows = np.array(list(itertools.permutations(range(n))))
    else:
        rows = np.vstack([np.arange(n), rng.permuted(np.tile(np.arange(n), (RESAMPLES, 1)), axis=1)])
    null = _coefficients(np.broadcast_to(a, rows.shape), b[rows], kind)
    return float(np.mean(np.abs(null) >= abs(null[0]) - 1e-12))


def _coefficients(x: Array, y: Array, kind: str) -> Array:
    """Row by row; NaN where one of the two is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(v, axis=1) if kind == "Spearman" else v for v in (x, y))
    flat = (np.ptp(a, axis=1) == 0) | (np.ptp(b, axis=1) == 0)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        made: Array = (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.where(flat, np.nan, made)
