"""Measurements on a network: the numbers of the measures they are made of, and the same again for the same seed."""

import math
import warnings

import pytest
import torch

from flatlab import attacks, flatness, models, train
from flatlab.studies.likelihood_landscapes import experiments


def test_measuring_a_network_gathers_the_measures(digits_test) -> None:
    net = models.build("mlp", (1, 8, 8), 10, seed=3).eval()
    x, y = digits_test.x[:60], digits_test.y[:60]
    settings = {"suite": "fast", "seed": 5, "directions": 3, "radii": 2}
    row, hits = experiments.measure_network(net, x, y, 0.1, weights_at=(x, y), **settings)
    report = attacks.evaluate_robustness(net, x, y, 0.1, suite="fast", seed=5)
    assert row["robust"] == report.robust <= row["pgd20"] == report.accuracies["PGD-20"]
    assert {name: float(right.double().mean()) for name, right in hits.items()} == {name: row[name] for name in hits}
    assert torch.equal(hits["robust"], report.robust_correct)
    g = torch.Generator().manual_seed(5)
    assert row["phi"] == flatness.likelihood_flatness(net, x, 0.1, directions=3, radii=2, generator=g).mean
    assert row["phi"] <= row["phi_adv"] * 1.01
    g.manual_seed(5)
    moved = flatness.log_density(net(attacks.pgd(net, x, y, 0.1, steps=20, generator=g)))
    assert row["shift"] == pytest.approx(float((moved - flatness.log_density(net(x))).abs().mean().detach()), rel=1e-5)
    assert row["sharpness"] > 0
    assert row == experiments.measure_network(net, x, y, 0.1, weights_at=(x, y), **settings)[0]
    assert "trace" not in experiments.measure_network(net, x, y, 0.1, **settings)[0]


def test_a_network_that_diverged_is_wrong_everywhere(digits_test) -> None:
    net = models.build("mlp", (1, 8, 8), 10, seed=3).eval()
    x, y = digits_test.x[:20], digits_test.y[:20]
    assert not experiments.diverged(net, x)
    with torch.no_grad():
        next(net.parameters()).fill_(float("nan"))
    assert experiments.diverged(net, x)
    row, hits = experiments.measure_network(net, x, y, 0.1)
    assert row["clean"] == row["robust"] == 0
    assert not any(right.any() for right in hits.values())
    assert all(math.isnan(row[name]) for name in ("phi", "phi_m", "phi_adv"))
    right, phi = experiments.robustness_and_flatness(net, x, y, 0.1)
    assert len(right) == 20
    assert not right.any()
    assert math.isnan(phi)
    assert experiments.mean_plane(net, x, y, torch.ones_like(x), 0.3).values.isnan().all()


@pytest.fixture(scope="module")
def seen(digits_test):
    return models.build("mlp", (1, 8, 8), 10, seed=3).eval(), digits_test.x[:60], digits_test.y[:60]


def test_log_softmax_flattens_and_changes_no_prediction(seen) -> None:
    found = experiments.effect_of_log_softmax(*seen, 0.1, seed=1)
    assert found["phi"] < 1e-5
    assert found["changed"] == 0
    assert 0 <= found["attack"] < 0.05


def test_hits_under_an_attack_are_those_at_its_points(seen) -> None:
    net, x, y = seen
    for loss in ("ce", "dlr"):
        g = torch.Generator().manual_seed(2)
        at = attacks.pgd(net, x, y, 0.1, steps=5, loss=loss, generator=g)
        assert torch.equal(experiments.pgd_hits(net, x, y, 0.1, loss=loss, steps=5, seed=2), net(at).argmax(1) == y)


def test_hits_at_scales_are_those_of_multiplied_logits(seen) -> None:
    net, x, y = seen
    larger = models.MapLogits(net, lambda z: 1e5 * z).eval()
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attacks.ZeroGradientWarning)
        for loss in ("ce", "dlr"):
            found[loss] = experiments.hits_at_scales(net, x, y, 0.1, (1.0, 1e5), loss=loss, seed=2)
            assert list(found[loss]) == [1.0, 1e5]
            for scale, scaled in ((1.0, net), (1e5, larger)):
                expected = experiments.pgd_hits(scaled, x, y, 0.1, loss=loss, seed=2)
                assert torch.equal(found[loss][scale], expected)
    assert found["ce"][1e5].sum() > found["ce"][1.0].sum()  # there the gradient underflows
    assert torch.equal(found["dlr"][1e5], found["dlr"][1.0])


def test_hits_of_several_networks_are_stacked() -> None:
    found = experiments.stacked([{"a": torch.tensor([True, False])}, {"a": torch.tensor([False, False])}])
    assert found["a"].tolist() == [[True, False], [False, False]]


def test_robustness_and_flatness_are_made_of_the_measures(seen) -> None:
    net, x, y = seen
    g = torch.Generator().manual_seed(2)
    phi = flatness.likelihood_flatness(net, x, 0.1, directions=4, radii=4, generator=g).mean
    expected = attacks.evaluate_robustness(net, x, y, 0.1, suite="fast", seed=2).robust_correct
    right, found = experiments.robustness_and_flatness(net, x, y, 0.1, seed=2)
    assert found == phi
    assert torch.equal(right, expected)


def test_a_mean_plane_is_that_of_the_inputs_planes(seen) -> None:
    net, x, y = seen
    across = torch.ones_like(x[:3])
    found = experiments.mean_plane(net, x[:3], y[:3], across, 0.3)
    single = [
        flatness.likelihood_plane(net, x[i], flatness.gradient_sign(net, x[i : i + 1], y[i : i + 1])[0], across[i], 0.3)
        for i in range(3)
    ]
    mean = torch.stack([plane.values - plane.values[10, 10] for plane in single]).mean(0)
    torch.testing.assert_close(found.values - found.values[10, 10], mean, atol=1e-5, rtol=0)
    assert found.values.max() == 0


def test_inputs_without_a_gradient_span_no_plane(seen) -> None:
    net, x, y = seen
    top = net(x).argmax(1)
    certain = top == top[0]
    sure = models.MapLogits(net, lambda z: torch.where((z.argmax(1) == top[0])[:, None], 1e6 * z, z)).eval()
    assert not certain.all()
    expected = experiments.mean_plane(net, x[~certain], y[~certain], torch.ones_like(x[~certain]), 1e-4)
    found = experiments.mean_plane(sure, x, torch.where(certain, top, y), torch.ones_like(x), 1e-4)
    torch.testing.assert_close(found.values, expected.values)
    blind = models.MapLogits(net, lambda z: 0 * z).eval()
    assert experiments.mean_plane(blind, x, y, torch.ones_like(x), 0.3).values.isnan().all()


def test_planes_agree_where_methods_tell_them_apart() -> None:
    levels = torch.tensor([0.0, 1.0, 3.0])[:, None, None].expand(3, 5, 5)
    found = experiments.plane_agreement(levels + 0.1, levels)
    near = math.log(0.1)
    expected = [torch.tensor([0.9, 2.9]), torch.tensor([1.1, 1.9]), torch.tensor([3.1, 2.1])]
    assert found["ratio"] == pytest.approx(sum(float(d.log().mean()) - near for d in expected) / 3, rel=1e-5)
    assert found["named"] == 1
    assert experiments.plane_agreement(levels + 1.2, levels)["named"] == pytest.approx(1 / 3)


def test_a_plane_that_diverged_tells_nothing() -> None:
    levels = torch.tensor([0.0, 1.0, 3.0])[:, None, None].expand(3, 5, 5)
    lost = levels.clone()
    lost[0] = float("nan")
    whole, found = (
        experiments.plane_agreement(levels[1:] + 0.1, levels[1:]),
        experiments.plane_agreement(lost + 0.1, lost),
    )
    assert found["named"] == pytest.approx(2 / 3)
    assert found["ratio"] == pytest.approx(2 / 3 * whole["ratio"], rel=1e-5)


def test_a_hidden_gradient_is_found_by_bpda(digits, digits_test) -> None:
    recipe = train.Recipe(epochs=5, batch_size=64, lr=3e-3)
    network = lambda s: models.build("mlp", (1, 8, 8), 10, seed=s)  # noqa: E731
    (net,) = train.fit_seeds(network, digits, train.cross_entropy, recipe, seeds=(0,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attacks.ZeroGradientWarning)
        found = experiments.hits_behind_rounding(net, digits_test.x[:100], digits_test.y[:100], 0.1)
    assert found["PGD with BPDA"].double().mean() < found["plain PGD"].double().mean() - 0.1
