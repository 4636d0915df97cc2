"""A classifier as a judge: its statistics, and distances whose values are known."""

import math

import pytest
import torch

from flatlab import metrics, models, train
from flatlab.studies.two_time_scale_gan.judges import Judge


def test_training_images_are_at_distance_zero_and_others_are_not(images, judge) -> None:
    features = judge.features(images.train.x)
    assert features.shape == (200, 8)
    assert judge.scale == pytest.approx(float(torch.cov(features.double().T).trace()))
    assert judge.fid(images.train.x) == pytest.approx(0, abs=1e-5 * judge.scale)
    assert judge.floor == pytest.approx(metrics.fid(features, judge.features(images.test.x), warn=False))
    assert judge.floor > 0.01 * judge.scale


def test_samples_are_rounded_before_they_are_judged(images, judge) -> None:
    for shift in (-0.3, 0.3):
        found = judge.score(images.signed + shift / 127.5)
        assert found["fid"] == pytest.approx(0, abs=1e-5 * judge.scale)
    dark = judge.score(torch.full_like(images.signed[:30], -1.0))
    assert dark["fid"] == pytest.approx(judge.fid(torch.zeros_like(images.train.x[:30])))
    assert dark["relative"] == pytest.approx(dark["fid"] / judge.scale)
    assert 10 ** dark["log"] == pytest.approx(dark["relative"])
    assert -9 <= found["log"] < -4, "finite for images that are the training images"


def test_the_inception_score_is_that_of_the_classifier(images, judge) -> None:
    with torch.no_grad():
        p = judge.model(images.test.x.float() / 255).double().softmax(1)
    divergence = (p * (p / p.mean(0)).log()).sum(1).mean()
    assert judge.inception(images.test.x) == pytest.approx(math.exp(float(divergence)))
    assert 1.5 < judge.inception(images.test.x) < 10


def test_a_judge_has_learned_and_another_seed_is_another_judge(cfg, images, judge) -> None:
    assert judge.accuracy > 0.5
    with torch.no_grad():
        right = judge.model(images.test.x.float() / 255).argmax(1) == images.test.y
    assert judge.accuracy == pytest.approx(float(right.double().mean()))
    assert not judge.model.training
    same = models.build("small_cnn", images.shape, images.classes, seed=3, options=cfg.judge_options)
    train.fit(same, images.train, train.cross_entropy, cfg.judge_recipe, seeds=3)
    assert train.distance(same, judge.model) < 1e-3, "weights and batches of its seed"
    other = Judge(cfg, images, 4)
    assert other.features.name != judge.features.name
    with pytest.raises(ValueError):
        metrics.fid(judge.real, other.real)
