"""The gpu preset of 04 at a tiny size on whatever device is here: its networks, its ways of training, its notebook."""

import dataclasses
import os

import pytest
import torch

from flatlab import bounds, data, models, studies, train
from flatlab.studies.certified_bounds import settings

GPU = studies.resolve("certified_bounds", "gpu")


def tiny(task: settings.Task) -> settings.Task:
    recipe = dataclasses.replace(task.recipe, epochs=3, batch_size=20)
    options = {"width": 2, "hidden": 8}
    return dataclasses.replace(
        task, recipe=recipe, options=options, train_limit=40, test_limit=20, curve=(0.0, task.eps), start=0.2
    )


TINY = dataclasses.replace(
    GPU,
    seeds=(0, 1),
    tasks=tuple(tiny(task) for task in GPU.tasks[1:3]),
    networks=tuple(network for network in GPU.networks if network.label in ("MLP", "Transformer")),
    large=(),
    examples=2,
    draws=1,
    trials=2,
    flat_seeds=(20, 21),
    audit_steps=2,
    alpha_steps=2,
    repeats=2,
    classes=(10, 20),
    flat_recipe=dataclasses.replace(GPU.flat_recipe, epochs=5),
    word_recipe=dataclasses.replace(GPU.word_recipe, epochs=2),
    words=40,
    word_tests=12,
)


@pytest.fixture(scope="module")
def pictures() -> data.ImageSet:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(256, (40, 3, 32, 32), generator=g, dtype=torch.uint8)
    return data.ImageSet(x, torch.arange(40) % 10, tuple("abcdefghij"))


@pytest.mark.parametrize("kind", [kind for kind in GPU.kinds if kind != "natural"])
def test_every_kind_of_certified_training_runs_and_is_verified(kind: str, pictures) -> None:
    device, task = train.pick_device(), TINY.tasks[1]
    ramp = train.Ramp(task.eps_train, task.start, task.length)
    objective = bounds.CertifiedTraining(bounds.Balls(task.eps_train), kind=kind, ramp=ramp)
    net = train.fit_seeds(
        lambda s: models.build(task.model, (3, 32, 32), 10, seed=s, options=task.options),
        pictures,
        objective,
        task.recipe,
        seeds=(0,),
        device=device,
    )[0]
    x, y = pictures.subset(range(20)).float(device)
    made = bounds.Bounds(bounds.Program(net, x), x, bounds.LpBall(x, task.eps, clip=(0, 1)))
    with torch.no_grad():
        right = net(x).argmax(1) == y
        for method in ("ibp", "crown-ibp"):
            assert not (bounds.verified(made, y, method=method) & ~right).any()


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("FLATLAB_DATA"), reason="needs MNIST and CIFAR-10 under $FLATLAB_DATA")
def test_the_notebook_runs_with_the_gpu_preset(run_cells, monkeypatch) -> None:
    monkeypatch.setattr(settings, "GPU", TINY)
    names = run_cells("04_certified_bounds", "gpu")
    assert set(names["trained"].task) == {task.name for task in TINY.tasks}
    assert next(next(iter(names["nets"].values())).model.parameters()).device.type == train.pick_device().type
