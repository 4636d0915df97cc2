"""What a checkpoint refuses: other data, augmentation or objective, damage, and files of other programs."""

import copy
import dataclasses
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from flatlab import ebm
from flatlab.data import Windows
from flatlab.ebm.noise import GaussianNoise
from flatlab.rng import SeedGenerators
from flatlab.train import (
    Objective,
    Recipe,
    Stepper,
    TrainingState,
    crop_flip,
    cross_entropy,
    fit,
    fit_seeds,
    load_checkpoint,
    resume_training,
    save_checkpoint,
    save_training,
)

G = torch.Generator().manual_seed(0)
X, Y = torch.rand(12, 1, 4, 4, generator=G), torch.arange(12) % 3
RECIPE = Recipe(epochs=1, batch_size=6)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def train(file: Path | None, x: Any = X, y: Any = Y, objective: Any = cross_entropy, **changed: Any) -> nn.Module:
    net, recipe = network(), dataclasses.replace(RECIPE, **changed)
    fit(net, Windows(x, y), objective, recipe, checkpoint=file)
    return net


def refuses(file: Path, what: str, *arguments: Any, **options: Any) -> None:
    """The training is refused with the name of the file and of what differs."""
    with pytest.raises(ValueError, match=rf"made with other settings \({what}\); delete it or name another") as caught:
        train(file, *arguments, **options)
    assert str(file) in str(caught.value)


class TestData:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        train(tmp_path / "run.safetensors")
        return tmp_path / "run.safetensors"

    def test_one_number_of_one_input_or_target(self, file: Path) -> None:
        x, y = X.clone(), Y.clone()
        x[11, 0, 3, 3] = x[11, 0, 3, 3].nextafter(torch.tensor(2.0))
        y[11] = 1
        refuses(file, "data", x)
        refuses(file, "data", X, y)
        train(file, X.clone(), Y.clone())

    def test_shape_and_type(self, file: Path) -> None:
        refuses(file, "data", X.view(12, 1, 2, 8))
        refuses(file, "data", X, Y.int())
        for other in (X[:11], X.flip(0), X.double()):
            with pytest.raises(ValueError, match=r"settings \(data"):
                train(file, other, Y[: len(other)])
        train(file, X.transpose(2, 3).contiguous().transpose(2, 3))  # as it lies in memory does not matter

    def test_targets_of_any_kind(self, tmp_path: Path) -> None:
        def nothing(model: nn.Module, x: Tensor, y: Any, step_fraction: float = 1.0) -> Tensor:
            return model(x).square().mean()

        train(tmp_path / "pairs", X, (Y, Y), nothing)
        train(tmp_path / "pairs", X, (Y, Y.clone()), nothing)
        refuses(tmp_path / "pairs", "data", X, (Y, Y.flip(0)), nothing)
        refuses(tmp_path / "pairs", "data", X, None, nothing)


def scaled(factor: float) -> Callable[..., Tensor]:
    def objective(model: nn.Module, x: Tensor, y: Tensor, step_fraction: float = 1.0) -> Tensor:
        return factor * F.cross_entropy(model(x), y)

    return objective


class Scaled(Objective):
    """Prints where it lies in memory."""

    def __init__(self, factor: float, teacher: nn.Module | None = None) -> None:
        self.factor, self.teacher = factor, teacher

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step_fraction: float = 1.0) -> Tensor:
        return self.factor * F.cross_entropy(model(x), y)


class TestObjective:
    def test_a_value_that_a_function_closes_over(self, tmp_path: Path) -> None:
        train(tmp_path / "run", objective=scaled(0.5))
        train(tmp_path / "run", objective=scaled(0.5))
        refuses(tmp_path / "run", "objective", objective=scaled(2.0))

    def test_attributes_but_no_address(self, tmp_path: Path) -> None:
        first, second = Scaled(0.5, network(1)), Scaled(0.5, network(1))
        assert repr(first) != repr(second)
        train(tmp_path / "run", objective=first)
        train(tmp_path / "run", objective=second)
        refuses(tmp_path / "run", "objective", objective=Scaled(2.0, network(1)))
        refuses(tmp_path / "run", "objective", objective=Scaled(0.5, network(2)))
        refuses(tmp_path / "run", "objective", objective=scaled(0.5))

    def test_the_settings_of_a_loss(self, tmp_path: Path) -> None:
        """A schedule prints its address alone."""

        def goal(gamma: float, **options: Any) -> Objective:
            return ebm.objective(ebm.MECOLoss(GaussianNoise.standard(2), gamma=lambda step: gamma), **options)

        def run(objective: Objective) -> None:
            net = nn.Linear(2, 1)
            fit(net, Windows(X.view(-1, 2), None), objective, RECIPE, checkpoint=tmp_path / "run")

        seen: list[Any] = []
        run(goal(0.5, watch=seen.append))
        run(goal(0.5))
        with pytest.raises(ValueError, match=r"other settings \(objective\)"):
            run(goal(0.7))

    def test_seeds_one_by_one_know_it_as_fit_does(self, tmp_path: Path) -> None:
        def build(seed: int) -> nn.Module:
            return network()

        recipe = dataclasses.replace(RECIPE, optimizer=torch.optim.LBFGS, grad_clip=None, lr=0.1)
        fit_seeds(build, Windows(X, Y), cross_entropy, recipe, seeds=[0], checkpoint=tmp_path / "run")
        fit(network(), Windows(X, Y), cross_entropy, recipe, seeds=0, checkpoint=tmp_path / "run.0.safetensors")


class Shifted(nn.Module):
    """An augmentation with a setting, and an address in its `repr`."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    __repr__ = object.__repr__

    def forward(self, x: Tensor, rng: SeedGenerators) -> Tensor:
        return x + self.by


class TestRecipe:
    @pytest.mark.parametrize(
        ("make", "others"),
        [
            (lambda: None, [crop_flip]),
            (lambda: partial(crop_flip, pad=1), [None, crop_flip, partial(crop_flip, pad=2)]),
            (lambda: lambda x, rng: x + 1, [lambda x, rng: x + 2]),
            (lambda: Shifted(0.1), [Shifted(0.2), Shifted(0.1).forward]),
        ],
        ids=["none", "partial", "lambda", "module"],
    )
    def test_another_augmentation(self, make: Callable[[], Any], others: list[Any], tmp_path: Path) -> None:
        train(tmp_path / "run", augment=make())
        train(tmp_path / "run", augment=make())
        for other in others:
            refuses(tmp_path / "run", "augment", augment=other)

    def test_another_precision_or_optimizer(self, tmp_path: Path) -> None:
        train(tmp_path / "run", options={"eps": 1e-8, "betas": (0.9, 0.99)})
        train(tmp_path / "run", options={"betas": (0.9, 0.99), "eps": 1e-8})
        refuses(tmp_path / "run", "recipe", options={"eps": 1e-8, "betas": (0.9, 0.99)}, amp=True)
        refuses(tmp_path / "run", "recipe", options={"eps": 1e-7, "betas": (0.9, 0.99)})

    def test_several_things_are_named_with_what_they_were(self, tmp_path: Path) -> None:
        train(tmp_path / "run")
        with pytest.raises(ValueError, match=r"settings \(augment, data, recipe\)") as caught:
            train(tmp_path / "run", X + 1, augment=crop_flip, lr=0.125)
        for part in ("flatlab.train.augment.crop_flip", "float32 (12, 1, 4, 4)", "0.003", "0.125"):
            assert part in str(caught.value)


STATE = {"a": torch.arange(3.0), "b": [1, "t", None, 0.5], 3: {"d": torch.tensor(True)}}


class TestDamage:
    def test_a_flipped_bit_is_seen_in_every_byte(self, tmp_path: Path) -> None:
        file = tmp_path / "run.safetensors"
        save_checkpoint(file, STATE)
        whole = file.read_bytes()
        for place in range(len(whole)):
            part = bytearray(whole)
            part[place] ^= 1 << place % 8
            file.write_bytes(part)
            with pytest.raises(ValueError, match=r"run\.safetensors .*(delete it|name another file)"):
                load_checkpoint(file)
        file.write_bytes(whole)
        assert load_checkpoint(file)["b"] == STATE["b"]

    def test_every_length_but_its_own_is_seen(self, tmp_path: Path) -> None:
        file = tmp_path / "run.safetensors"
        save_checkpoint(file, STATE)
        whole = file.read_bytes()
        for part in (*(whole[:length] for length in range(len(whole))), whole + b"\0"):
            file.write_bytes(part)
            with pytest.raises(ValueError, match=r"run\.safetensors is damaged or no checkpoint"):
                resume_training(file, {})

    def test_a_damaged_file_changes_nothing(self, tmp_path: Path) -> None:
        """The last byte belongs to the last tensor."""
        file, saved, net = tmp_path / "run.safetensors", network(1), network(2)
        save_training(file, {"net": saved})
        with file.open("r+b") as part:
            part.seek(-1, os.SEEK_END)
            last = part.read(1)[0]
            part.seek(-1, os.SEEK_END)
            part.write(bytes([last ^ 1]))
        before = copy.deepcopy(net.state_dict())
        with pytest.raises(ValueError, match=r"run\.safetensors is damaged: its checksum is not that of its content"):
            resume_training(file, {"net": net})
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())

    @pytest.mark.parametrize(
        "write",
        [
            lambda path: torch.save(STATE, path),
            lambda path: path.write_bytes(pickle.dumps({"a": 1})),
            lambda path: path.write_text("a text about something else"),
            lambda path: path.touch(),
            lambda path: path.mkdir(),
            lambda path: os.mkfifo(path),
            lambda path: save_file({"a": torch.zeros(3)}, path),
            lambda path: save_file({"a": torch.zeros(3)}, path, metadata={"format": "pt"}),
            lambda path: save_checkpoint(path, STATE),
        ],
        ids=["torch", "pickle", "text", "empty", "folder", "pipe", "tensors", "model", "no training"],
    )
    def test_files_of_others_are_named(self, write: Callable[[Path], Any], tmp_path: Path) -> None:
        write(tmp_path / "other")
        with pytest.raises(ValueError, match="other .*name another file|other .*name a file"):
            resume_training(tmp_path / "other", {"net": network()})
        with pytest.raises(ValueError, match=r"/other (is|was|holds)"):
            train(tmp_path / "other")

    def test_earlier_formats_say_what_they_lack(self, tmp_path: Path) -> None:
        save_file({}, tmp_path / "old", metadata={"format": "flatlab checkpoint 1", "skeleton": "{}"})
        with pytest.raises(
            ValueError, match=r"old is in the format 'flatlab checkpoint 1', .* delete it and train again"
        ):
            train(tmp_path / "old")

    def test_a_file_that_may_not_be_read_is_no_damaged_one(self, tmp_path: Path, monkeypatch) -> None:
        def closed(path: Path, *_: Any) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        save_checkpoint(tmp_path / "run", STATE)
        monkeypatch.setattr(Path, "open", closed)
        with pytest.raises(PermissionError, match="run"):
            load_checkpoint(tmp_path / "run")

    def test_a_state_that_does_not_fit_names_file_and_part(self, tmp_path: Path) -> None:
        save_training(tmp_path / "run", {"net": nn.Linear(2, 2)})
        with pytest.raises(ValueError, match=r"run: its state of 'net' does not fit; name another file. Error\(s\) in"):
            resume_training(tmp_path / "run", {"net": nn.Linear(3, 2)})


class TestDevices:
    """`meta` stands for a GPU."""

    def test_moments_go_to_the_device_and_counts_of_steps_stay(self, tmp_path: Path) -> None:
        def player(device: str) -> Stepper:
            w = torch.zeros(3, device=device, requires_grad=True)
            return Stepper([w], torch.optim.Adam, lr=0.1, check_finite=False)

        first, other = player("cpu"), player("meta")
        first.step(lambda: first.parameters[0].sum())
        save_training(tmp_path / "run", {"player": first})
        assert resume_training(tmp_path / "run", {"player": other})
        (state,) = other.optimizer.state.values()
        assert {name: value.device.type for name, value in state.items()} == {
            "step": "cpu", "exp_avg": "meta", "exp_avg_sq": "meta",
        }  # fmt: skip

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_a_resumed_training_does_not_wait_for_counts(self, tmp_path: Path) -> None:
        found = []

        class Look:
            def on_step(self, state: TrainingState, loss: Tensor) -> None:
                found.extend(held["step"].device.type for held in state.optimizer.state.values())
                state.stop = state.epoch == 0

            def on_epoch(self, state: TrainingState) -> None: ...

        for _ in range(2):
            recipe = dataclasses.replace(RECIPE, epochs=2)
            net = network().cuda()
            fit(net, Windows(X, Y), cross_entropy, recipe, callbacks=[Look()], checkpoint=tmp_path / "run")
        assert set(found) == {"cpu"}

    def test_what_a_loss_remembers_goes_to_where_it_draws(self) -> None:
        """Chains of persistent contrastive divergence."""
        goal = ebm.objective(ebm.PCDLoss(GaussianNoise.standard(2), buffer_size=8)).seeded(0)
        goal(nn.Linear(2, 1), torch.rand(4, 2))
        state = goal.state_dict()
        goal.rng.device = torch.device("meta")
        goal.load_state_dict(state)
        assert goal.loss.buffer.device.type == "meta"
