"""Measurements on a network: the numbers of the measures they are made of, and the same again for the same seed."""

import warnings

import pytest
import torch

from flatlab import attacks, flatness, models, train
from flatlab.studies.likelihood_landscapes import experiments


def test_measuring_a_network_gathers_the_measures(digits_test) -> None:
    net = models.build("mlp", (1, 8, 8), 10, seed=3).eval()
    x, y = digits_test.x[:60], digits_test.y[:60]
    settings = {"suite": "fast", "seed": 5, "directions": 3, "radii": 2}
    row = experiments.measure_network(net, x, y, 0.1, weights_at=(x, y), **settings)
    report = attacks.evaluate_robustness(net, x, y, 0.1, suite="fast", seed=5)
    assert row["robust"] == report.robust <= row["pgd20"] == report.accuracies["PGD-20"] == row["PGD-20"]
    g = torch.Generator().manual_seed(5)
    assert row["phi"] == flatness.likelihood_flatness(net, x, 0.1, directions=3, radii=2, generator=g).mean
    assert row["phi"] <= row["phi_adv"] * 1.01
    g.manual_seed(5)
    moved = flatness.log_density(net(attacks.pgd(net, x, y, 0.1, steps=20, generator=g)))
    assert row["shift"] == pytest.approx(float((moved - flatness.log_density(net(x))).abs().mean().detach()), rel=1e-5)
    assert row["sharpness"] > 0
    assert row == experiments.measure_network(net, x, y, 0.1, weights_at=(x, y), **settings)
    assert "trace" not in experiments.measure_network(net, x, y, 0.1, **settings)


@pytest.fixture(scope="module")
def seen(digits_test):
    return models.build("mlp", (1, 8, 8), 10, seed=3).eval(), digits_test.x[:60], digits_test.y[:60]


def test_log_softmax_flattens_and_changes_no_prediction(seen) -> None:
    found = experiments.effect_of_log_softmax(*seen, 0.1, seed=1)
    assert found["phi"] < 1e-5
    assert found["changed"] == 0
    assert abs(found["attack"]) < 0.05


def test_accuracy_under_an_attack_is_that_at_its_points(seen) -> None:
    net, x, y = seen
    for loss in ("ce", "dlr"):
        g = torch.Generator().manual_seed(2)
        at = attacks.pgd(net, x, y, 0.1, steps=5, loss=loss, generator=g)
        expected = float((net(at).argmax(1) == y).double().mean())
        assert experiments.pgd_accuracy(net, x, y, 0.1, loss=loss, steps=5, seed=2) == expected


def test_robustness_and_flatness_are_made_of_the_measures(seen) -> None:
    net, x, y = seen
    g = torch.Generator().manual_seed(2)
    phi = flatness.likelihood_flatness(net, x, 0.1, directions=4, radii=4, generator=g).mean
    robust = attacks.evaluate_robustness(net, x, y, 0.1, suite="fast", seed=2).robust
    assert experiments.robustness_and_flatness(net, x, y, 0.1, seed=2) == {"robust": robust, "phi": phi}


def test_a_hidden_gradient_is_found_by_bpda(digits, digits_test) -> None:
    recipe = train.Recipe(epochs=5, batch_size=64, lr=3e-3)
    network = lambda s: models.build("mlp", (1, 8, 8), 10, seed=s)  # noqa: E731
    (net,) = train.fit_seeds(network, digits, train.cross_entropy, recipe, seeds=(0,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attacks.ZeroGradientWarning)
        found = experiments.accuracy_behind_rounding(net, digits_test.x[:100], digits_test.y[:100], 0.1)
    assert found["PGD with BPDA"] < found["plain PGD"] - 0.1
