"""The profile of a network: the same numbers as the measures it is made of, and the same again for the same seed."""

import pytest
import torch

from flatlab import attacks, flatness, models
from flatlab.defenses import profile


def test_a_profile_gathers_the_measures(digits_test) -> None:
    net = models.build("mlp", (1, 8, 8), 10, seed=3).eval()
    x, y = digits_test.x[:60], digits_test.y[:60]
    settings = {"suite": "fast", "seed": 5, "directions": 3, "radii": 2}
    row = profile(net, x, y, 0.1, weights_at=(x, y), **settings)
    report = attacks.evaluate_robustness(net, x, y, 0.1, suite="fast", seed=5)
    assert row["robust"] == report.robust <= row["pgd20"] == report.accuracies["PGD-20"] == row["PGD-20"]
    g = torch.Generator().manual_seed(5)
    assert row["phi"] == flatness.likelihood_flatness(net, x, 0.1, directions=3, radii=2, generator=g).mean
    assert row["phi"] <= row["phi_adv"] * 1.01
    g.manual_seed(5)
    moved = flatness.log_density(net(attacks.pgd(net, x, y, 0.1, steps=20, generator=g)))
    assert row["shift"] == pytest.approx(float((moved - flatness.log_density(net(x))).abs().mean().detach()), rel=1e-5)
    assert row["sharpness"] > 0
    assert row == profile(net, x, y, 0.1, weights_at=(x, y), **settings)
    assert "trace" not in profile(net, x, y, 0.1, **settings)
