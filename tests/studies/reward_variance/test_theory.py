"""The theorems' checks on random instances: known answers, and shares that a broken bound would drive above 1."""

import numpy as np
import pytest
import torch

from flatlab import rlhf
from flatlab.studies.reward_variance import theory


def test_no_gradient_curvature_or_variance_exceeds_its_bound() -> None:
    shares = theory.gradient_shares(100, seed=3)
    for name in ("table, L1", "table, ours", "curvature", "autoregressive"):
        assert len(shares[name]) == 100
        assert 0.02 < shares[name].max() <= 1 + 1e-9, name
    assert (shares["norm"] <= np.sqrt(shares["variance"] / 2) + 1e-12).all()
    assert theory.variance_shares(20, seed=3).max() <= 1 + 1e-9


def test_scaled_rewards_wait_as_one_over_the_root_of_their_variance() -> None:
    waits = theory.scaled_rewards(8, seed=3)
    assert waits.time.shape == (8, len(theory.SCALES))
    np.testing.assert_allclose(waits.slopes(), -0.5, atol=1e-6)
    np.testing.assert_allclose(waits.time[:, 0] / waits.time[:, 2], theory.SCALES[2], rtol=1e-6)
    assert (waits.bound < waits.time).all()


def test_proxies_that_never_teach_are_found_out() -> None:
    waits = theory.noisy_rewards(60, seed=10)
    assert 0 < np.isinf(waits.time).sum() < waits.time.size / 2
    assert (waits.bound < waits.time).all()


def test_slopes_are_those_of_least_squares() -> None:
    variance = np.array([[1.0, 0.1, 0.01], [0.5, 0.2, 0.05]])
    waits = theory.Waits(variance, 3 * variance ** np.array([[-1.0], [-0.25]]), variance)
    np.testing.assert_allclose(waits.slopes(), [-1, -0.25])


def test_a_rare_good_output_waits_at_least_as_long_as_the_closed_form_of_equals() -> None:
    waits = theory.rare_output(6, seed=3)
    equal = [rlhf.bounds.time_of_one_output(p, p + 0.1, 10) for p in theory.RARE]
    assert (waits.time >= np.array(equal) * 0.5).all()
    assert (np.diff(waits.time, axis=1) > 0).all(), "the rarer, the longer"


def test_the_inaccurate_model_is_in_time_and_the_divided_one_exactly_late() -> None:
    found = theory.perfect_and_fast(10, seed=3)
    np.testing.assert_allclose(found["perfect"][:, 2] / found["perfect"][:, 0], 100, rtol=1e-6)
    assert (found["fast"] <= found["upper"]).all()
    assert found["accuracy"] == pytest.approx(2 / 16)


def test_reward_models_swap_places() -> None:
    times = theory.swaps(5, seed=3)
    assert times.shape == (5, 2, 2)
    for policy, other in ((0, 1), (1, 0)):
        late = times[:, policy, other] / times[:, policy, policy]
        assert (late > 10).all(), "each is more than ten times as slow where its output is rare"


def test_no_random_model_selects_better_than_the_perfect_one() -> None:
    margins = theory.best_of_n_margins(20, seed=3)
    assert len(margins) == 20
    assert margins.max() < 0


def test_slices_show_each_model_from_the_same_middle() -> None:
    planes = theory.slices(seed=3, n=5)
    gold, tenth, _ = planes.values()
    assert all(float(plane.values[2, 2]) == pytest.approx(0, abs=1e-12) for plane in planes.values())
    torch.testing.assert_close(gold.values, 10 * tenth.values, check_dtype=False)
    assert float(gold.values[4, 2]) > float(gold.values[0, 2]), "the ground truth rises along its gradient"
