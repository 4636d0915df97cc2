"""How often nominal intervals cover the truth, by simulation."""

import math

import numpy as np
import pytest
import scipy.stats

from flatlab import stats

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
