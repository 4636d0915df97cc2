"""The real, gpu and full presets of 03 at a tiny size on whatever device is here: the whole notebook."""

import dataclasses
import os

import pytest

from flatlab import studies
from flatlab.studies.compositional_ebm import settings


def tiny(preset: str) -> settings.CompositionalEBM:
    """The preset with everything that costs time made small; its noises, losses and rates stay."""
    cfg = studies.resolve("compositional_ebm", preset)

    def few(recipe, size=200):
        return dataclasses.replace(recipe, epochs=1, batch_size=size)

    return dataclasses.replace(
        cfg,
        seeds=cfg.seeds[:2],
        distances=(2.0, 4.0, 8.0),
        most_iterations=900,
        race_steps=30,
        sgd_rates=(0.1, 1.0),
        ngd_rates=(0.1, 1.0),
        law_steps=64,
        replicas=40,
        planar_sets=cfg.planar_sets[:2],
        planar_points=400,
        planar_test=100,
        planar_cells=40,
        planar_batch=200,
        planar_net={**cfg.planar_net, "widths": (8,)},
        planar_recipe=few(cfg.planar_recipe),
        limits={"train": 400, "test": 40},
        dims=8,
        components=2,
        flow={"layers": 2, "width": 8, "epochs": 1, "batch_size": 200, "lr": 1e-3},
        cached=500,
        image_noise=32,
        image_net={**cfg.image_net, "widths": (8,)},
        image_recipe=few(cfg.image_recipe),
        judge_recipe=few(cfg.judge_recipe),
        draws=2000,
        annealed=200,
        temperatures=5,
        chain_steps=3,
    )


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["real", "gpu", "full"])
@pytest.mark.skipif(not os.environ.get("FLATLAB_DATA"), reason="needs MNIST, CIFAR-10 and PACS in $FLATLAB_DATA")
def test_the_notebook_runs_with_the_large_presets(preset: str, run_cells, monkeypatch) -> None:
    monkeypatch.setattr(settings, preset.upper(), tiny(preset))
    names = run_cells("03_compositional_ebm", preset)
    assert {noise for _, noise in names["gallery"].learned} == set(names["cfg"].noises)
    assert set(names["measured"]) == {claim.id for claim in names["CLAIMS"]}
    assert names["measured"]["C12"].n == 2
