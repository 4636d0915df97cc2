"""Rules and verdicts by hand and by their laws, and verdicts that hang by a hair."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatlab import stats
from flatlab.stats import Estimate, Rule, greater, less, never, verdict, within

numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 6))
rules = st.one_of(
    numbers.map(greater), numbers.map(less), st.tuples(numbers, numbers).map(lambda b: within(min(b), max(b)))
)
intervals = st.tuples(numbers, numbers).map(sorted)
few = settings(deadline=None, max_examples=60)


def interval(low, high):
    return Estimate((low + high) / 2, low, high, 5)


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


def test_importing_needs_neither_torch_nor_scipy():
    heavy = "{'torch', 'scipy', 'pandas', 'IPython'}"
    code = f"import sys, flatlab.stats, flatlab.claims; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
