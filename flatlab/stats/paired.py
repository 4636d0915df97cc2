"""Comparisons over pairs, one pair a seed, and shares of trials.

Sources: Holm 1979 (step-down adjustment); Schuirmann 1987 (two one-sided tests); Wilson 1927 (shares).
"""

import itertools
import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike

from flatlab.stats.bootstrap import bootstrap_interval
from flatlab.stats.rules import Estimate, Rule, largest, left_out, within
from flatlab.stats.tools import (
    Alternative,
    Array,
    confidence,
    percent,
    reach_zero,
    t_interval,
    t_intervals_without,
    t_test,
    tail,
    vector,
)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    level: float = 0.95,
    method: Literal["t", "bootstrap"] = "t",
    alternative: Alternative = "two-sided",
    seed: int = 0,
) -> Estimate:
    """Mean of a - b over pairs, one pair a seed, with a two-sided interval.

    Args:
        a, b: (n,) one number per seed, in the same order of seeds. With n = 1 there is no interval.
        method: "t" (Student's interval and test), or "bootstrap" (percentile interval over pairs and sign-flip test;
            the interval is widened to reach 0 where that test does not reject, which it never does below six pairs).
        alternative: concerns p only; "greater" tests mean(a) > mean(b).
    """
    first, second = vector("a", a), vector("b", b)
    if first.shape != second.shape:
        raise ValueError(f"a and b must be paired by seed, got {first.size} and {second.size} values")
    difference, mean = first - second, float(np.mean(first - second))
    n, kind = difference.size, f"paired {method}, {percent(level)}"
    if n == 1:
        return Estimate(mean, None, None, 1, kind="one pair, no interval")
    if method == "t":
        low, high = t_interval(difference, level)
        p = t_test(difference, 0.0, alternative)
        return Estimate(mean, low, high, n, p, kind, t_intervals_without(difference, level))
    if method != "bootstrap":
        raise ValueError(f"unknown method {method!r}: choose t or bootstrap")
    whole = _bootstrap(difference, level, seed)
    rest = left_out([_bootstrap(np.delete(difference, i), level, seed) for i in range(n)])
    return replace(whole, p=_sign_flip(difference, alternative, seed), kind=kind, without=rest)


def paired_differences(
    pairs: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    level: float = 0.95,
    method: Literal["t", "bootstrap"] = "t",
    alternative: Alternative = "two-sided",
    seed: int = 0,
) -> dict[str, Estimate]:
    """`paired_difference` of each (a, b) of a family: Holm-adjusted p, and intervals that hold together at `level`.

    The m intervals are made at level 1 - (1 - level) / m (Bonferroni), so that all verdicts of the family are right
    together with probability `level`.

    Args:
        pairs: name -> (a, b), each (n,), paired by seed.
        level: at which all m intervals hold together.
        method, alternative, seed: as in `paired_difference`.
    """
    if not pairs:
        raise ValueError("the family is empty: name at least one pair")
    own = 1 - (1 - level) / len(pairs)
    single = {
        name: paired_difference(a, b, level=own, method=method, alternative=alternative, seed=seed)
        for name, (a, b) in pairs.items()
    }
    kind = f"paired {method}, {percent(level)} simultaneous over {len(pairs)}"
    tested = [name for name, estimate in single.items() if estimate.p is not None]
    adjusted = dict(zip(tested, holm([cast(float, single[name].p) for name in tested]), strict=True))
    return single | {name: replace(single[name], p=adjusted[name], kind=kind) for name in tested}


def paired_columns(
    table: Any, a: Hashable, b: Hashable, *, by: str | None = None, pick: Callable[[list[Estimate]], Estimate] = largest
) -> Estimate | None:
    """`paired_difference` of two columns of a table with one row a seed.

    Args:
        table: maps a name to a column (n,): a pandas frame, or a dict.
        a, b: the columns.
        by: a level of the frame's index; each of its values is judged by itself, and `pick` chooses among them.

    Returns:
        The estimate, or None if a column is absent or not all of its values are numbers, as where nothing was measured.
    """
    if a not in table or b not in table or any(np.isnan(np.asarray(table[name])).any() for name in (a, b)):
        return None
    if by is None:
        return paired_difference(table[a], table[b])
    return pick([paired_difference(part[a], part[b]) for _, part in table.groupby(by)])


def equivalence(
    a: ArrayLike, b: ArrayLike, *, margin: float | tuple[float, float], alpha: float = 0.05
) -> tuple[Estimate, Rule]:
    """Two one-sided t-tests that the mean of a - b lies inside the margin, with the rule that belongs to them.

    The interval has level 1 - 2 alpha; it lies within the margin exactly when both tests reject at `alpha`, and p is
    the larger of their two p-values.

    Args:
        a, b: (n,) paired as in `paired_difference`.
        margin: (lo, hi) in the units of a and b; a single m means (-m, m).
        alpha: level of each test.

    Returns:
        The estimate and `within(*margin)`.
    """
    lo, hi = margin if isinstance(margin, tuple) else (-abs(margin), abs(margin))
    estimate = paired_difference(a, b, level=1 - 2 * alpha)
    difference = vector("a", a) - vector("b", b)
    p = None
    if difference.size > 1:
        p = max(t_test(difference, lo, "greater"), t_test(difference, hi, "less"))
    return replace(estimate, p=p), within(lo, hi)


def proportion(successes: int, n: int, *, level: float = 0.95) -> Estimate:
    """A share of independent trials with Wilson's interval.

    Args:
        successes: how many of the trials.
        n: trials.
        level: of the interval.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got {successes} of {n}")
    whole = _wilson(successes, n, level)
    fewer = [_wilson(hits, n - 1, level) for hits in (successes - 1, successes) if 0 <= hits <= n - 1 and n > 1]
    return replace(whole, without=left_out(fewer))


def _wilson(successes: int, n: int, level: float) -> Estimate:
    from scipy.stats import norm

    z = float(norm.ppf((1 + confidence(level)) / 2))
    share, scale = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Estimate(share, max(centre - half, 0.0), min(centre + half, 1.0), n, kind=f"Wilson, {percent(level)}")


def holm(p: ArrayLike) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given."""
    raw = np.atleast_1d(np.asarray(p, dtype=float))
    if not ((raw >= 0) & (raw <= 1)).all():  # written so that NaN fails too
        raise ValueError(f"p-values must lie in [0, 1], got {raw.tolist()}")
    order = np.argsort(raw, kind="stable")
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(raw[order] * np.arange(raw.size, 0, -1)), 1.0)
    return adjusted.tolist()


def _bootstrap(values: Array, level: float, seed: int) -> Estimate:
    """Of the mean, reaching 0 where the sign-flip test does not reject."""
    found = bootstrap_interval(values, np.mean, level=level, seed=seed)
    if found.low is None or found.high is None:
        return found
    low, high = reach_zero(found.low, found.high, _sign_flip(values, "two-sided", seed), level)
    return replace(found, low=low, high=high)


def _sign_flip(values: Array, alternative: Alternative, seed: int) -> float:
    if values.size <= 12:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=values.size)))
    else:
        signs = np.random.default_rng(seed).choice((1.0, -1.0), size=(10_000, values.size))
        signs[0] = 1.0
    return tail(signs @ values / values.size, float(values.mean()), alternative)
