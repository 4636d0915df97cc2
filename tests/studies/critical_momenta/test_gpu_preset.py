"""The gpu preset of 05 at a tiny size on whatever device is here: its networks, its methods, its notebook."""

import dataclasses
import functools
import math
import os

import pytest
import torch

from flatlab import data, models, optim, studies, train
from flatlab.studies.critical_momenta import settings

GPU = studies.resolve("critical_momenta", "gpu")
TINY = dataclasses.replace(
    GPU,
    seeds=(10, 11),
    starts=8,
    toy_steps=20,
    held_out=20,
    train_limit=60,
    test_limit=20,
    model_options={"width": 2},
    image_recipe=dataclasses.replace(GPU.image_recipe, epochs=1, batch_size=20),
    curvature_points=20,
    level=100.0,  # every network comes down to it, so that curvature is measured there too
    windows=32,
    text_options={"width": 8, "layers": 1, "context": GPU.length},
    text_recipe=dataclasses.replace(GPU.text_recipe, epochs=1, batch_size=16),
    late_windows=16,
    late_epochs=2,
)


def recipe(base: train.Recipe, task: str, name: str) -> train.Recipe:
    method = TINY.method(name)
    factory = functools.partial(optim.info(method.optimizer).factory, **method.options)
    return dataclasses.replace(base, optimizer=factory, lr=TINY.tuned[task][name])


@pytest.fixture(scope="module")
def pictures() -> data.ImageSet:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(256, (40, 3, 32, 32), generator=g, dtype=torch.uint8)
    return data.ImageSet(x, torch.arange(40) % 10, tuple("abcdefghij"))


@pytest.mark.parametrize("name", TINY.images)
def test_every_method_learns_images(name, pictures) -> None:
    device = train.pick_device()

    def network(s):
        return models.build(TINY.model, (3, 32, 32), 10, seed=s, options=TINY.model_options)

    below = train.FirstBelow(network(0), *pictures.float(device), TINY.level)
    settings = {"seeds": TINY.seeds, "device": device, "callbacks": [below]}
    nets = train.fit_seeds(
        network, pictures, train.cross_entropy, recipe(TINY.image_recipe, "images", name), **settings
    )
    assert len(nets) == 2
    assert set(below.models) == set(TINY.seeds)
    assert math.isfinite(train.evaluate_loss(nets[0], *pictures.float(device)).loss)


@pytest.mark.parametrize("name", TINY.texts)
def test_every_method_learns_text(name) -> None:
    device = train.pick_device()
    text = data.load_text("python_topics", "train", limit=33 * TINY.length)
    windows = text.windows(TINY.length)

    def reader(s):
        return models.build(TINY.text_model, (TINY.length,), len(text.alphabet), seed=s, options=TINY.text_options)

    settings = {"seeds": TINY.seeds, "device": device}
    nets = train.fit_seeds(reader, windows, train.next_token, recipe(TINY.text_recipe, "texts", name), **settings)
    assert len(nets) == 2
    assert math.isfinite(train.evaluate_loss(nets[0], windows.x.to(device), windows.y.to(device)).loss)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("FLATLAB_DATA"), reason="needs CIFAR-10 and Tiny Shakespeare in $FLATLAB_DATA")
def test_the_notebook_runs_with_the_gpu_preset(run_cells, monkeypatch) -> None:
    monkeypatch.setattr(settings, "GPU", TINY)
    names = run_cells("05_critical_momenta", "gpu")
    assert set(names["nets"]) == set(TINY.images)
    assert set(names["losses"]) == set(TINY.texts)
    assert next(names["nets"]["cm"][0].parameters()).device.type == train.pick_device().type
    unmeasured = {claim for claim, estimate in names["measured"].items() if estimate is None}
    assert unmeasured == {"C6.4", "C7.1", "C7.2"}, "variants of Adam and sequences of tasks are of digits alone"
    learned = ("C3.3", "C5.1", "C5.3", "C6.1", "C8.1", "C8.2", "C9")
    assert {names["measured"][claim].n for claim in learned} == {len(TINY.seeds)}, "one pair a seed"
