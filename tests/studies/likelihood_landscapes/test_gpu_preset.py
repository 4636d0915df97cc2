"""The gpu preset's path at a tiny size on whatever device is here: its network, its methods, its notebook."""

import dataclasses
import os

import pytest
import torch

from flatlab import attacks, data, flatness, studies, train
from flatlab.studies.likelihood_landscapes import learning, settings

GPU = studies.resolve("likelihood_landscapes", "gpu")
TINY = dataclasses.replace(
    GPU,
    seeds=(10, 11),
    train_limit=40,
    test_limit=20,
    model_options={"width": 2},
    recipe=dataclasses.replace(GPU.recipe, epochs=1, batch_size=20),
    suite="fast",
    directions=2,
    radii=2,
)


@pytest.fixture(scope="module")
def pictures() -> data.ImageSet:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(256, (40, 3, 32, 32), generator=g, dtype=torch.uint8)
    return data.ImageSet(x, torch.arange(40) % 10, tuple("abcdefghij"))


@pytest.mark.parametrize("method", TINY.methods, ids=lambda m: m.name)
def test_every_method_trains_and_is_measured(method, pictures) -> None:
    split = learning.Split(TINY, pictures, pictures.subset(range(20)), train.pick_device())
    nets = split.fit(method.defense, method.options, TINY.seeds)
    assert len(nets) == 2
    x, y = split.images
    suite = (attacks.AttackSpec("PGD-2", "pgd", steps=2),)
    report = attacks.evaluate_robustness(nets[0], x, y, TINY.eps, suite=suite)
    assert report.robust <= report.clean
    assert flatness.likelihood_flatness(nets[0], x, TINY.eps, directions=2, radii=2).mean >= 0


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("FLATLAB_DATA"), reason="needs CIFAR-10 under $FLATLAB_DATA")
def test_the_notebook_runs_with_the_gpu_preset(run_cells, monkeypatch) -> None:
    monkeypatch.setattr(settings, "GPU", TINY)
    names = run_cells("01_likelihood_landscapes", "gpu")
    assert set(names["networks"]) == set(TINY.names)
    assert next(names["networks"]["std"][0].parameters()).device.type == train.pick_device().type
