"""The training loop: seeds, resume, divergence, and that stacking changes nothing but the time."""

import dataclasses
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import defenses
from flatlab.models import build, stack_models
from flatlab.optim import SAM, AdamCM
from flatlab.rng import SeedGenerators
from flatlab.train import (
    Objective,
    Recipe,
    TrainingDiverged,
    TrainingState,
    accuracy,
    crop_flip,
    cross_entropy,
    distance,
    fit,
    fit_seeds,
    load_checkpoint,
    pick_device,
    save_checkpoint,
    schedule,
)
from flatlab.train.schedules import SCHEDULES

network = partial(build, "mlp", (1, 8, 8), 10, options={"widths": (32,)})
SHORT = Recipe(epochs=3, batch_size=100, lr=1e-2)


def make(seed: int) -> nn.Module:
    return network(seed=seed)


class Noisy(Objective):
    """An objective with random generators of its own, as the defenses are."""

    def __init__(self, rng: SeedGenerators | None = None) -> None:
        self.rng = rng or SeedGenerators(0)

    def __repr__(self) -> str:
        return "Noisy()"

    def seeded(self, seeds, device) -> "Noisy":
        return Noisy(SeedGenerators(list(seeds), device))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step_fraction: float = 1.0) -> Tensor:
        return F.cross_entropy(model(x + 0.1 * self.rng.normal(x.shape)), y)

    def state_dict(self) -> dict[str, Tensor]:
        return self.rng.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.rng.load_state_dict(state)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_training_learns_digits(digits, digits_test) -> None:
    (model,) = fit_seeds(make, digits, cross_entropy, Recipe(epochs=30), seeds=[0])
    assert accuracy(model, digits_test.x, digits_test.y) > 0.93
    assert not model.training


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize("objective", [cross_entropy, Noisy()])
def test_stacked_equals_sequential(digits, optimizer, objective) -> None:
    recipe = dataclasses.replace(SHORT, optimizer=optimizer, grad_clip=0.5)
    kwargs = {"seeds": [3, 1, 7]}
    stacked = fit_seeds(make, digits, objective, recipe, strategy="stacked", **kwargs)
    sequential = fit_seeds(make, digits, objective, recipe, strategy="sequential", **kwargs)
    for one, other in zip(stacked, sequential, strict=True):
        torch.testing.assert_close(weights(one), weights(other), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(weights(stacked[0]), weights(stacked[1]), atol=1e-2)


def test_gradient_clipping_is_per_network(digits) -> None:
    """One network with huge gradients must not shrink its neighbour's steps."""
    recipe = dataclasses.replace(SHORT, epochs=1, optimizer=torch.optim.SGD, lr=0.1, grad_clip=0.1)
    models = [make(0), make(1)]
    with torch.no_grad():
        for p in models[1].parameters():
            p.mul_(30)
    alone = make(0)
    fit(alone, digits, cross_entropy, recipe, seeds=0)
    stacked = stack_models(models)
    fit(stacked, digits, cross_entropy, recipe, seeds=[0, 1])
    first = torch.cat([p.detach()[0].flatten() for p in stacked.parameters()])
    torch.testing.assert_close(first, weights(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seeds", [[5], [5, 6]])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_resumed_training_is_bit_identical(digits, tmp_path: Path, seeds, optimizer) -> None:
    recipe = dataclasses.replace(SHORT, optimizer=optimizer, options={"weight_decay": 1e-4})
    whole = stack_models([make(s) for s in seeds])
    history = fit(whole, digits, Noisy(), recipe, seeds=seeds)

    class Stop:
        def on_step(self, state: TrainingState, loss: Tensor) -> None: ...

        def on_epoch(self, state: TrainingState) -> None:
            state.stop = state.epoch == 2

    file = tmp_path / "run.safetensors"
    first = stack_models([make(s) for s in seeds])
    fit(first, digits, Noisy(), recipe, seeds=seeds, checkpoint=file, callbacks=[Stop()])
    resumed = stack_models([make(99) for _ in seeds])
    again = fit(resumed, digits, Noisy(), recipe, seeds=seeds, checkpoint=file)
    assert torch.equal(weights(resumed), weights(whole))
    assert not torch.equal(weights(first), weights(whole))
    assert again == history


def test_a_checkpoint_of_other_settings_is_refused(digits, tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    fit(make(0), digits, cross_entropy, SHORT, seeds=0, checkpoint=file)
    with pytest.raises(ValueError, match=r"other settings \(recipe\)"):
        fit(make(0), digits, cross_entropy, dataclasses.replace(SHORT, lr=0.1), seeds=0, checkpoint=file)
    with pytest.raises(ValueError, match=r"other settings \(objective\)"):
        fit(make(0), digits, defenses.make("noise", eps=0.1), SHORT, seeds=0, checkpoint=file)
    with pytest.raises(ValueError, match=r"other settings \(seeds\)"):
        fit(make(0), digits, cross_entropy, SHORT, seeds=1, checkpoint=file)


def test_divergence_names_step_and_last_finite_loss(digits) -> None:
    def explode(model: nn.Module, x: Tensor, y: Tensor, fraction: float) -> Tensor:
        return cross_entropy(model, x, y) * (float("nan") if fraction > 0.5 else 1.0)

    with pytest.raises(TrainingDiverged, match=r"nan at step 20 of 36 \(last finite loss [0-9.]+"):
        fit(make(0), digits, explode, SHORT)
    hot = dataclasses.replace(SHORT, lr=1e12, grad_clip=None, optimizer=torch.optim.SGD, schedule="constant")
    with pytest.raises(TrainingDiverged, match=r"lower lr"):
        fit(make(0), digits, cross_entropy, hot)


def spoiled(seed: int) -> nn.Module:
    """A network that makes the loss NaN."""
    net = make(seed)
    with torch.no_grad():
        next(net.parameters()).fill_(float("nan"))
    return net


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, AdamCM, SAM])
@pytest.mark.parametrize("objective", [cross_entropy, Noisy(), defenses.make("pgd_at", eps=0.1, steps=2)])
def test_a_network_that_diverges_is_frozen_and_the_others_train_as_if_it_had_not(digits, optimizer, objective) -> None:
    recipe = dataclasses.replace(SHORT, optimizer=optimizer, epochs=2)
    # As many networks in both, whose products round alike.
    healthy, stacked = (stack_models([make(3), middle, make(7)]) for middle in (make(1), spoiled(1)))
    fit(healthy, digits, objective, recipe, seeds=[3, 1, 7])
    with pytest.warns(RuntimeWarning, match="seeds diverged, and their networks are NaN: 1 at step 1; lower lr"):
        history = fit(stacked, digits, objective, recipe, seeds=[3, 1, 7])
    assert history.diverged == {1: 1}
    assert history.steps == 24
    for p, expected in zip(stacked.parameters(), healthy.parameters(), strict=True):
        assert torch.equal(p[[0, 2]], expected[[0, 2]])
        assert p[1].isnan().all()
    assert not torch.equal(stacked.body[1].weight[0], make(3)[1].weight)


def test_a_network_that_diverges_later_is_recorded_with_its_step(digits, tmp_path: Path) -> None:
    """The data of one seed turn bad in the second epoch; a checkpoint in between changes nothing."""

    def objective(model: nn.Module, x: Tensor, y: Tensor, fraction: float) -> Tensor:
        factor = torch.ones(len(x))
        factor[len(x) // 2 :] = float("inf") if fraction > 0.5 else 1.0
        return (F.cross_entropy(model(x), y, reduction="none") * factor).mean()

    file = tmp_path / "run.safetensors"
    stacked, again = stack_models([make(0), make(1)]), stack_models([make(0), make(1)])
    with pytest.warns(RuntimeWarning, match="1 at step 20"):
        history = fit(stacked, digits, objective, SHORT, seeds=[0, 1], checkpoint=file)
    assert history.diverged == {1: 20}
    assert [torch.tensor(loss).isfinite().item() for loss in history.losses] == [True, False, False]
    with pytest.warns(RuntimeWarning, match="1 at step 20"):
        assert fit(again, digits, objective, SHORT, seeds=[0, 1], checkpoint=file).diverged == {1: 20}
    assert torch.equal(weights(again).nan_to_num(), weights(stacked).nan_to_num())


def test_if_all_networks_diverge_it_is_an_error(digits) -> None:
    with pytest.raises(TrainingDiverged, match=r"the loss of all 2 networks became nan at step 1 of 36"):
        fit(stack_models([spoiled(0), spoiled(1)]), digits, cross_entropy, SHORT, seeds=[0, 1])


def test_a_loss_of_which_no_network_is_the_cause_is_an_error(digits) -> None:
    def broken(model: nn.Module, x: Tensor, y: Tensor, fraction: float) -> Tensor:
        return cross_entropy(model, x, y) + float("nan")

    with pytest.raises(TrainingDiverged, match="the loss became nan at step 1 of 36"):
        fit(stack_models([make(0), make(1)]), digits, broken, SHORT, seeds=[0, 1])


def test_bad_arguments(digits) -> None:
    with pytest.raises(ValueError, match="epochs must be an integer >= 0, got -1"):
        Recipe(epochs=-1)
    with pytest.raises(ValueError, match="did you mean 'onecycle'"):
        Recipe(schedule="onecylce")
    with pytest.raises(ValueError, match="2 seed"):
        fit(make(0), digits, cross_entropy, SHORT, seeds=[0, 1])
    with pytest.raises(ValueError, match="seeds is empty"):
        fit_seeds(make, digits, cross_entropy, SHORT, seeds=[])
    recipe = dataclasses.replace(SHORT, optimizer=torch.optim.LBFGS)
    with pytest.raises(ValueError, match="cannot be stacked"):
        fit_seeds(make, digits, cross_entropy, recipe, seeds=[0, 1], strategy="stacked")
    with pytest.raises(ValueError, match="unknown device"):
        pick_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="no CUDA GPU"):
            pick_device("cuda")


def test_replays_repeat_each_batch(digits) -> None:
    class Replayed(Objective):
        replays = 4

        def __init__(self) -> None:
            self.batches: list[int] = []

        def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step_fraction: float = 1.0) -> Tensor:
            self.batches.append(hash(x.sum().item()))
            return cross_entropy(model, x, y)

    objective = Replayed()
    history = fit(make(0), digits, objective, dataclasses.replace(SHORT, epochs=1))
    assert history.steps == 48
    assert len(set(objective.batches)) == 12
    assert objective.batches[:4] == [objective.batches[0]] * 4


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_schedules_stay_in_the_unit_interval_and_reach_the_peak(name: str) -> None:
    values = [schedule(name)(step / 1000) for step in range(1001)]
    assert 0 <= min(values) <= max(values) <= 1
    assert max(values) == pytest.approx(1)
    if name != "constant":
        assert values[-1] < 0.05


def test_checkpoints_hold_nested_state_and_refuse_the_rest(tmp_path: Path) -> None:
    state = {"a": [torch.arange(3), (1, None, True)], 5: {"b": "text", "c": 2.5}, "empty": {}}
    save_checkpoint(tmp_path / "x.safetensors", state)
    loaded = load_checkpoint(tmp_path / "x.safetensors")
    assert torch.equal(loaded["a"][0], torch.arange(3))
    assert loaded["a"][1] == (1, None, True)
    assert loaded[5] == {"b": "text", "c": 2.5}
    assert loaded["empty"] == {}
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    with pytest.raises(TypeError, match="cannot hold 'f' of type function"):
        save_checkpoint(tmp_path / "y.safetensors", {"f": make})
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "y.safetensors")
    (tmp_path / "z.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:20])
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(tmp_path / "z.safetensors")


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "x.safetensors"
    save_checkpoint(file, {"step": 1})

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flatlab.files.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(file, {"step": 2})
    assert load_checkpoint(file) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_crop_flip_moves_and_mirrors() -> None:
    x = torch.arange(1, 17, dtype=torch.uint8).reshape(1, 1, 4, 4).repeat(200, 1, 1, 1)
    out = crop_flip(x, SeedGenerators(0), pad=1)
    assert out.shape == x.shape
    assert out.dtype == torch.uint8
    same = (out == x).flatten(1).all(1).float().mean()
    mirrored = (out == x.flip(3)).flatten(1).all(1).float().mean()
    assert 0 < same < 0.2
    assert 0 < mirrored < 0.2
    assert torch.equal(crop_flip(x[:1], SeedGenerators(0), pad=0), x[:1]) or torch.equal(
        crop_flip(x[:1], SeedGenerators(0), pad=0), x[:1].flip(3)
    )


def test_generators_do_not_depend_on_company() -> None:
    both, alone = SeedGenerators([4, 9]), SeedGenerators(9)
    assert torch.equal(both.normal((6, 2))[3:], alone.normal((3, 2)))
    assert torch.equal(both.rademacher((6, 2))[3:].abs(), torch.ones(3, 2))
    with pytest.raises(ValueError, match="5 rows do not divide into 2"):
        both.uniform((5, 2))
    with pytest.raises(ValueError, match="at least one seed"):
        SeedGenerators([])


def test_a_distance_is_that_of_all_weights() -> None:
    a, b = make(0), make(1)
    flat = [torch.cat([p.flatten() for p in net.parameters()]) for net in (a, b)]
    assert distance(a, b) == pytest.approx(float((flat[0] - flat[1]).detach().norm()), rel=1e-5)
    assert distance(a, a) == 0
