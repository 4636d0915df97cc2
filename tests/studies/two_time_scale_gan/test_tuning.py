"""The rates of the arms: each arm's best where its operations are spent, at its own ratio of rates."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from flatlab import gan
from flatlab.studies.two_time_scale_gan import tuning
from flatlab.studies.two_time_scale_gan.settings import Arm, Arms, Plan

ARMS = Arms(
    Plan("mlp", (), ()),
    {"5:1": Arm(5, 2e-3, 1e-3), "1:1": Arm(1, 1e-3, 1e-3)},
    (1e-3, 1e-2, 1e-1),
    (2, 8),
    2,
)
BEST = {5: 1e-2, 1: 1e-1}
"""Steps of the critic -> the generator's rate that is best at the end; at the first look the least is."""


@pytest.fixture
def asked(monkeypatch):
    """Grids whose score is the distance from the best rate, in powers of ten, and the seed."""
    calls = []

    def arm_grid(found, arm, real, score, seeds, pairs):
        calls.append((arm.n_critic, list(pairs), tuple(seeds), score))
        rows = []
        for lr_d, lr_g in pairs:
            for seed in seeds:
                off = abs(math.log10(lr_g / BEST[arm.n_critic])) + seed / 1000
                common = {"lr_d": lr_d, "lr_g": lr_g, "seed": seed, "JSD-2": off + 5}
                rows += [common | {"giga": 2, "fid": lr_g}, common | {"giga": 8, "fid": off}]
        return gan.Grid(rows, {})

    monkeypatch.setattr(tuning, "arm_grid", arm_grid)
    return calls


def test_each_arm_finds_its_own_rate_at_its_own_ratio(asked) -> None:
    found = tuning.tune(ARMS, torch.zeros(1), lambda x: {}, "fid", (200, 201))
    assert {name: options["lr_g"] for name, options in found.best.items()} == {"5:1": 1e-2, "1:1": 1e-1}
    assert all(seeds == (200, 201) for _, _, seeds, _ in asked)
    (first, *_), (beside, *_) = ([call for call in asked if call[0] == n] for n in (5, 1))
    assert first[1] == [pytest.approx((2 * lr, lr)) for lr in ARMS.tried]
    assert beside[1] == [pytest.approx((lr, lr)) for lr in ARMS.tried]
    scores = {(trial.method, trial.options["lr_g"]): trial.scores for trial in found.trials}
    assert scores["5:1", 1e-3] == pytest.approx((1.2, 1.201)), "in the order of the seeds, at the last look"
    tried = {lr for method, lr in scores if method == "1:1"}
    assert max(tried) > 0.1, "a grid whose best rate is at its end grows"
    assert "5:1" not in found.at_edge


def test_the_column_is_the_one_asked_for(asked) -> None:
    found = tuning.tune(ARMS, torch.zeros(1), lambda x: {}, "JSD-2", (0,))
    assert min(trial.mean for trial in found.trials) == pytest.approx(5)


@pytest.fixture
def tunable(cfg, monkeypatch):
    made = SimpleNamespace(signed=torch.full((1,), 1.0), score="on images", real=torch.full((1,), 2.0))
    monkeypatch.setattr(tuning, "Images", lambda cfg, **where: made)
    monkeypatch.setattr(tuning, "Judge", lambda cfg, images, seed: made)
    monkeypatch.setattr(tuning, "Texts", lambda cfg, **where: SimpleNamespace(real=made.real, score="on text"))
    return replace(cfg, tune=True, wgan=ARMS, text=replace(ARMS, arms={"1:1": Arm(1, 3e-3, 1e-3)}), grams=(1, 2))


def test_the_settings_take_what_was_found(tunable, asked) -> None:
    shown = []
    found = tuning.retuned(tunable, shown.append)
    assert found.wgan.arms["5:1"] == Arm(5, pytest.approx(2e-2), pytest.approx(1e-2))
    assert found.wgan.arms["1:1"] == Arm(1, pytest.approx(1e-1), pytest.approx(1e-1))
    assert found.text.arms == {"1:1": Arm(1, pytest.approx(3e-1), pytest.approx(1e-1))}
    assert replace(found, wgan=tunable.wgan, text=tunable.text) == tunable
    assert {seeds for _, _, seeds, _ in asked} == {tunable.tuning_seeds}
    assert {score for n, _, _, score in asked if n == 5} == {"on images"}
    assert "on text" in {score for *_, score in asked}
    assert all(isinstance(table, pd.DataFrame) for table in shown)
    assert shown[0]["method"].isin(["5:1", "1:1"]).all()
    assert shown[1]["mean score"].min() == pytest.approx(5.2, abs=0.01), "the longest n-grams of the text"


def test_without_tuning_nothing_is_trained(cfg, asked) -> None:
    assert tuning.retuned(cfg, lambda table: pytest.fail("shown")) is cfg
    assert asked == []


def test_seeds_that_are_reported_are_refused_before_anything_is_trained(tunable, asked) -> None:
    with pytest.raises(ValueError, match="201"):
        tuning.retuned(replace(tunable, seeds=(0, 201)), lambda table: None)
    assert asked == []
