"""Optimizers by name."""

import dataclasses
import inspect
import pickle

import pytest
import torch
from torch import Tensor, nn

from flatlab.optim.adam_cm import AdamCM
from flatlab.optim.registry import info, list_optimizers, make_optimizer
from flatlab.optim.sam import SAM
from flatlab.train import Recipe, cross_entropy, fit

TORCH = ("sgd", "adam", "adamw", "radam", "nadam", "rmsprop", "adagrad")
MEMORY = ("adam_cm", "adam_cg", "sgd_cm", "sgd_cg", "nadam_cm", "adam_c0")
SHARPNESS = ("sam", "asam", "gsam", "sagm", "sam_adam", "sam_adam_cm")
NORMALIZED = ("normalized_sgd",)
STACKED = ("stacked_adam",)
FAMILIES = {"torch": TORCH, "memory": MEMORY, "sharpness": SHARPNESS, "normalized": NORMALIZED, "stacked": STACKED}
NAMES = TORCH + MEMORY + SHARPNESS + NORMALIZED + STACKED

every_name = pytest.mark.parametrize("name", NAMES)


@dataclasses.dataclass
class Samples:
    x: Tensor
    y: Tensor


def test_lists_names_by_pattern() -> None:
    assert list_optimizers() == NAMES
    assert list_optimizers("*sam*") == ("sam", "asam", "gsam", "sam_adam", "sam_adam_cm")
    assert list_optimizers("sgd_c?") == ("sgd_cm", "sgd_cg")
    assert list_optimizers("nothing*") == ()


def test_unknown_names_raise_with_the_nearest_one() -> None:
    for call in (info, lambda name: make_optimizer(name, [torch.zeros(1)])):
        with pytest.raises(ValueError, match=r"'adam_mc'.*did you mean 'adam_cm'"):
            call("adam_mc")
    with pytest.raises(ValueError, match="unknown optimizer"):
        info("ADAM")


def test_options_of_the_authors_package_are_translated_in_the_error() -> None:
    for theirs, ours in (("topC", "capacity"), ("critical_test", "policy"), ("synced", "norm")):
        with pytest.raises(TypeError, match=f"{theirs!r}.*{ours!r}"):
            make_optimizer("adam_cm", [torch.zeros(1)], **{theirs: 5})
    with pytest.raises(TypeError, match="no_such"):
        make_optimizer("adam_cm", [torch.zeros(1)], no_such=1)


@every_name
def test_entries_tell_the_truth(name: str) -> None:
    entry = info(name)
    assert entry.name == name
    assert name in FAMILIES[entry.family]
    assert entry.two_pass == (name in SHARPNESS)
    assert entry.stacks == (name not in TORCH)
    assert bool(getattr(entry.factory, "stacks", False)) == entry.stacks
    assert ("networks" in inspect.signature(entry.factory).parameters) == entry.stacks
    assert entry.description
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        entry.defaults["lr"] = 1.0  # type: ignore[index]


@every_name
def test_factories_survive_pickling(name: str) -> None:
    factory = pickle.loads(pickle.dumps(info(name).factory))
    assert type(factory([torch.zeros(2, requires_grad=True)], lr=0.1)) is type(_made(name))
    assert bool(getattr(factory, "stacks", False)) == info(name).stacks


def _made(name: str, **options: object) -> torch.optim.Optimizer:
    return make_optimizer(name, [torch.zeros(2, requires_grad=True)], lr=0.1, **options)


def test_presets_of_a_name_hold_and_yield_to_options() -> None:
    assert _made("adam_c0").param_groups[0]["capacity"] == 0
    assert _made("adam_c0", capacity=3).param_groups[0]["capacity"] == 3
    assert dict(info("adam_c0").defaults) == {"capacity": 0}
    assert dict(info("adam_cm").defaults) == {}
    bases = {"sam": torch.optim.SGD, "sam_adam": torch.optim.Adam, "sam_adam_cm": AdamCM}
    for name, base in bases.items():
        optimizer = _made(name, rho=0.2)
        assert isinstance(optimizer, SAM)
        assert type(optimizer.base) is base
        assert optimizer.param_groups[0]["rho"] == 0.2
        assert optimizer.param_groups[0]["lr"] == 0.1
    assert _made("sam_adam_cm", capacity=7).param_groups[0]["capacity"] == 7


@every_name
def test_every_optimizer_trains_as_part_of_a_recipe(name: str) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(64, 1, 2, 2, generator=g)
    data = Samples(x, (x[:, 0, 0, 0] > 0.5).long())
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    recipe = Recipe(epochs=6, batch_size=16, lr=0.01, schedule="constant", optimizer=info(name).factory)
    history = fit(model, data, cross_entropy, recipe)
    assert history.losses[-1] < history.losses[0]
