"""Intervals of means, pairs, shares, and of seeds crossed with samples, against scipy and hand numbers."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from flatlab import stats
from flatlab.stats import Estimate, greater, less, never, verdict, within

samples = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, max_size=9)
few = settings(deadline=None, max_examples=60)
A, B = [5.1, 4.9, 6.2, 5.7, 6.0], [4.8, 5.0, 5.1, 5.25, 5.5]
GENERATOR = np.random.default_rng(11)
HITS = GENERATOR.random((6, 40)) < 0.9, GENERATOR.random((6, 40)) < 0.8


def ends(estimate):
    return estimate.low, estimate.high


def test_paired_t_equals_scipy():
    ours = stats.paired_difference(A, B, level=0.9)
    peer = scipy.stats.ttest_rel(A, B).confidence_interval(0.9)
    assert (ours.value, ours.n) == pytest.approx((np.mean(A) - np.mean(B), 5))
    assert ends(ours) == pytest.approx((peer.low, peer.high))
    assert ours.kind == "paired t, 90 %"
    assert ends(stats.mean(np.subtract(A, B), level=0.9)) == pytest.approx((peer.low, peer.high))


@pytest.mark.parametrize("n", [2, 5, 256])
def test_equal_differences_decide_nothing(n):
    for value in (0.0, 0.5):
        found = stats.paired_difference(np.full(n, value + 0.25), np.full(n, 0.25))
        assert (found.value, found.low, found.high) == (value, None, None)
        assert {verdict(found, rule) for rule in (greater(0), less(0), within(-1, 1))} == {"inconclusive"}
    one = stats.paired_difference([2.0], [1.0])
    assert (one.value, one.low, one.high, one.n) == (1, None, None, 1)


def test_ties_widen():
    tied, spread = [0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.001, -0.001, 0.002, 1.0]
    found, plain = stats.mean(tied), scipy.stats.ttest_1samp(tied, 0).confidence_interval()
    doubled = scipy.stats.ttest_1samp([*tied, 0.0, 1.0], 0).confidence_interval()
    assert ends(found) == pytest.approx((min(plain.low, doubled.low), max(plain.high, doubled.high)))
    assert ends(stats.mean(spread)) == pytest.approx(tuple(scipy.stats.ttest_1samp(spread, 0).confidence_interval()))


def test_paired_shares():
    won = stats.paired_difference(np.ones(256), np.zeros(256))
    assert 0.97 < won.low < won.value == won.high == 1.0
    few_won = stats.paired_difference([1, 1, 1, 1, 1], [0, 0, 0, 0, 0])  # the sign test of five pairs gives p = 1/16
    assert few_won.low == 0
    six = stats.paired_difference([True] * 6, [False] * 6)  # 1/32
    assert six.low > 0
    same = stats.paired_difference([1, 0, 1], [1, 0, 1])
    assert same.low < 0 < same.high
    a, b = [1] * 30 + [0] * 20, [0] * 18 + [1] * 12 + [0] * 12 + [1] * 8
    middle = (18 - 8) / 52
    half = 1.959964 * math.sqrt(((18 + 8 + 1) / 52 - middle**2) / 52)
    found = stats.paired_difference(a, b)
    assert found.low <= middle - half + 1e-6
    assert found.high >= middle + half - 1e-6


def test_a_run_that_diverged_loses():
    a, b = [0.9, math.nan, 0.8], [0.7, 0.75, 0.78]
    with pytest.raises(ValueError, match=r"a holds NaN or infinity at index 1; worst="):
        stats.paired_difference(a, b)
    lost = stats.paired_difference(a, b, worst=0.0)
    assert lost.value == pytest.approx((0.2 - 0.75 + 0.02) / 3)
    assert stats.recompute(lost.source) == lost
    assert stats.paired_difference([math.nan, math.inf, -math.inf], b, worst=0.0).value == pytest.approx(-np.mean(b))


def test_a_bounded_difference_stays_in_its_bounds():
    a, b = [1.0, 0.99, 0.4], [0.0, 0.01, 0.02]
    assert stats.paired_difference(a, b).high > 1
    assert stats.paired_difference(a, b, support=(0, 1)).high == 1
    with pytest.raises(ValueError, match=r"within their support"):
        stats.mean([0.5, 1.5], support=(0, 1))


@settings(deadline=None, max_examples=30)
@given(samples, st.randoms(use_true_random=False))
def test_swapping_the_methods_mirrors_the_interval(a, random):
    b = random.sample(a, len(a))
    one, other = stats.paired_difference(a, b), stats.paired_difference(b, a)
    assert one.value == pytest.approx(-other.value, abs=1e-9)
    if one.low is not None:
        assert ends(one) == pytest.approx((-other.high, -other.low), abs=1e-9)


@few
@given(samples, st.lists(st.booleans(), min_size=2, max_size=9))
def test_a_higher_level_contains_a_lower_one(a, hits):
    for values in (a, hits):
        wide, narrow = (stats.paired_difference(values, [0.0] * len(values), level=level) for level in (0.99, 0.8))
        if wide.low is not None:
            assert wide.low <= narrow.low <= narrow.high <= wide.high


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="paired by unit, got 2 and 3"):
        stats.paired_difference([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"0\.95"):
        stats.paired_difference(A, B, level=95)
    with pytest.raises(ValueError, match="shape"):
        stats.paired_difference([[1.0]], [[1.0]])
    with pytest.raises(ValueError, match="same seeds and samples"):
        stats.crossed_difference(np.ones((2, 3)), np.ones((3, 3)))
    with pytest.raises(ValueError, match="one dose for each of the 3 columns"):
        stats.trend(np.ones((2, 3)), [1, 2])
    with pytest.raises(ValueError, match="without a source"):
        Estimate(1.0, 0.0, 2.0, 3).at(0.9)


def test_equivalence_is_two_one_sided_tests():
    d, found = np.subtract(A, B), stats.equivalence(A, B)
    for margin in (0.3, 0.7, 0.9, 1.1, 3.0):
        above = scipy.stats.ttest_1samp(d, -margin, alternative="greater").pvalue
        below = scipy.stats.ttest_1samp(d, margin, alternative="less").pvalue
        rule = within(-margin, margin)
        assert (verdict(found, rule) == "supported") == (max(above, below) < 0.05)
        if verdict(found, rule) == "supported":
            assert stats.p_value(found, rule) == pytest.approx(max(above, below), rel=1e-3)
    crossed = stats.equivalence(*HITS)
    assert ends(crossed) == ends(stats.crossed_difference(*HITS, level=0.9))


def test_a_trend_is_the_mean_slope():
    data, doses = np.random.default_rng(3).normal(size=(6, 4)), [0.1, 1.0, 2.0, 5.0]
    slopes = [scipy.stats.linregress(doses, row).slope for row in data]
    assert stats.trend(data, doses).value == pytest.approx(np.mean(slopes))
    assert ends(stats.trend(data, doses)) == pytest.approx(ends(stats.mean(slopes)))
    assert stats.trend([[1.0, 2.0]], [0, 1]).low is None


def test_crossing_by_hand():
    a = np.array([[1.0, 2.0, 4.0], [2.0, 3.0, 9.0]])
    found = stats.crossed_difference(a, np.zeros((2, 3)))
    rows, columns, rest = a.mean(1), a.mean(0), a - a.mean(1)[:, None] - a.mean(0) + a.mean()
    seeds, samples_, both = rows.var(ddof=1) / 2, columns.var(ddof=1) / 3, (rest**2).sum() / 2 / 6
    variance = max(seeds + samples_ - both, seeds, samples_)
    freedom = variance**2 / (seeds**2 / 1 + samples_**2 / 2 + both**2 / 2)
    half = scipy.stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert ends(found) == pytest.approx((a.mean() - half, a.mean() + half))
    assert found.n == 2
    assert stats.crossed_difference(a[:1], a[1:]).low is None


def test_crossing_agrees_with_a_bootstrap_of_seeds_and_samples():
    difference = HITS[0].astype(float) - HITS[1]
    rng, (s, n) = np.random.default_rng(0), difference.shape
    rows, columns = rng.integers(s, size=(4000, s)), rng.integers(n, size=(4000, n))
    drawn = [difference[np.ix_(i, j)].mean() for i, j in zip(rows, columns, strict=True)]
    ours, peer = stats.crossed_difference(*HITS), np.quantile(drawn, (0.025, 0.975))
    assert ours.high - ours.low == pytest.approx(np.ptp(peer), rel=0.35)
    assert np.mean(ends(ours)) == pytest.approx(np.mean(peer), abs=0.02)


def test_few_differing_hits_widen():
    a, b = np.ones((3, 30), bool), np.ones((3, 30), bool)
    b[:, 0] = False
    found, added = stats.crossed_difference(a, b), [np.hstack([a, [[1, 0]] * 3]), np.hstack([b, [[0, 1]] * 3])]
    shifted = stats.crossed_difference(added[0] + 0.5, added[1] + 0.5)  # no truth values any more
    assert found.low <= shifted.low < 0
    assert found.high >= shifted.high
    assert stats.crossed_difference(a, a).low is None


def test_crossing_is_wider_than_seeds_alone():
    easy = np.random.default_rng(5).random(40) < 0.5  # on every other image all seeds of one method win
    a, b = np.tile(easy, (6, 1)), np.zeros((6, 40), bool)
    a[np.arange(6), np.arange(6)] ^= True
    alone, crossed = stats.paired_difference(a.mean(1), b.mean(1)), stats.crossed_difference(a, b)
    assert crossed.high - crossed.low > 3 * (alone.high - alone.low)


def test_shares_equal_scipy():
    for k, n in ((0, 10), (3, 10), (10, 10), (120, 400)):
        ours, peer = stats.proportion(k, n), scipy.stats.binomtest(k, n).proportion_ci(0.95, method="exact")
        assert ends(ours) == pytest.approx((peer.low, peer.high), abs=1e-12)
        assert 0 <= ours.low <= ours.high <= 1
    with pytest.raises(ValueError, match="0 or 1"):
        stats.share([0.5])


@pytest.mark.parametrize(("n", "limit"), [(10, 0.2589), (29, 0.0981), (59, 0.0495)])
def test_clean_trials_allow_what_n_allows(n, limit):
    found = stats.clean_trials(np.linspace(-1, 9e-7, n), tolerance=1e-6)
    assert found.high == pytest.approx(limit, abs=1e-4)
    assert "largest excess 9e-07" in found.kind
    assert verdict(found, never(0.3)) == "supported"
    assert verdict(found, never(0.01)) == "inconclusive"
    broken = stats.clean_trials([*np.zeros(n - 1), 1e-5], tolerance=1e-6)
    assert verdict(broken, never(0.99)) == "contradicted"


def test_columns_are_paired_where_both_were_measured():
    table = {"a": [1.0, 2.0, 4.0], "b": [0.0, 0.5, 1.0], "gap": [1.0, np.nan, 2.0]}
    assert stats.paired_columns(table, "a", "b") == stats.paired_difference(table["a"], table["b"])
    assert stats.paired_columns(table, "a", "absent") is None
    with pytest.raises(ValueError, match="worst="):
        stats.paired_columns(table, "gap", "a")
    assert stats.paired_columns(table, "gap", "a", worst=0.0).value == pytest.approx(-4 / 3)


@pytest.mark.parametrize("pick", [stats.largest, stats.smallest])
def test_columns_are_judged_level_by_level(pick):
    index = pd.MultiIndex.from_product([("easy", "hard"), (0, 1, 2)], names=["task", "seed"])
    table = pd.DataFrame({"a": [1.0, 2.0, 3.5, 5.0, 7.0, 9.5], "b": 0.0}, index=index)
    parts = [stats.paired_difference(table.loc[task, "a"], table.loc[task, "b"]) for task in ("easy", "hard")]
    assert stats.paired_columns(table, "a", "b", by="task", pick=pick) == pick(parts)


def test_entries_are_crossed_on_the_seeds_that_both_have():
    table = {"a": HITS[0], "b": HITS[1][:4]}
    assert stats.crossed_columns(table, "a", "b") == stats.crossed_difference(HITS[0][:4], HITS[1][:4])
    assert stats.crossed_columns(table, "b", "a", make=stats.equivalence).level == 0.9
    assert stats.crossed_columns(table, "a", "absent") is None


def test_a_run_that_diverged_loses_by_wins():
    nan, inf = math.nan, math.inf
    won = stats.paired_wins([1, 2, 3, 4, 5, 6], [2, 3, nan, inf, 6, 7])
    assert won.value == 1
    assert won.low > 0
    assert ends(won) == ends(stats.paired_difference([1] * 6, [0] * 6)), "the interval of paired shares"
    assert stats.paired_wins([nan, 1, 1, 1], [1, 2, 1, nan]).value == 0.25, "one lost, two won, one tied"
    assert stats.paired_wins([nan, inf], [nan, nan]).value == 0, "two that diverged tie"
    assert stats.paired_wins([2, -inf, 3, 2], [1, 0, nan, 3], lower=False).value == 0
    assert stats.recompute(won.source) == won
    assert stats.paired_wins([1.0], [nan]).low is None
    for bad in (([1, 2], [1]), ([], []), ([[1]], [[1]])):
        with pytest.raises(ValueError, match=r"paired by unit|non-empty"):
            stats.paired_wins(*bad)


def test_crossed_values_of_a_run_that_diverged_count_as_the_worst():
    a, b = np.arange(12.0).reshape(3, 4), np.ones((3, 4))
    filled = stats.crossed_difference(np.vstack([a, np.full(4, 20.0)]), np.vstack([b, b[:1]]))
    found = stats.crossed_difference(np.vstack([a, np.full(4, np.nan)]), np.vstack([b, b[:1]]), worst=20.0)
    assert (found.value, *ends(found)) == (filled.value, *ends(filled))
    assert stats.equivalence(np.full((2, 3), np.inf), np.zeros((2, 3)), worst=1.0).value == 1
    with pytest.raises(ValueError, match="worst="):
        stats.crossed_difference([[1, np.nan]], [[1, 2]])


def test_no_units_at_all_are_an_error():
    for function in (stats.paired_difference, stats.paired_wins):
        with pytest.raises(ValueError, match="non-empty"):
            function([], [])
