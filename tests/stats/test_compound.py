"""Several quantities under one claim, several claims in one family, and the p of a rule."""

import numpy as np
import pytest
import scipy.stats

from flatlab import stats
from flatlab.stats import greater, less, never, verdict, within

A, B = [5.1, 4.9, 6.2, 5.7, 6.0], [4.8, 5.0, 5.1, 5.25, 5.5]


def ends(estimate):
    return estimate.low, estimate.high


def test_smallest_and_largest():
    one, other = stats.paired_difference(A, B), stats.paired_difference(np.add(A, [0.1, 0.3, 0, 0.2, 0.35]), B)
    low, high = stats.smallest([one, other]), stats.largest([one, other])
    assert (low.value, low.low, high.value, high.high) == (one.value, one.low, other.value, other.high)
    assert low.high == one.at(0.975).high  # may refute only where both hold together
    assert high.low == other.at(0.975).low
    assert stats.smallest([one, stats.paired_difference([1.0], [1.0])]).low is None
    with pytest.raises(ValueError, match="no estimates"):
        stats.smallest([])


def test_all_of_several_within_two_thresholds():
    shifted = [stats.equivalence(A, np.add(B, shift)) for shift in (-0.2, 0.0, 1.1)]
    all_of_them = stats.hull(shifted)
    assert all_of_them.low == min(e.low for e in shifted)
    assert all_of_them.high == max(e.high for e in shifted)
    assert abs(all_of_them.value) == max(abs(e.value) for e in shifted)
    assert all_of_them.level == stats.largest(shifted).level == 0.9  # that of the parts
    assert stats.recompute(all_of_them.source) == all_of_them
    for wide in (0.5, 1.2, 3.0):
        rule = within(-wide, wide)
        each = [verdict(e, rule) == "supported" for e in shifted]
        assert (verdict(all_of_them, rule) == "supported") == all(each)
    assert stats.hull([shifted[0], stats.mean([1.0])]).low is None


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
