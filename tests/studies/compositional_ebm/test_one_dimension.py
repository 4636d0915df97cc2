"""Landscapes, races and the law of the variance: known answers, and what a fault would move."""

import dataclasses

import numpy as np
import pytest
import torch

from flatlab.ebm import gaussian
from flatlab.studies.compositional_ebm import identities, landscape, mean_estimation, settings, variance_law
from flatlab.studies.compositional_ebm.settings import Noise

TINY = dataclasses.replace(
    settings.QUICK, seeds=(0, 1), race_distances=(2.0,), widths=(2.0,), race_steps=120, sgd_rates=(0.03, 0.3, 3.0)
)


@pytest.fixture(scope="module")
def finish():
    return mean_estimation.race(TINY)


def test_curvatures_at_known_distances() -> None:
    found = landscape.curvatures((2.0, 4.0))
    np.testing.assert_allclose(found["NCE, low"], [2.8443e-2, 1.0301e-3], rtol=1e-4)
    np.testing.assert_allclose(found["eNCE, low"], [5.7919e-2, 5.8050e-3], rtol=1e-4)
    np.testing.assert_allclose(found["1 + V"], [1 + np.exp(4) * 5, 1 + np.exp(16) * 17])
    np.testing.assert_allclose(found["best s"], [2.3254, 4.1799], rtol=1e-4)
    assert (found["MLE"] == 1).all()


def test_iterations_of_exact_descent() -> None:
    found = landscape.iterations((1.0, 2.0, 4.0), most=600)
    assert found["eNCE, NGD"].tolist() == [11, 29, 90]
    assert found["eNCE, GD"].tolist() == [4, 13, 505]
    assert found["NCE, GD"].tolist() == [5, 22, 169]
    assert found["MLE, GD"].tolist() == [1, 1, 1]
    assert np.isinf(landscape.iterations((4.0,), most=80)[["NCE, GD", "eNCE, NGD"]]).all(axis=None)


def test_planes_and_paths_have_their_minimum_at_the_optimum() -> None:
    for name, plane in landscape.planes(2.0, n=11).items():
        assert plane.values[5, 5] == 0
        assert plane.values.min() >= -1e-12, name
    mle = landscape.planes(2.0, n=11)["MLE"].values
    torch.testing.assert_close(mle[0], (mle.new_tensor(np.linspace(-2, 2, 11)) ** 2) / 2)
    assert (mle == mle[0]).all(), "c is no part of the likelihood"
    for frame in landscape.paths((1.0, 4.0)).values():
        assert (frame.iloc[0] == 1).all()
        assert (frame.iloc[-1] == 0).all()
    halves = landscape.paths((2.0, 8.0))["NCE"].loc[0.5]
    assert halves[2.0] > 0.1 > 1e-3 > halves[8.0]


def test_a_race_ends_near_the_mean_of_its_data(finish) -> None:
    case = (2.0, Noise(2.0))
    assert set(finish.errors) == set(mean_estimation.METHODS)
    for name, errors in finish.errors.items():
        rates, cases, seeds, looks = errors.shape
        assert (rates, cases, seeds) == (len(finish.rates[name]), len(TINY.cases), 4)
        assert looks == len(finish.looks)
        assert finish.looks[-1] == 120
    assert finish.final("MECO", case).shape == (2,)
    assert 0 <= finish.warned("MECO", case) < 0.01 < finish.warned("MECO", (8.0, Noise(1.0, 0.25, 8.0))) < 1
    assert (finish.final("MECO, gamma 1", case) < 0.25).all()
    assert (finish.final("NCE, SGD", case) < 0.5).all()


def test_the_same_draws_whoever_runs_beside() -> None:
    alone = mean_estimation.Race([(2.0, Noise(2.0))], [5]).run("MECO", 0.1, 40, [20, 40])
    beside = mean_estimation.Race([(2.0, Noise(2.0))], [7, 5]).run("MECO", 0.1, 40, [20, 40])
    torch.testing.assert_close(alone[0, 0], beside[0, 1])


def test_rates_are_chosen_on_the_tuning_seeds_alone() -> None:
    errors = np.ones((3, 1, 4, 2))
    errors[0, 0, :2], errors[1, 0, 2:] = 0.05, 0.01  # the first is best in tuning, the second on the others
    case = (1.0, Noise(1.0))
    made = mean_estimation.Finish(
        (case,), (10, 20), 2, {"a": (0.1, 1.0, 10.0)}, {"a": errors}, {"a": errors[..., 0]}, 64
    )
    assert made.best("a", case) == 0
    assert made.final("a", case).tolist() == [1, 1]
    assert np.isinf(made.draws(("a",), case, 0.1)).all()
    errors[0, 0, 2:] = [[0.5, 0.04], [0.05, 0.05]]
    assert made.draws(("a",), case, 0.1).tolist() == [20 * 128, 10 * 128]
    errors[0, 0, 3] = [0.05, 0.5]
    assert made.draws(("a",), case, 0.1)[1] == np.inf, "who leaves again has not arrived"
    # From ln(.1 / .1) crossings by hand: half of the upper decade, and 2.303 / 3.912 of the lower one.
    assert made.decades("a", case, 0.1).tolist() == pytest.approx([1.5, 0.5 + 2.3026 / 3.9120], abs=2e-3)


def test_mixtures_have_the_density_of_their_draws() -> None:
    race = mean_estimation.Race([(1.0, Noise(1.0, 0.25, 4.0))], [0], batch=200_000)
    race.generators = [torch.Generator().manual_seed(0)]
    x = torch.linspace(-60, 60, 12_001, dtype=torch.float64)[None]
    assert float(race.log_q(x).exp().sum() * 0.01) == pytest.approx(1, abs=1e-6)
    y = race.draws()
    assert float(y.square().mean()) == pytest.approx(0.75 + 0.25 * 16, rel=0.03)
    assert "25% of 4" in str(Noise(1.0, 0.25, 4.0))


def test_squared_errors_follow_the_law() -> None:
    cases = ((1.0, 2.0), (0.5, 1.0))
    squared = variance_law.squared_errors(cases, 400, (400, 800), seed=3)
    assert squared.shape == (2, 400, 2)
    for (R, s), part in zip(cases, squared[:, :, -1].double(), strict=True):
        ratio = float(part.mean()) * 800 * 16 / (1 + float(gaussian.gradient_variance(R, s)))
        assert 0.7 < ratio < 1.6


def test_identities_hold_and_the_average_takes_out_bias() -> None:
    assert identities.exactness(20, 0).max() < 1e-12
    slow, fast = identities.log_z_bias((0.1, 1.0), 100, 0)
    assert fast.mean() == pytest.approx(-0.0885, abs=0.02), "half of the variance of a batch's mean weight"
    assert abs(slow.mean()) < abs(fast.mean()) / 3
