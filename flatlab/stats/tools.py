"""Checks of arguments, and the elementary tests that the statistics share."""

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Alternative = Literal["two-sided", "greater", "less"]


def finite(name: str, value: float) -> float:
    """Return `value` as a float, or raise ValueError for NaN and infinity."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}; an estimate that could not be made is None")
    return number


def vector(name: str, values: ArrayLike) -> Array:
    """Return `values` as a finite, non-empty float array (n,), or raise ValueError."""
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a non-empty list of numbers (n,), got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity at index {int(np.flatnonzero(~np.isfinite(array))[0])}")
    return array


def confidence(level: float) -> float:
    """Return a confidence level, or raise ValueError unless it lies in (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level!r}; write 95 % as 0.95")
    return level


def side(alternative: Alternative) -> Alternative:
    """Return the alternative, or raise ValueError."""
    if alternative not in ("two-sided", "greater", "less"):
        raise ValueError(f"unknown alternative {alternative!r}: choose two-sided, greater or less")
    return alternative


def percent(level: float) -> str:
    """A confidence level as a reader sees it: "95 %"."""
    return f"{100 * confidence(level):.6g} %"


def tail(null: Array, observed: float, alternative: Alternative) -> float:
    """Share of the null distribution that is at least as extreme as the observed value."""
    slack = 1e-12 * max(1.0, abs(observed))  # equal values may differ by rounding
    above, below = float(np.mean(null >= observed - slack)), float(np.mean(null <= observed + slack))
    both = float(np.mean(np.abs(null) >= abs(observed) - slack))
    return {"greater": above, "less": below, "two-sided": both}[side(alternative)]


def t_interval(values: Array, level: float) -> tuple[float, float]:
    """Student's interval of the mean of at least two values; no width where they are all equal."""
    from scipy.stats import t

    half = float(t.ppf((1 + confidence(level)) / 2, values.size - 1)) * values.std(ddof=1) / math.sqrt(values.size)
    return float(values.mean() - half), float(values.mean() + half)


def t_intervals_without(values: Array, level: float) -> tuple[float, float, float, float] | None:
    """Student's intervals without one of the values, each left out in turn: the least and the largest of their low
    ends, the least and the largest of their high ends. None for two values, which leave one."""
    from scipy.stats import t

    n = values.size
    if n < 3:
        return None
    means = (values.sum() - values) / (n - 1)
    variances = [np.delete(values, i).var(ddof=1) for i in range(n)]
    half = float(t.ppf((1 + confidence(level)) / 2, n - 2)) * np.sqrt(variances) / math.sqrt(n - 1)
    low, high = means - half, means + half
    return float(low.min()), float(low.max()), float(high.min()), float(high.max())


def t_test(values: Array, null: float, alternative: Alternative) -> float:
    """p of Student's one-sample test; 0, 1/2 or 1 in the limit where the values are all equal."""
    from scipy.stats import t

    error, shift = values.std(ddof=1) / math.sqrt(values.size), float(values.mean()) - null
    score = shift / error if error > 0 else math.copysign(math.inf, shift) if shift else 0.0
    above, below = float(t.sf(score, values.size - 1)), float(t.cdf(score, values.size - 1))
    return {"greater": above, "less": below, "two-sided": min(1.0, 2 * min(above, below))}[side(alternative)]


def reach_zero(low: float, high: float, p: float, level: float) -> tuple[float, float]:
    """Widen an interval to reach 0 where the two-sided test of 0 does not reject at `level`.

    Resampling few values gives intervals that are too short, of no width at all if the values agree; the exact test
    knows how little they can show.
    """
    return (min(low, 0.0), max(high, 0.0)) if p > 1 - level else (low, high)
