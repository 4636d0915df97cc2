"""What UDIM is made of in 06: perturbations, their gains, and stand-ins, each against what it stands for."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatlab import dg
from flatlab.studies.domain_generalization import geometry, landscapes, worlds


def test_the_objective_of_a_linear_model_is_that_of_its_formula() -> None:
    rng = np.random.default_rng(0)
    x, y, w, b = rng.normal(size=(6, 4)), np.array([0, 1, 2, 0, 1, 1]), rng.normal(size=(3, 4)), rng.normal(size=3)
    model = nn.Linear(4, 3).double().train()
    with torch.no_grad():
        model.weight.copy_(torch.tensor(w))
        model.bias.copy_(torch.tensor(b))
    logits = x @ w.T + b
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    residual = (p - np.eye(3)[y]) / 6
    slope = np.sqrt(np.square(residual.T @ x).sum() + np.square(residual.sum(0)).sum())
    loss = -np.log(p[np.arange(6), y]).mean()
    data = torch.tensor(x), torch.tensor(y)
    assert geometry.objective(model, *data, 0.3) == pytest.approx(loss + 0.3 * slope)
    assert geometry.objective(model, *data, 0.0) == pytest.approx(loss)
    assert model.training
    assert model.weight.grad is None


def test_perturbed_inputs_are_as_far_away_as_they_say(trained) -> None:
    model, (x, y), _ = geometry.place(trained, "SAM", 3)
    x, y = x[:9], y[:9]
    at = geometry.perturbed(model, x, y, 0.7, rho=0.4, draws=3, seed=5)
    assert {name: len(zs) for name, zs in at.items()} == {"worst": 1, "first order": 1, "random": 3}
    for zs in at.values():
        for z in zs:
            torch.testing.assert_close((z - x).flatten(1).norm(dim=1), torch.full((9,), 0.7))
    here = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(model(here), y), here)
    by_hand = x + 0.7 * F.normalize(slope.flatten(1)).view_as(x)
    torch.testing.assert_close(at["first order"][0], by_hand)
    torch.testing.assert_close(at["worst"][0], dg.perturb_inputs(model, x, y, 0.4, 0.7))
    assert not torch.equal(at["worst"][0], at["first order"][0])
    again, other = (geometry.perturbed(model, x, y, 0.7, draws=3, seed=s)["random"] for s in (5, 6))
    assert all(torch.equal(one, two) for one, two in zip(at["random"], again, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(at["random"], other, strict=True))
    assert not torch.equal(at["random"][0], at["random"][1])


def rise(frame: pd.DataFrame, way: str) -> list[float]:
    return frame[frame.way == way].groupby(["seed", "length"], sort=False)["rise"].max().tolist()


def test_the_perturbation_in_closed_form_gains_more_than_random_ones(trained) -> None:
    frame = geometry.gains(trained, "ERM", (0.1, 1.0), draws=5)
    worst = frame[frame.way == "worst"]
    assert list(zip(worst.seed, worst.length, strict=True)) == [(3, 0.1), (3, 1.0), (1, 0.1), (1, 1.0)]
    assert frame.way.value_counts().to_dict() == {"worst": 4, "first order": 4, "random": 20}
    assert (np.array(rise(frame, "worst")) > 2 * np.array(rise(frame, "random"))).all()
    assert frame[frame.way == "first order"]["cosine"].between(0.9, 0.99999).all()
    assert worst["cosine"].to_numpy() == pytest.approx(1)
    first = frame[frame.length == 0.1]
    assert (np.array(rise(first, "worst")) >= np.array(rise(first, "first order"))).all(), (
        "to first order none is steeper"
    )


def test_a_random_direction_is_held_against_the_closed_form_of_its_network_and_length() -> None:
    ways = [("worst", 5.0), ("first order", 9.0), ("random", 1.0), ("random", 6.0)]
    rows = [(s, d, way, r + 10 * s + 100 * d, 0.0) for s in (1, 0) for d in (0.1, 1.0, 3.0) for way, r in ways]
    frame = pd.DataFrame(rows, columns=["seed", "length", "way", "rise", "cosine"])
    assert geometry.beaten(frame, 1.0) == pytest.approx([-4.0, 1.0] * 4)


def test_without_a_radius_the_first_order_is_all_there_is(trained) -> None:
    frame = geometry.gains(trained, "UDIM", (0.5,), rho=0.0, draws=1)
    assert rise(frame, "worst") == rise(frame, "first order")
    assert frame[frame.way == "first order"]["cosine"].to_numpy() == pytest.approx(1)


def test_a_gain_is_the_rise_of_the_objective_over_a_length_in_deviations_of_a_pixel(trained) -> None:
    frame = geometry.gains(trained, "SAM", (2.0,), rho=0.2, batch=20, draws=4)
    domain, model = trained.domains[1]["0"], trained.runs["SAM", 1][0].selected["iid"].model
    part = dg.split_domain(domain, seed=1)[0].at_most(400)
    x, y = part.x[:20].float() / 255, part.y[:20]
    length = 2.0 * float((domain.x.double() / 255).std())
    before = geometry.objective(model, x, y, 0.2)
    at = geometry.perturbed(model, x, y, length, rho=0.2, draws=4, seed=1)
    for way, zs in at.items():
        found = frame[(frame.way == way) & (frame.seed == 1)]["rise"].tolist()
        assert found == pytest.approx([geometry.objective(model, z, y, 0.2) - before for z in zs], rel=1e-4)


def test_gradient_variance_and_curvature_correlate_as_computed_by_hand(trained) -> None:
    found = geometry.stand_ins(trained, "SAM")
    assert found.shape == (2,)
    assert (np.abs(found) <= 1).all()
    model, (x, y), _ = geometry.place(trained, "SAM", 1)
    with torch.no_grad():
        h = model.featurizer(x).double()
        p = model.classifier(model.featurizer(x)).double().softmax(1)
    h1 = torch.cat([h, torch.ones(len(h), 1)], 1)
    slopes = (p - F.one_hot(y, 10))[:, :, None] * h1[:, None]
    curves = ((p * (1 - p))[:, :, None] * h1[:, None].square()).mean(0)
    by_hand = np.corrcoef(slopes.var(0, unbiased=False).flatten(), curves.flatten())[0, 1]
    assert found[1] == pytest.approx(by_hand, abs=1e-5)


def test_the_rise_within_a_small_radius_is_the_radius_times_the_slope(trained) -> None:
    frame = geometry.rises(trained, "ERM", (0.003, 0.03, 0.3))
    assert frame.index.tolist() == [3, 1]
    assert frame.columns.tolist() == [0.003, 0.03, 0.3]
    off = (frame - 1).abs()
    assert (off[0.003] < 0.02).all()
    assert (off[0.003] < off[0.03]).all()
    assert (off[0.03] < off[0.3]).all()
    model, (x, y), _ = geometry.place(trained, "ERM", 1)
    slopes = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    length = nn.utils.parameters_to_vector(slopes).norm()
    there = [p + 0.3 * g / length for p, g in zip(model.parameters(), slopes, strict=True)]
    names = [name for name, _ in model.named_parameters()]
    moved = torch.func.functional_call(model, dict(zip(names, there, strict=True)), (x,))
    rise = (F.cross_entropy(moved, y) - F.cross_entropy(model(x), y)).item()
    assert frame.loc[1, 0.3] == pytest.approx(rise / (0.3 * float(length)), rel=1e-4)


def test_a_place_is_the_first_run_on_images_it_was_trained_on(trained) -> None:
    model, (x, y), sd = geometry.place(trained, "UDIM", 1)
    run = trained.runs["UDIM", 1][0]
    assert model is run.selected["iid"].model
    part, _ = dg.split_domain(trained.domains[1]["0"], seed=1)
    expected = landscapes.images(part)
    assert torch.equal(x, expected[0])
    assert torch.equal(y, expected[1])
    assert sd == worlds.pixels(trained.domains[1], ["0"])[1]
