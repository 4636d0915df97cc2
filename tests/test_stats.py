"""Statistics against scipy and hand numbers, and the laws of verdicts."""

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
from flatlab.stats import Estimate, Rule, greater, less, verdict, within

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
@given(rules)
def test_rules_survive_being_written(rule):
    assert Rule.parse(str(rule)) == rule


def test_rules_read_well():
    assert [str(rule) for rule in (greater(0), less(-0.5), within(-3, 1e-9))] == [
        "low > 0",
        "high < -0.5",
        "within [-3, 1e-09]",
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
        lambda: stats.bootstrap_interval([1, bad], np.mean),
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

A, B = [5.1, 4.9, 6.2, 5.7, 6.0], [4.8, 5.0, 5.1, 5.2, 5.5]


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_paired_t_equals_scipy(alternative):
    ours = stats.paired_difference(A, B, level=0.9, alternative=alternative)
    peer = scipy.stats.ttest_rel(A, B, alternative=alternative)
    ends = scipy.stats.ttest_rel(A, B).confidence_interval(0.9)
    assert (ours.value, ours.p, ours.n) == pytest.approx((np.mean(A) - np.mean(B), peer.pvalue, 5))
    assert (ours.low, ours.high) == pytest.approx((ends.low, ends.high))
    assert ours.kind == "paired t, 90 %"


def test_sign_flip_test_by_hand():
    # all of six differences positive: 2 of 64 sign patterns are as extreme
    estimate = stats.paired_difference([1, 2, 3, 4, 5, 6.0], [0] * 6, method="bootstrap")
    assert estimate.p == pytest.approx(2 / 64)
    assert estimate.low > 0
    one_sided = stats.paired_difference([1, 2, 3, 4, 5, 6.0], [0] * 6, method="bootstrap", alternative="less")
    assert one_sided.p == 1.0


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_a_bootstrap_of_few_pairs_never_excludes_zero(n):
    estimate = stats.paired_difference(np.arange(1.0, n + 1), np.zeros(n), method="bootstrap")
    assert estimate.low <= 0 < estimate.value
    assert verdict(estimate, greater(0)) == "inconclusive"


def test_one_seed_has_no_interval():
    for method in ("t", "bootstrap"):
        estimate = stats.paired_difference([2.0], [1.0], method=method)
        assert (estimate.value, estimate.low, estimate.high, estimate.p, estimate.n) == (1, None, None, None, 1)
    family = stats.paired_differences({"a": ([2.0], [1.0]), "b": (A, B)})
    assert family["a"].low is None
    assert family["b"].p == pytest.approx(stats.paired_difference(A, B).p)


def test_equal_differences_have_no_width():
    estimate = stats.paired_difference([2.0, 3.0], [1.0, 2.0])
    assert (estimate.low, estimate.high, estimate.p) == (1, 1, 0)
    assert stats.paired_difference([1, 2], [1, 2]).p == 1


@settings(deadline=None, max_examples=15)
@given(samples, st.sampled_from(["t", "bootstrap"]), st.randoms(use_true_random=False))
def test_swapping_the_methods_mirrors_the_interval(a, method, random):
    b = random.sample(a, len(a))
    one, other = stats.paired_difference(a, b, method=method), stats.paired_difference(b, a, method=method)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low), abs=1e-9)
    assert one.p == pytest.approx(other.p, abs=1e-9)


@few
@given(samples)
def test_a_higher_level_contains_a_lower_one(a):
    wide, narrow = (stats.paired_difference(a, [0.0] * len(a), level=level) for level in (0.99, 0.8))
    assert wide.low <= narrow.low <= narrow.high <= wide.high


def test_family_is_bonferroni_and_holm():
    rng = np.random.default_rng(0)
    pairs = {name: (rng.normal(1, 1, 6), rng.normal(0, 1, 6)) for name in "abc"}
    family = stats.paired_differences(pairs)
    single = {name: stats.paired_difference(*pair, level=1 - 0.05 / 3) for name, pair in pairs.items()}
    assert [family[n].low for n in "abc"] == pytest.approx([single[n].low for n in "abc"])
    assert [family[n].p for n in "abc"] == pytest.approx(stats.holm([single[n].p for n in "abc"]))
    assert family["a"].kind == "paired t, 95 % simultaneous over 3"


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="paired by seed, got 2 and 3"):
        stats.paired_difference([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"0\.95"):
        stats.paired_difference(A, B, level=95)
    with pytest.raises(ValueError, match="alternative"):
        stats.paired_difference(A, B, alternative="larger")
    with pytest.raises(ValueError, match="method"):
        stats.paired_difference(A, B, method="z")
    with pytest.raises(ValueError, match="empty"):
        stats.paired_differences({})


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]


def test_equivalence_is_two_one_sided_tests():
    estimate, rule = stats.equivalence(A, B, margin=(-1, 1.5))
    d = np.subtract(A, B)
    above = scipy.stats.ttest_1samp(d, -1, alternative="greater").pvalue
    below = scipy.stats.ttest_1samp(d, 1.5, alternative="less").pvalue
    assert estimate.p == pytest.approx(max(above, below))
    assert rule == within(-1, 1.5)
    assert (verdict(estimate, rule) == "supported") == (estimate.p < 0.05)
    for margin in (0.3, 0.7, 1.1, 3.0):
        estimate, rule = stats.equivalence(A, B, margin=margin)
        assert (verdict(estimate, rule) == "supported") == (estimate.p < 0.05)
    assert stats.equivalence([1.0], [1.0], margin=1)[0].p is None


def test_smallest_and_largest_of_a_family():
    family = [Estimate(2, 1, 3, 5, 0.01), Estimate(4, 0.5, 7.5, 6, 0.2)]
    low = stats.smallest(family)
    assert (low.value, low.low, low.high, low.n, low.p) == (2, 0.5, 3, 5, 0.2)
    high = stats.largest(family)
    assert (high.value, high.low, high.high, high.n, high.p) == (4, 1, 7.5, 5, 0.2)
    assert stats.smallest([*family, Estimate(0, None, None, 1)]).low is None


def test_wilson_equals_scipy():
    for k, n in ((0, 10), (3, 10), (10, 10), (120, 400)):
        ours, peer = stats.proportion(k, n), scipy.stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
        assert (ours.low, ours.high) == pytest.approx((peer.low, peer.high), abs=1e-12)


# --- bootstrap --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_agrees_with_scipy(method):
    values = np.random.default_rng(1).exponential(size=30)  # its standard deviation is biased and skewed
    ours = stats.bootstrap_interval(values, np.std, method=method, resamples=20_000)
    peer = scipy.stats.bootstrap((values,), np.std, method=method, n_resamples=20_000, random_state=0)
    peer = peer.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((peer.low, peer.high), rel=0.03)


def test_bootstrap_of_several_arrays():
    x = np.arange(20.0)
    together = stats.bootstrap_interval([x, 2 * x], lambda a, b: float(b.mean() - 2 * a.mean()))
    assert (together.low, together.high) == (0, 0)  # rows are drawn together
    apart = stats.bootstrap_interval(
        [x, 2 * x[:12]], lambda a, b: float(b.mean() - a.mean()), paired=False, method="bca"
    )
    assert apart.low < apart.value < apart.high
    assert apart.n == 12
    with pytest.raises(ValueError, match="paired=False"):
        stats.bootstrap_interval([x, x[:3]], lambda a, b: 0.0)


def test_bootstrap_is_a_function_of_its_seed():
    one, same, other = (stats.bootstrap_interval(A, np.median, seed=seed, resamples=100) for seed in (1, 1, 2))
    assert one == same != other


def test_a_statistic_that_is_mostly_undefined_is_an_error():
    with pytest.raises(ValueError, match="undefined in"):
        stats.bootstrap_interval([1.0, 1.0, 2.0], lambda v: math.nan if np.ptp(v) == 0 else 1.0)


@pytest.mark.parametrize("method", ["t", "bootstrap"])
def test_intervals_cover_as_often_as_they_say(method):
    rng = np.random.default_rng(7)
    hits = 0
    trials = 200
    for _ in range(trials):
        e = (
            stats.paired_difference(rng.normal(1, 1, 8), rng.normal(0, 1, 8))
            if method == "t"
            else stats.bootstrap_interval(rng.normal(1, 1, 40), np.mean, resamples=200)
        )
        hits += e.low <= 1 <= e.high
    assert 0.90 <= hits / trials <= 0.99


# --- ranks ------------------------------------------------------------------------------------------------------------


def test_spearman_equals_scipy_and_its_exact_test():
    x, y = [1, 2, 3, 4, 5, 6], [6.0, 5, 4, 3, 1, 2]
    ours = stats.spearman(x, y)
    exact = scipy.stats.permutation_test(
        (x,), lambda a: scipy.stats.spearmanr(a, y).statistic, permutation_type="pairings", n_resamples=720
    )
    assert ours.value == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    assert ours.p == pytest.approx(exact.pvalue, rel=1e-6)
    assert -1 <= ours.low < ours.value < ours.high < 0
    assert stats.spearman(x, y, alternative="less").p == pytest.approx(ours.p / 2)


def test_spearman_drawn_test_and_ties():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 14), rng.integers(0, 6, 14)
    ours, peer = stats.spearman(x, y), scipy.stats.spearmanr(x, y)
    assert ours.value == pytest.approx(peer.statistic)
    assert ours.p == pytest.approx(peer.pvalue, abs=0.03)


def test_perfect_order_of_four_points_shows_nothing():
    estimate = stats.spearman([1, 2, 3, 4], [4, 3, 2, 1])
    assert estimate.value == pytest.approx(-1)
    assert estimate.p == pytest.approx(2 / 24)
    assert verdict(estimate, less(0)) == "inconclusive"
    with pytest.raises(ValueError, match="constant"):
        stats.spearman([1, 1, 1], [1, 2, 3])


def test_page_by_hand():
    doses = np.array([[5, 4, 3, 2, 1.0]] * 3)
    estimate = stats.trend(doses, alternative="less")
    assert estimate.value == pytest.approx(-1)
    assert estimate.p == pytest.approx(1 / 120**3)
    assert stats.trend(doses).p == pytest.approx(2 / 120**3)
    assert stats.trend(doses[:, ::-1]).value == pytest.approx(1)
    assert verdict(estimate, less(0)) == "supported"


def test_page_is_the_mean_rank_correlation():
    data = np.random.default_rng(3).normal(size=(6, 4))
    expected = np.mean([scipy.stats.spearmanr(range(4), row).statistic for row in data])
    assert stats.trend(data).value == pytest.approx(expected)
    assert stats.trend(data, alternative="greater").p == pytest.approx(scipy.stats.page_trend_test(data).pvalue)
    flat = stats.trend(np.ones((4, 5)))
    assert flat.value == 0
    assert verdict(flat, greater(0)) != "supported"


def test_a_trend_of_few_seeds_is_inconclusive():
    estimate = stats.trend([[1, 2, 3.0], [1, 2, 3.0]])  # p = 2/36: perfect, and still too little
    assert verdict(estimate, greater(0)) == "inconclusive"
    assert stats.trend([[1, 2, 3.0]]).low is None
    with pytest.raises(ValueError, match=r"seeds, doses >= 3"):
        stats.trend([[1, 2.0], [1, 2.0]])


def test_jonckheere_by_hand():
    estimate = stats.trend([[1, 2], [3, 4], [5, 6]], method="jonckheere", resamples=2000)
    assert estimate.value == 1
    assert estimate.p == pytest.approx(2 / 90, abs=0.015)  # 6! / (2! 2! 2!) = 90 arrangements, both directions
    assert stats.trend([[1, 2], [2, 1]], method="jonckheere", resamples=50).value == 0
    assert stats.trend([[3.0], [2.0], [1.0]], method="jonckheere", resamples=50).low is None


def test_importing_needs_neither_torch_nor_scipy():
    heavy = "{'torch', 'scipy', 'pandas', 'IPython'}"
    code = f"import sys, flatlab.stats, flatlab.claims; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_columns_are_paired_where_both_were_measured():
    table = {"a": [1.0, 2.0, 4.0], "b": [0.0, 0.5, 1.0], "gap": [1.0, np.nan, 2.0]}
    assert stats.paired_columns(table, "a", "b") == stats.paired_difference(table["a"], table["b"])
    assert stats.paired_columns(table, "a", "absent") is None
    assert stats.paired_columns(table, "gap", "a") is None


@pytest.mark.parametrize("pick", [stats.largest, stats.smallest])
def test_columns_are_judged_level_by_level(pick):
    index = pd.MultiIndex.from_product([("easy", "hard"), (0, 1, 2)], names=["task", "seed"])
    table = pd.DataFrame({"a": [1.0, 2.0, 3.0, 5.0, 7.0, 9.5], "b": 0.0}, index=index)
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
    assert stats.fragile(stats.paired_difference([5.0, 5.1], [0, 0]), greater(0))  # one pair has no interval
    assert not stats.fragile(stats.paired_difference([5.0, -5.1], [0, 0]), greater(0))


def test_one_unit_that_decides_is_found():
    steady, lucky = [1.0, 1.1, 0.9, 1.05, 0.95], [3.0, 3.1, 2.9, 3.05, 0.1]
    assert not stats.fragile(stats.paired_difference(steady, [0] * 5), greater(0.5))
    found = stats.paired_difference(lucky, [0] * 5)
    assert verdict(found, greater(2.7)) == "inconclusive"
    assert verdict(stats.paired_difference(lucky[:4], [0] * 4), greater(2.7)) == "supported"
    assert stats.fragile(found, greater(2.7))


RNG = np.random.default_rng(3)
PAIRS, BLOCKS = RNG.normal(size=(2, 6)), RNG.normal(size=(6, 4))


@pytest.mark.parametrize(
    ("name", "rest"),
    {
        "t": lambda keep: stats.paired_difference(*PAIRS[:, keep]),
        "bootstrap": lambda keep: stats.paired_difference(*PAIRS[:, keep], method="bootstrap"),
        "page": lambda keep: stats.trend(BLOCKS[keep]),
        "spearman": lambda keep: stats.spearman(*PAIRS[:, keep], resamples=500),
        "family": lambda keep: stats.paired_differences({"a": PAIRS[:, keep], "b": BLOCKS.T[:2, keep]})["b"],
    }.items(),
)
def test_without_is_what_leaving_each_out_gives(name, rest):
    every = np.arange(6)
    parts = [rest(np.delete(every, i)) for i in every]
    lows, highs = [part.low for part in parts], [part.high for part in parts]
    assert rest(every).without == pytest.approx((min(lows), max(lows), min(highs), max(highs)), abs=1e-12)


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
        assert (found is None) == (n < 3)
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
