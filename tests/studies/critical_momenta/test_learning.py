"""Images, text and sequences that optimizers learn: what is trained, held out and measured, on little of each."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from flatlab import studies, train
from flatlab.studies.critical_momenta import learning

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cfg() -> Any:
    quick = studies.resolve("critical_momenta", "quick")
    image, text = (dataclasses.replace(recipe, epochs=2) for recipe in (quick.image_recipe, quick.text_recipe))
    changes: dict[str, Any] = {"train_limit": 120, "test_limit": 30, "held_out": 40, "curvature_points": 50}
    changes |= {"windows": 64, "late_windows": 32, "late_epochs": 3, "image_recipe": image, "text_recipe": text}
    return dataclasses.replace(quick, **changes)


@pytest.fixture(scope="module")
def digits(cfg: Any) -> learning.ImageTask:
    return learning.ImageTask(cfg, device=CPU)


@pytest.fixture(scope="module")
def prose(cfg: Any) -> learning.TextTask:
    return learning.TextTask(cfg, device=CPU)


def test_held_out_images_are_not_trained_on_and_labels_are_noisy(cfg: Any, digits: learning.ImageTask) -> None:
    assert (len(digits.train_set), len(digits.held_out), len(digits.test_set)) == (80, 40, 30)
    trained = {tuple(row) for row in digits.train_set.x.flatten(1).tolist()}
    assert not trained & {tuple(row) for row in digits.held_out.x.flatten(1).tolist()}
    clean = {tuple(x): int(y) for x, y in zip(digits.whole.x.flatten(1).tolist(), digits.whole.y, strict=True)}
    wrong = [
        clean[tuple(x)] != int(y)
        for x, y in zip(digits.train_set.x.flatten(1).tolist(), digits.train_set.y, strict=True)
    ]
    assert 0.05 < np.mean(wrong) <= cfg.label_noise


def test_each_method_trains_with_its_own_optimizer_and_rate(digits: learning.ImageTask) -> None:
    still, adam, cm = (digits.fit(name, lr, (3,))[0] for name, lr in (("adam", 1e-12), ("adam", 0.01), ("cm", 0.01)))
    assert train.distance(still, digits.network(3)) < 1e-6
    assert train.distance(adam, digits.network(3)) > 0.1
    assert train.distance(adam, cm) > 0.01
    (loss,) = digits.score("adam", {"lr": 0.01}, (3,))
    assert loss == pytest.approx(train.evaluate_loss(adam, *digits.held_out.float()).loss)


def test_what_is_measured_of_a_network(digits: learning.ImageTask) -> None:
    below = digits.below()
    (net,) = digits.fit("adam", 0.01, (3,), [below])
    row = digits.measure(3, net, None)
    assert row["distance"] == train.distance(net, digits.network(3))
    assert row["accuracy"] == train.evaluate_loss(net, *digits.test_set.float()).accuracy
    assert row["curvature at level"] == learning.SHARPEST  # never came down, and loses
    assert digits.measure(3, net, net)["curvature at level"] == row["curvature"] > 0
    hits = digits.hits([net, digits.network(4)])
    assert hits.shape == (2, 30)
    assert hits[0].mean() == pytest.approx(row["accuracy"])


def test_tasks_in_sequence(digits: learning.ImageTask) -> None:
    along, ends = digits.in_sequence("adam", 0.003, (5, 6))
    assert digits.sequence_score("adam", {"lr": 0.003}, (5, 6)) == pytest.approx([1 - hits for hits in along])
    kept = digits.kept(ends)
    assert kept.shape == (2, 30)
    assert set((kept * digits.cfg.tasks).round(6).flatten()) <= set(range(digits.cfg.tasks + 1))


def test_readers_and_their_losses(prose: learning.TextTask) -> None:
    assert len(prose.samples.x) == 64
    (net,) = prose.fit("adam", 0.01, (2,))
    losses = prose.losses("test", net)
    assert losses.shape == (50,)
    each = train.evaluate_samples(net, prose.windows["test"].x[:1000], prose.windows["test"].y[:1000])[0]
    assert losses.mean() == pytest.approx(float(each.mean()), rel=0.02)  # stretches may differ by one window
    assert prose.score("adam", {"lr": 0.01}, (2,)) == [pytest.approx(prose.losses("validation", net).mean())]
    with torch.no_grad():
        next(net.parameters()).fill_(float("nan"))
    assert (prose.losses("test", net) == learning.LOST).all()


def test_a_late_curve_has_an_epoch_a_point_and_learns_little(prose: learning.TextTask) -> None:
    curve = prose.late_curve("adam", 0.01, 2)
    assert len(curve) == 3
    assert curve[-1] < curve[0]
    (net,) = prose.fit("adam", 0.01, (2,), samples=prose.samples, epochs=3)
    assert curve[-1] != pytest.approx(float(prose.losses("validation", net, limit=200).mean()))  # fewer windows
