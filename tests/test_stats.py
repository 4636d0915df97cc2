"""Statistics against scipy and hand numbers, the laws of verdicts, and how often intervals cover the truth."""

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from flatlab import stats
from flatlab.stats import Estimate, Rule, greater, less, never, verdict, within

numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 6))
rules = st.one_of(
    numbers.map(greater), numbers.map(less), st.tuples(numbers, numbers).map(lambda b: within(min(b), max(b)))
)
intervals = st.tuples(numbers, numbers).map(sorted)
samples = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, max_size=9)
few = settings(deadline=None, max_examples=60)


def interval(low, high):
    return Estimate((low + high) / 2, low, high, 5)


# --- estimates, rules, verdicts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "low", "high", "expected"),
    [
        (greater(0), 0.1, 2, "supported"),
        (greater(0), 0, 2, "inconclusive"),
        (greater(0), -2, 0, "contradicted"),
        (less(0), -2, -0.1, "supported"),
        (less(0), -2, 0, "inconclusive"),
        (less(0), 0, 2, "contradicted"),
        (within(-3, 3), -3, 3, "supported"),
        (within(-3, 3), -1, 3.1, "inconclusive"),
        (within(-3, 3), -4, 4, "inconclusive"),
        (within(-3, 3), 3.1, 4, "contradicted"),
        (within(-3, 3), -5, -3.1, "contradicted"),
    ],
)
def test_verdict_by_hand(rule, low, high, expected):
    assert verdict(interval(low, high), rule) == expected


def test_verdict_without_numbers():
    assert verdict(None, greater(0)) == "not run"
    assert verdict(Estimate(5.0, None, None, 1), greater(0)) == "inconclusive"
    assert verdict(stats.exact(0.0, n=100), within(0, 1e-9)) == "supported"
    assert verdict(stats.exact(1e-3), within(0, 1e-9)) == "contradicted"


@few
@given(intervals, st.floats(0, 1e3), st.floats(0, 1e3), rules)
def test_widening_an_interval_never_adds_certainty(ends, down, up, rule):
    narrow = verdict(interval(*ends), rule)
    wide = verdict(interval(ends[0] - down, ends[1] + up), rule)
    assert wide in (narrow, "inconclusive")


@few
@given(intervals, numbers)
def test_greater_and_less_are_mirror_images(ends, threshold):
    low, high = ends
    assert verdict(interval(low, high), greater(threshold)) == verdict(interval(-high, -low), less(-threshold))


@few
@given(st.one_of(rules, numbers.map(never)))
def test_rules_survive_being_written(rule):
    assert Rule.parse(str(rule)) == rule


def test_rules_read_well():
    assert [str(rule) for rule in (greater(0), less(-0.5), within(-3, 1e-9), never(0.05))] == [
        "low > 0",
        "high < -0.5",
        "within [-3, 1e-09]",
        "none, high < 0.05",
    ]
    with pytest.raises(ValueError, match="cannot read the rule"):
        Rule.parse("__import__('os')")
    with pytest.raises(ValueError, match="lo <= hi"):
        within(1, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_errors(bad):
    for make in (
        lambda: Estimate(bad, 0, 1, 3),
        lambda: Estimate(0, 0, bad, 3),
        lambda: greater(bad),
        lambda: stats.exact(bad),
        lambda: stats.paired_difference([1, bad], [0, 0]),
        lambda: stats.spearman([1, 2, bad], [1, 2, 3]),
        lambda: stats.pearson([1, 2, 3], [1, bad, 3]),
        lambda: stats.crossed_difference([[1, bad], [0, 0]], [[0, 0], [0, 0]]),
        lambda: stats.trend([[1, bad]], [0, 1]),
        lambda: stats.clean_trials([bad]),
    ):
        with pytest.raises(ValueError, match=r"finite|NaN"):
            make()
    with pytest.raises(ValueError, match="p-values"):
        stats.holm([0.1, bad])


def test_estimates_refuse_nonsense():
    for wrong in (
        {"low": 1, "high": 0},
        {"low": 1, "high": None},
        {"low": 0, "high": 1, "p": 1.5},
        {"low": 0, "high": 1, "n": 0},
    ):
        with pytest.raises(ValueError, match=r"low|both ends|p must|n must"):
            Estimate(**{"value": 0.5, "n": 3} | wrong)
    assert type(Estimate(np.float32(1), np.float64(0), 2, np.int64(3)).low) is float  # plain numbers, ready for JSON


# --- pairs ------------------------------------------------------------------------------------------------------------

A, B = [5.1, 4.9, 6.2, 5.7, 6.0], [4.8, 5.0, 5.1, 5.25, 5.5]


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


# --- seeds crossed with samples ---------------------------------------------------------------------------------------

GENERATOR = np.random.default_rng(11)
HITS = GENERATOR.random((6, 40)) < 0.9, GENERATOR.random((6, 40)) < 0.8


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


# --- shares and trials ------------------------------------------------------------------------------------------------


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


# --- several at once --------------------------------------------------------------------------------------------------


def test_smallest_and_largest():
    one, other = stats.paired_difference(A, B), stats.paired_difference(np.add(A, [0.1, 0.3, 0, 0.2, 0.35]), B)
    low, high = stats.smallest([one, other]), stats.largest([one, other])
    assert (low.value, low.low, high.value, high.high) == (one.value, one.low, other.value, other.high)
    assert low.high == one.at(0.975).high  # may refute only where both hold together
    assert high.low == other.at(0.975).low
    assert stats.smallest([one, stats.paired_difference([1.0], [1.0])]).low is None
    with pytest.raises(ValueError, match="no estimates"):
        stats.smallest([])


def test_the_worst_of_four_is_rarely_refuted_by_chance():
    rng, wrong = np.random.default_rng(2), 0
    for _ in range(300):
        four = [stats.mean(rng.normal(0, 1, 6), without=False) for _ in range(4)]
        wrong += verdict(stats.smallest(four, without=False), greater(0)) == "contradicted"
    assert wrong / 300 < 0.05  # one in ten if each could refute at 95 %


def test_a_family_is_adjusted():
    rng = np.random.default_rng(4)
    made = {
        name: (stats.mean(rng.normal(shift, 1, 8)), greater(0))
        for name, shift in zip("abc", (3, 0.9, 0.2), strict=True)
    }
    raw = {name: stats.p_value(*pair) for name, pair in made.items()}
    family = stats.judged(made)
    assert [family[name].p for name in "abc"] == pytest.approx(stats.holm(list(raw.values())))
    for found in family.values():
        assert (found.p < 0.05) == (verdict(found, greater(0)) != "inconclusive")
    assert ends(family["a"]) == ends(made["a"][0].at(1 - 0.05 / 3))
    assert stats.judged({"a": made["a"]})["a"].low == made["a"][0].low
    assert family["a"].source == made["a"][0].source  # of the level before adjustment


def test_holm_decides_what_bonferroni_leaves_open():
    rng = np.random.default_rng(0)
    sure = stats.mean(rng.normal(5, 1, 9))
    for shift in np.linspace(0.3, 1.2, 200):
        near = stats.mean(rng.normal(shift, 1, 9))
        if 0.025 < stats.p_value(near, greater(0)) < 0.05:
            family = stats.judged({"sure": (sure, greater(0)), "near": (near, greater(0))})
            assert verdict(near.at(0.975), greater(0)) == "inconclusive"
            assert verdict(family["near"], greater(0)) == "supported"
            assert family["near"].p == pytest.approx(stats.p_value(near, greater(0)))
            return
    raise AssertionError("no sample lay between the two")


def test_verdicts_of_a_family_are_right_together():
    rng, wrong = np.random.default_rng(6), 0
    for _ in range(200):
        family = {name: (stats.mean(rng.normal(0, 1, 8), without=False), greater(0)) for name in "abcd"}
        wrong += any(verdict(found, greater(0)) != "inconclusive" for found in stats.judged(family).values())
    assert wrong / 200 < 0.09  # 19 % without adjustment


def test_p_tests_the_rule_that_is_shown():
    found = stats.paired_difference(A, B)
    for threshold in (-0.3, 0.1, 0.6, 1.5):
        peer = scipy.stats.ttest_1samp(np.subtract(A, B), threshold).pvalue
        assert stats.p_value(found, greater(threshold)) == pytest.approx(peer, rel=2e-3)
        assert stats.p_value(found, less(threshold)) == pytest.approx(peer, rel=2e-3)
        assert (peer < 0.05) == (verdict(found, less(threshold)) != "inconclusive")
    assert stats.p_value(stats.exact(1.0), greater(0)) is None
    assert stats.p_value(stats.clean_trials(np.zeros(9)), never(0.5)) is None
    assert stats.p_value(stats.mean([1.0, 1.0]), greater(0)) is None


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_what_could_have_been_seen():
    rng = np.random.default_rng(1)
    runs = [stats.mean(rng.normal(0, 1, 60)) for _ in range(20)]
    seen = np.mean([stats.detectable(run, within(-99, run.value)) for run in runs])
    made = [stats.mean(rng.normal(seen, 1, 60), without=False) for _ in range(400)]
    assert np.mean([verdict(e, greater(0)) == "supported" for e in made]) == pytest.approx(0.8, abs=0.06)
    assert stats.detectable(stats.mean(rng.normal(9, 1, 60)), greater(0)) is None
    assert stats.detectable(None, greater(0)) is None


# --- coverage ---------------------------------------------------------------------------------------------------------

DRAWS = {
    "normal": (lambda rng, n: rng.normal(0.3, 1, n), 0.3),
    "lognormal": (lambda rng, n: rng.lognormal(0, 1, n), math.exp(0.5)),
    "ties": (lambda rng, n: np.rint(rng.normal(0, 1, n)), 0.0),
    "binary": (lambda rng, n: 0.5 * (rng.random(n) < 0.2), 0.1),
    "one outlier": (lambda rng, n: rng.normal(0, 1, n) + 10 * (rng.random(n) < 0.1), 1.0),
}
SAID = {("lognormal", 5): 0.82, ("lognormal", 10): 0.84, ("lognormal", 16): 0.86}
SAID |= {("one outlier", 5): 0.76, ("one outlier", 10): 0.72, ("one outlier", 16): 0.82}


@pytest.mark.parametrize("n", [5, 10, 16, 256])
@pytest.mark.parametrize("name", DRAWS)
def test_means_cover_as_often_as_they_say(name, n):
    draw, truth = DRAWS[name]
    rng, hits, trials = np.random.default_rng(7), 0, 1000
    for _ in range(trials):
        found = stats.mean(draw(rng, n), without=False)
        hits += found.low is None or found.low <= truth <= found.high
    assert hits / trials >= SAID.get((name, n), 0.945) - 0.035
    if (name, n) in SAID:
        assert f"{100 * SAID[name, n]:.0f} %" in stats.paired.__doc__


@pytest.mark.parametrize("n", [5, 10, 16, 256])
@pytest.mark.parametrize("chances", [(0.2, 0.0), (0.3, 0.2), (0.02, 0.01), (0.9, 0.05)])
def test_paired_shares_cover(chances, n):
    rng, hits, trials = np.random.default_rng(8), 0, 600
    for _ in range(trials):
        won = rng.choice(3, size=n, p=(1 - sum(chances), *chances))
        found = stats.paired_difference(won == 1, won == 2, without=False)
        hits += found.low <= chances[0] - chances[1] <= found.high
    assert hits / trials >= 0.9


@pytest.mark.parametrize("chance", [0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("n", [5, 10, 16, 256])
def test_shares_cover(n, chance):
    hits = [stats.proportion(k, n) for k in range(n + 1)]
    covered = [scipy.stats.binom.pmf(k, n, chance) for k, e in enumerate(hits) if e.low <= chance <= e.high]
    assert sum(covered) >= 0.95 - 1e-9


@pytest.mark.parametrize(("seeds", "samples"), [(5, 100), (10, 40), (30, 150)])
@pytest.mark.parametrize("spread", [(0.0, 0.0, 1.0), (1.0, 0.0, 1.0), (0.0, 2.0, 1.0), (0.5, 1.0, 1.0)])
def test_crossing_covers_other_seeds_and_other_samples(spread, seeds, samples):
    rng, hits, trials = np.random.default_rng(9), 0, 400 if seeds < 30 else 150
    by_seed, by_sample, rest = spread
    for _ in range(trials):
        table = by_seed * rng.normal(size=(seeds, 1)) + by_sample * rng.normal(size=samples)
        table = table + rest * rng.normal(size=(seeds, samples))
        found = stats.crossed_difference(table, np.zeros_like(table), without=False)
        hits += found.low <= 0 <= found.high
    assert hits / trials >= 0.91


def test_crossed_hits_cover():
    rng, hits, trials, (seeds, samples_) = np.random.default_rng(10), 0, 300, (8, 120)
    for _ in range(trials):
        hard = np.clip(rng.normal(0.1, 0.1, samples_), 0, 1)  # how hard an image is, for both
        drawn = rng.random((2, seeds, samples_))
        shift = np.array([rng.normal(0.0, 0.02, (seeds, 1)), rng.normal(0.03, 0.02, (seeds, 1))])
        found = stats.crossed_difference(*(drawn > hard + shift), without=False)
        expected = np.mean(np.clip(CHANCES + 0.03, 0, 1) - np.clip(CHANCES, 0, 1))
        hits += found.low <= expected + 0.002 and expected - 0.002 <= found.high
    assert hits / trials >= 0.9


CHANCES = np.clip(np.random.default_rng(0).normal(0.1, 0.1, 100_000), 0, 1)


# --- ranks ------------------------------------------------------------------------------------------------------------


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


# --- made again -------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(3)
PAIRS, BLOCKS = RNG.normal(size=(2, 6)), RNG.normal(size=(6, 4))
KINDS = np.array(list("aabbcdef"))
POINTS = RNG.normal(size=(2, 8))
MADE = {
    "mean": lambda keep: stats.mean(PAIRS[0, keep]),
    "paired": lambda keep: stats.paired_difference(*PAIRS[:, keep]),
    "paired shares": lambda keep: stats.paired_difference(*(PAIRS[:, keep] > 0)),
    "crossed": lambda keep: stats.crossed_difference(BLOCKS[keep], 0 * BLOCKS[keep]),
    "crossed hits": lambda keep: stats.crossed_difference(HITS[0][keep], HITS[1][keep]),
    "equivalence": lambda keep: stats.equivalence(*PAIRS[:, keep]),
    "trend": lambda keep: stats.trend(BLOCKS[keep], np.arange(4)),
    "spearman": lambda keep: stats.spearman(*PAIRS[:, keep]),
    "pearson": lambda keep: stats.pearson(*PAIRS[:, keep]),
    "share": lambda keep: stats.share(PAIRS[0, keep] > 0),
    "smallest": lambda keep: stats.smallest([stats.mean(PAIRS[0, keep]), stats.mean(PAIRS[1, keep] + 9)]),
}


@pytest.mark.parametrize("name", MADE)
def test_without_is_what_leaving_each_out_gives(name):
    every = np.arange(6)
    parts = [MADE[name](np.delete(every, i)) for i in every]
    lows, highs = [part.low for part in parts], [part.high for part in parts]
    found = MADE[name](every).without
    if name == "smallest":  # its parts lose each unit one by one
        assert found[0] <= min(lows)
        assert found[3] >= max(highs)
    else:
        assert found == pytest.approx((min(lows), max(lows), min(highs), max(highs)), abs=1e-12)


@pytest.mark.parametrize("name", [*MADE, "kinds", "exact", "clean trials", "no interval"])
def test_estimates_are_made_again_from_their_source(name):
    more = {
        "kinds": lambda: stats.spearman(*POINTS, groups=KINDS),
        "exact": lambda: stats.exact(3.5, n=2),
        "clean trials": lambda: stats.clean_trials(PAIRS[0], tolerance=2.0),
        "no interval": lambda: stats.mean([0.1, 0.1]),
    }
    made = more[name]() if name in more else MADE[name](np.arange(6))
    source = json.loads(json.dumps(made.source, allow_nan=False))
    assert stats.recompute(source) == made
    narrow = stats.recompute(source, level=0.5)
    if made.low is not None:
        assert made.low <= narrow.low <= narrow.high <= made.high
    assert made.at(0.5).source == made.source


def test_leaving_out_a_kind_leaves_out_all_of_its_methods():
    parts = [stats.spearman(*POINTS[:, kind != KINDS], groups=KINDS[kind != KINDS]) for kind in "abcdef"]
    whole = stats.spearman(*POINTS, groups=KINDS)
    assert whole.without[0] == min(part.low for part in parts)
    assert whole.without[3] == max(part.high for part in parts)


@few
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), min_size=1, max_size=5))
def test_values_survive_being_written(values):
    from flatlab.stats.tools import pack, unpack

    array = np.array(values)
    read = unpack(pack(array))
    assert read == pytest.approx(array, rel=1e-7, abs=0)
    assert np.array_equal(unpack(pack(read)), read)
    assert np.array_equal(unpack(pack(np.vstack([array, -array]))), np.vstack([read, -read]))
    bits = array > 0
    assert np.array_equal(unpack(pack(bits)), bits)
    assert np.array_equal(unpack(pack(bits[None])), bits[None])
    assert unpack(pack(np.array(["a", "b-c"]))).tolist() == ["a", "b-c"]
    with pytest.raises(ValueError, match="single words"):
        pack(np.array(["two words"]))


def test_an_unknown_source_is_named():
    with pytest.raises(ValueError, match="unknown analysis 'exec'"):
        stats.recompute({"by": "exec", "code": "1"})


def test_importing_needs_neither_torch_nor_scipy():
    heavy = "{'torch', 'scipy', 'pandas', 'IPython'}"
    code = f"import sys, flatlab.stats, flatlab.claims; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


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


# --- verdicts that hang by a hair -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "without", "expected"),
    [
        (0.3, 1.3, (0.1, 0.5, 1.2, 1.5), False),
        (0.3, 1.3, (0.0, 0.5, 1.2, 1.5), True),  # without one unit the interval would reach 0
        (0.15, 1.15, None, True),  # a fifth of the width away from 0, and less
        (0.25, 1.25, None, False),
        (-0.5, 0.5, (-0.9, -0.2, 0.2, 0.9), False),  # inconclusive, whoever is left out
        (-0.5, 0.5, (-0.9, 0.1, 0.2, 0.9), True),
        (-0.5, 0.5, (-0.9, -0.2, -0.1, 0.9), True),
        (-1.3, -0.3, (-1.6, -1.2, -0.4, -0.2), False),
        (-1.3, -0.3, (-1.6, -1.2, -0.4, 0.1), True),
    ],
)
def test_fragile_by_hand(low, high, without, expected):
    assert stats.fragile(Estimate((low + high) / 2, low, high, 5, without=without), greater(0)) is expected
    mirrored = None if without is None else tuple(-end for end in reversed(without))
    assert stats.fragile(Estimate(-(low + high) / 2, -high, -low, 5, without=mirrored), less(0)) is expected


def test_fragile_at_the_ends():
    assert not stats.fragile(None, greater(0))
    assert not stats.fragile(Estimate(1.0, None, None, 1), greater(0))
    assert not stats.fragile(stats.exact(0.0, n=2), within(0, 0))
    assert not stats.fragile(Estimate(0.0, -0.5, 0.5, 5), within(-1, 1))
    assert stats.fragile(Estimate(0.0, -0.95, 0.95, 5), within(-1, 1))
    clean, broken = np.zeros(40), np.array([0.0] * 38 + [1.0, 1.0])
    assert not stats.fragile(stats.clean_trials(clean), never(0.1))
    assert stats.fragile(stats.clean_trials(clean), never(0.05))  # undecided
    assert stats.fragile(stats.clean_trials(broken[:-1]), never(0.1))  # by one trial
    assert not stats.fragile(stats.clean_trials(broken), never(0.1))
    assert not stats.fragile(Estimate(-0.5, -1.0, 0.0, 4), less(0))  # reaches 0 by a test of four units
    assert stats.fragile(Estimate(-0.5, -1.0, 0.01, 4), less(0))
    assert stats.fragile(stats.paired_difference([5.0, 5.1], [0, 0]), greater(0))  # one pair has no interval
    assert not stats.fragile(stats.paired_difference([5.0, -5.1], [0, 0]), greater(0))


def test_one_unit_that_decides_is_found():
    steady, lucky = [1.0, 1.1, 0.9, 1.05, 0.95], [3.0, 3.1, 2.9, 3.05, 0.1]
    assert not stats.fragile(stats.paired_difference(steady, [0] * 5), greater(0.5))
    found = stats.paired_difference(lucky, [0] * 5)
    assert verdict(found, greater(2.7)) == "inconclusive"
    assert verdict(stats.paired_difference(lucky[:4], [0] * 4), greater(2.7)) == "supported"
    assert stats.fragile(found, greater(2.7))


def test_without_of_shares():
    one, other = stats.proportion(2, 9), stats.proportion(3, 9)
    assert stats.proportion(3, 10).without == (one.low, other.low, one.high, other.high)
    none = stats.proportion(0, 9)
    assert stats.proportion(0, 10).without == (none.low, none.low, none.high, none.high)
    assert stats.proportion(1, 1).without is None


@few
@given(st.lists(st.tuples(samples, samples), min_size=1, max_size=4))
def test_without_of_the_smallest_covers_each_unit_left_out(pairs):
    n = min(len(values) for pair in pairs for values in pair)
    pairs = [tuple(np.array(values[:n]) for values in pair) for pair in pairs]
    for pick, sign in ((stats.smallest, 1), (stats.largest, -1)):
        found = pick([stats.paired_difference(*pair) for pair in pairs]).without
        assert found is None or n > 2
        for i in range(n if found else 0):
            part = pick([stats.paired_difference(*(np.delete(values, i) for values in pair)) for pair in pairs])
            assert found[0] - 1e-9 <= part.low <= found[1] + 1e-9, sign
            assert found[2] - 1e-9 <= part.high <= found[3] + 1e-9, sign


def test_without_is_checked():
    with pytest.raises(ValueError, match="least and largest"):
        Estimate(0.0, -1.0, 1.0, 5, without=(0.0, -1.0, 1.0, 2.0))
    with pytest.raises(ValueError, match="least and largest"):
        Estimate(0.0, -1.0, 1.0, 5, without=(0.0, 1.0))
    assert Estimate(0.0, -1.0, 1.0, 5, without=[-1, -1, 1, 1]).without == (-1.0, -1.0, 1.0, 1.0)
