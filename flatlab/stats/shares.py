"""Shares of trials, exact numbers, and trials that should never fail.

Source: Clopper & Pearson 1934. The interval of a share covers at least its nominal level, at any n.
"""

import numpy as np
from numpy.typing import ArrayLike

from flatlab.stats.estimate import Estimate, analysis
from flatlab.stats.tools import confidence, percent, vector


@analysis("hits")
def share(hits: ArrayLike, *, level: float = 0.95) -> Estimate:
    """The share of independent trials that succeeded, with the interval of Clopper and Pearson.

    Args:
        hits: (n,) truth values.
        level: of the interval.
    """
    found = vector("hits", hits)
    if not np.isin(found, (0, 1)).all():
        raise ValueError(f"hits must be 0 or 1, got {found[~np.isin(found, (0, 1))][0]:g}")
    tail = (1 - confidence(level)) / 2
    low, high = _clopper_pearson(int(found.sum()), found.size, tail)
    return Estimate(float(found.mean()), low, high, found.size, kind=f"Clopper-Pearson, {percent(level)}")


def proportion(successes: int, n: int, *, level: float = 0.95) -> Estimate:
    """`share` of trials that are only counted.

    Args:
        successes: how many of the trials.
        n: trials.
        level: of the interval.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got {successes} of {n}")
    return share(np.arange(n) < successes, level=level)


@analysis("excesses")
def clean_trials(excesses: ArrayLike, *, tolerance: float = 0.0, level: float = 0.95) -> Estimate:
    """The share of independent random trials that broke a law, for a rule `never(limit)`.

    That none of n random trials broke it does not make it exact: the upper limit, one-sided, is what n clean trials
    allow (n = 10: 26 %, 29: 10 %, 59: 5 %).

    Args:
        excesses: (n,) by how much each trial went beyond what the law allows; negative is within. The largest is
            shown with the estimate, and all are recorded, before the tolerance.
        tolerance: up to which an excess is rounding.
        level: of the limit.
    """
    found = vector("excesses", excesses)
    failed = int((found > tolerance).sum())
    low, high = _clopper_pearson(failed, found.size, 1 - confidence(level))
    kind = f"{failed} of {found.size} trials, largest excess {found.max():.2g}, {percent(level)}"
    return Estimate(failed / found.size, low, high, found.size, kind=kind)


@analysis()
def exact(value: float, *, n: int = 1, level: float = 0.95) -> Estimate:
    """A number without sampling error: an identity, a count, a check of every case that a claim speaks of.

    Args:
        value: the number, which is its own interval.
        n: cases that were looked at.
        level: of no effect; a number that is exact is so at each level.
    """
    return Estimate(value, value, value, n, kind="exact")


def _clopper_pearson(successes: int, n: int, tail: float) -> tuple[float, float]:
    from scipy.stats import beta

    low = float(beta.ppf(tail, successes, n - successes + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, n - successes)) if successes < n else 1.0
    return low, high
