"""Stratified choice of rows that depends on labels and a seed alone.

The draw is an integer hash (SplitMix64: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators")
and no library's generator, so that a split stays the same with every version of numpy and torch.
"""

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def stratified_rows(strata: NDArray[np.int64], size: int, *, seed: int) -> NDArray[np.int64]:
    """Return `size` of N row numbers, ascending, with each stratum represented in proportion.

    A stratum of n rows gives floor or ceil of n * size / N rows: the rows left over after rounding down go to the
    largest remainders, and among equal remainders to the lower stratum.

    Args:
        strata: (N,) integers, the stratum of each row (the label, or label and domain combined).
        size: 0..N.
        seed: any integer.
    """
    total = len(strata)
    _, stratum, counts = np.unique(strata, return_inverse=True, return_counts=True)
    quota, remainder = np.divmod(counts * size, max(total, 1))
    quota[np.argsort(-remainder, kind="stable")[: size - quota.sum()]] += 1

    order = np.lexsort((_keys(total, seed), stratum))  # stratum by stratum, shuffled within
    first = np.cumsum(counts) - counts
    rank = np.arange(total) - first[stratum[order]]
    return np.sort(order[rank < quota[stratum[order]]]).astype(np.int64)


def _keys(n: int, seed: int) -> NDArray[np.uint64]:
    """One key per row, all different; sorting by them shuffles the rows."""
    # The seed is mixed before it is added: adding it raw would make neighbouring seeds shifted copies of each other.
    start = _mix(np.array([seed % 2**64], dtype=np.uint64))
    return _mix(start + np.arange(1, n + 1, dtype=np.uint64) * _GAMMA)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
