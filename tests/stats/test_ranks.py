"""Correlations over points and over kinds of points."""

import itertools
import json

import numpy as np
import pytest
import scipy.stats

from flatlab import stats
from flatlab.stats import less, verdict


def test_spearman_equals_scipy():
    x, y = [1, 2, 3, 4, 5, 6], [6.0, 5, 4, 3, 1, 2]
    ours = stats.spearman(x, y)
    assert ours.value == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    assert -1 <= ours.low <= ours.value < ours.high < 0
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 14), rng.integers(0, 6, 14)
    assert stats.spearman(x, y).value == pytest.approx(scipy.stats.spearmanr(x, y).statistic)


def test_perfect_order_of_four_points_shows_nothing():
    estimate = stats.spearman([1, 2, 3, 4], [4, 3, 2, 1])  # 2 of 24 orders are as extreme
    assert estimate.value == pytest.approx(-1)
    assert verdict(estimate, less(0)) == "inconclusive"
    assert verdict(stats.spearman([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]), less(0)) == "supported"  # 2 of 120
    flat = stats.spearman([1, 1, 1], [1, 2, 3])
    assert (flat.value, flat.low) == (0, None)
    with pytest.raises(ValueError, match="at least 3 kinds"):
        stats.spearman([1, 2, 3, 4], [1, 2, 3, 5], groups=list("aabb"))


def test_pearson_equals_scipy_and_sees_values_not_ranks():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 7))
    y += x
    ours = stats.pearson(x, y)
    r = scipy.stats.pearsonr(x, y).statistic
    p = np.mean([abs(np.corrcoef(x, order)[0, 1]) >= abs(r) - 1e-12 for order in itertools.permutations(y)])
    assert ours.value == pytest.approx(r)
    assert stats.permutation_test(x, y, kind="Pearson") == pytest.approx((r, p))
    assert (ours.low <= 0 <= ours.high) == (p > 0.05)
    assert ours.kind.startswith("Pearson")
    assert stats.pearson(3 * x - 1, y).value == pytest.approx(ours.value)
    far = np.array([1, 2, 3, 4, 5, 100.0])
    assert stats.spearman(far, far**3).value == pytest.approx(1)
    assert stats.pearson(far, np.array([5, 4, 3, 2, 1, 100.0])).value > 0.99  # one point decides
    assert stats.pearson(far, np.ones(6)).low is None
    assert stats.recompute(json.loads(json.dumps(ours.source))).high == ours.high


def test_permutation_test_of_ranks():
    assert stats.permutation_test([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx((-1, 2 / 24))
    x = np.arange(12.0)
    rho, p = stats.permutation_test(x, x)  # drawn orders, of which the one found is one
    assert rho == pytest.approx(1)
    assert p == pytest.approx(1 / 2001)


def test_methods_of_one_kind_are_not_independent():
    """Kinds that differ in both values for no common reason: resampling methods finds an order, kinds find none."""
    rng, alone, kinds = np.random.default_rng(12), 0, 0
    groups = np.repeat(list("abcdef"), 4)
    for _ in range(40):
        x, y = (np.repeat(rng.normal(size=6), 4) + 0.1 * rng.normal(size=24) for _ in range(2))
        alone += verdict(stats.spearman(x, y, without=False), less(0)) != "inconclusive"
        kinds += verdict(stats.spearman(x, y, groups=groups, without=False), less(0)) != "inconclusive"
    assert alone / 40 > 0.2
    assert kinds / 40 < 0.12
    assert stats.spearman(x, y, groups=groups).n == 6
