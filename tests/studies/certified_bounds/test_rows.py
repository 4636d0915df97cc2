"""Tables of flatness, of sentences and of costs, and the options that they begin with: rows agree with single runs."""

import dataclasses
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from flatlab import data, models, studies
from flatlab.studies.certified_bounds import experiments, synonyms, weight_balls

CPU = torch.device("cpu")
QUICK = studies.resolve("certified_bounds", "quick")


def test_flat_rows_are_those_of_single_networks() -> None:
    recipe = dataclasses.replace(QUICK.flat_recipe, epochs=100)
    cfg = dataclasses.replace(QUICK, flat=QUICK.flat[:2], flat_seeds=(5, 6), flat_recipe=recipe, level=0.0)
    pool, at = data.load_images("digits", "train", limit=400), data.load_images("digits", "test", limit=60).float()
    found = weight_balls.rows(cfg, pool, at, {"ordinary": {"decay": 0.001}, "sam": {"decay": 0.0}}, device=CPU)
    keys = [(row["way"], row["seed"], row["at"]) for row in found]
    assert keys == [(way, seed, at) for way in ("ordinary", "sam") for seed in (5, 6) for at in ("end", "level")]
    for row in found:
        if row["at"] == "level":  # which none came down to
            assert list(row) == ["way", "seed", "at", "right"]
            assert row["right"].dtype == bool
            assert not row["right"].any()
    shown = weight_balls.few(cfg, pool, 6)
    net = weight_balls.fit_flat(cfg, cfg.flat[0], shown, 6, decay=0.001, device=CPU)["end"]
    assert net is not None
    wanted: dict[str, Any] = weight_balls.flat_row(net, shown.float(), at, cfg.ball, seed=6)
    assert wanted["right"].tolist() == (net(at[0]).argmax(1) == at[1]).tolist()
    assert 0 < wanted["right"].sum() < 60
    assert wanted["lost"].any()  # of some image rounding changes the answer
    rounded = models.round_weights(net, 3)(at[0]).argmax(1) == at[1]
    assert wanted["lost"].tolist() == (wanted["right"] - 1.0 * rounded.numpy()).tolist()
    for name, value in wanted.items():
        assert np.array_equal(found[2][name], value)


def test_word_rows_are_those_of_single_languages() -> None:
    recipe = dataclasses.replace(QUICK.word_recipe, epochs=2)
    changes: dict[str, Any] = {"words": 60, "word_tests": 12, "word_recipe": recipe, "word_epochs": {}}
    cfg = dataclasses.replace(QUICK, seeds=(1, 2), budgets=(1, 2), **changes)
    found = synonyms.rows(cfg, {"natural": {"lr": 0.02}, "ibp": {"lr": 0.01}}, device=CPU)
    keys = [(row["kind"], row["seed"], row["budget"]) for row in found]
    assert keys == [(kind, seed, budget) for kind in ("natural", "ibp") for seed in (1, 2) for budget in (1, 2)]
    net = synonyms.fit_words(cfg, "natural", 2, lr=0.02, device=CPU)
    wanted = synonyms.word_report(net, synonyms.language(cfg, 2, "test", 12), 2)
    assert found[3] == {"kind": "natural", "seed": 2, "budget": 2} | wanted
    assert 0 <= wanted["truth"] <= 1
    language = synonyms.language

    def dull(cfg: Any, seed: int, split: str, n: int, *, root: str = "") -> data.SynonymTask:
        task = language(cfg, seed, split, n, root=root)
        return dataclasses.replace(task, y=torch.ones_like(task.y)) if split == "test" else task

    with (
        mock.patch.object(synonyms, "language", dull),
        pytest.raises(ValueError, match="language 1 has test sentences of one label only"),
    ):
        synonyms.rows(cfg, {"natural": {"lr": 0.02}}, device=CPU)


def test_costs_are_those_of_single_steps_and_grow_by_a_power() -> None:
    cfg = dataclasses.replace(QUICK, classes=(4, 40), repeats=1, image_shape=(1, 8, 8))
    found = experiments.step_costs(cfg, seed=3, device=CPU)
    assert list(found) == list(experiments.STEP_KINDS)
    assert all(each.shape == (2, 2) for each in found.values())
    powers = {kind: experiments.growth(each[:, 1], cfg.classes) for kind, each in found.items()}
    assert 0 < powers["fused"].value < powers["plain"].value
    assert experiments.growth(np.array([10.0, 7.0, 1000.0]), (1, 5, 10)).value == pytest.approx(2.0)
    assert experiments.growth(np.array([10.0, 7.0, 1000.0]), (1, 5, 10)).n == 3


def test_settings_are_shifted_and_name_their_options() -> None:
    moved = QUICK.shifted(1000)
    assert (moved.seeds, moved.flat_seeds) == ((1000, 1001, 1002), (1030, 1031, 1032))
    assert dataclasses.replace(moved, seeds=QUICK.seeds, flat_seeds=QUICK.flat_seeds).__dict__ == QUICK.__dict__
    task = dataclasses.replace(QUICK.tasks[0], rates={"ibp": 0.5})
    options = dataclasses.replace(QUICK, kinds=("natural", "ibp")).image_options(task)
    assert options == {"natural": {"lr": task.recipe.lr}, "ibp": {"lr": 0.5}}
    words = dataclasses.replace(QUICK, word_rates={"ibp": 0.5}).word_options()
    rate = QUICK.word_recipe.lr
    assert words == {"natural": {"lr": rate}, "ibp": {"lr": 0.5}, "crown-ibp": {"lr": rate}}
