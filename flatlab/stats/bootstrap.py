"""Bootstrap intervals, percentile and BCa (Efron & Tibshirani 1993, chapters 13 and 14)."""

from collections.abc import Callable, Sequence
from typing import Literal, cast

import numpy as np
from numpy.typing import ArrayLike

from flatlab.stats.rules import Estimate
from flatlab.stats.tools import Array, confidence, percent, vector


def bootstrap_interval(
    values: ArrayLike | Sequence[ArrayLike],
    statistic: Callable[..., float],
    *,
    level: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
    method: Literal["percentile", "bca"] = "percentile",
    paired: bool = True,
) -> Estimate:
    """Bootstrap interval of `statistic(*arrays)`.

    Args:
        values: one array (n,), or a list or tuple of arrays.
        statistic: called with as many arrays as given; resamples where it is NaN (a correlation of equal values) are
            left out, and an error if they are more than a fifth.
        method: "percentile", or "bca" (corrects bias and skewness by a jackknife).
        paired: draw the same rows from every array; False draws from each by itself, and lengths may differ.
    """
    several = isinstance(values, list | tuple) and len(values) > 0 and np.ndim(values[0]) > 0
    arrays = [vector("values", array) for array in cast(Sequence[ArrayLike], values)] if several else []
    arrays = arrays or [vector("values", cast(ArrayLike, values))]
    sizes = [array.size for array in arrays]
    if paired and len(set(sizes)) > 1:
        raise ValueError(f"paired arrays must have one length, got {sizes}; pass paired=False for independent samples")
    point = float(statistic(*arrays))
    if min(sizes) == 1:
        return Estimate(point, None, None, 1, kind="one value, no interval")
    rng = np.random.default_rng(seed)

    def draw() -> list[Array]:
        if paired:
            rows = rng.integers(sizes[0], size=sizes[0])
            return [array[rows] for array in arrays]
        return [array[rng.integers(array.size, size=array.size)] for array in arrays]

    replicates = np.array([statistic(*draw()) for _ in range(resamples)], dtype=float)
    undefined = np.isnan(replicates)
    if undefined.mean() > 0.2:
        raise ValueError(f"the statistic is undefined in {undefined.sum()} of {resamples} resamples: n is too small")
    tails = np.array([(1 - confidence(level)) / 2, (1 + level) / 2])
    if method == "bca":
        tails = _bca_tails(tails, replicates[~undefined], point, arrays, statistic, paired)
    elif method != "percentile":
        raise ValueError(f"unknown method {method!r}: choose percentile or bca")
    low, high = np.quantile(replicates[~undefined], tails)
    return Estimate(point, low, high, min(sizes), kind=f"bootstrap {method}, {percent(level)}")


def _bca_tails(
    tails: Array, replicates: Array, point: float, arrays: list[Array], statistic: Callable[..., float], paired: bool
) -> Array:
    from scipy.stats import norm

    below = np.mean(replicates < point) + np.mean(replicates == point) / 2
    bias = norm.ppf(np.clip(below, 0.5 / replicates.size, 1 - 0.5 / replicates.size))
    cubes = squares = 0.0
    for index, array in enumerate(arrays[:1] if paired else arrays):
        kept = [
            [np.delete(a, i) if paired or j == index else a for j, a in enumerate(arrays)] for i in range(array.size)
        ]
        jackknife = np.array([statistic(*parts) for parts in kept], dtype=float)
        influence = (jackknife.mean() - jackknife) * (array.size - 1) / array.size
        cubes, squares = cubes + float((influence**3).sum()), squares + float((influence**2).sum())
    skew = cubes / (6 * squares**1.5) if squares > 0 else 0.0
    z = bias + norm.ppf(tails)
    return cast(Array, np.clip(norm.cdf(bias + z / (1 - skew * z)), 0.0, 1.0))
