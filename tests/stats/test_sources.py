"""Estimates are made again from their record, and without each of their units."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatlab import stats
from flatlab.stats import Estimate

samples = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, max_size=9)
few = settings(deadline=None, max_examples=60)
GENERATOR = np.random.default_rng(11)
HITS = GENERATOR.random((6, 40)) < 0.9, GENERATOR.random((6, 40)) < 0.8


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
