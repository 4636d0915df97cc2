"""Optimizers that mix coordinates are told how many networks are stacked; those that cannot keep them apart are not."""

import dataclasses
from functools import partial
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from flatlab.models import Stacked, build
from flatlab.train import Recipe, TrainingState, cross_entropy, fit, fit_seeds
from flatlab.train.stacking import keeps_apart


class Normalized(torch.optim.Optimizer):
    """Steps of length lr along the gradient: one norm for all weights of a network. Calls the closure twice."""

    stacks = True
    made: ClassVar[list["Normalized"]] = []

    def __init__(self, params, lr=0.1, *, networks=None, passes=2) -> None:
        super().__init__(params, {"lr": lr})
        self.networks, self.passes = networks, passes
        Normalized.made.append(self)

    def step(self, closure):
        with torch.enable_grad():
            first = closure()
            for _ in range(self.passes - 1):
                closure()
        (group,) = self.param_groups
        grads = [p.grad for p in group["params"]]
        rows = [g.reshape(self.networks or 1, -1) for g in grads]
        norm = torch.cat(rows, dim=1).norm(dim=1)
        with torch.no_grad():
            for p, row in zip(group["params"], rows, strict=True):
                p.sub_((row / norm[:, None]).reshape(p.shape), alpha=group["lr"])
        return first


class Whole(Normalized):
    """As its parent, but unable to tell networks apart."""

    stacks = False

    def __init__(self, params, lr=0.1) -> None:
        super().__init__(params, lr)


class TwoPass(Normalized):
    """An optimizer around another, as SAM is."""

    def __init__(self, params, base_optimizer=torch.optim.SGD, *, lr=0.1, networks=None) -> None:
        super().__init__(params, lr, networks=networks)


RECIPE = Recipe(epochs=2, batch_size=200, lr=0.05, optimizer=Normalized, grad_clip=None)


class Watch:
    """Notes whether several networks were trained as one module."""

    def __init__(self) -> None:
        self.stacked: list[bool] = []

    def on_step(self, state: TrainingState, loss: Tensor) -> None: ...

    def on_epoch(self, state: TrainingState) -> None:
        self.stacked.append(isinstance(state.model, Stacked))


@pytest.fixture(autouse=True)
def _forget():
    Normalized.made.clear()


def make(seed: int) -> nn.Module:
    return build("mlp", (1, 8, 8), 10, seed=seed, options={"widths": (16,)})


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("optimizer", [Normalized, partial(Normalized), partial(partial(Normalized, passes=2))])
def test_a_stacking_optimizer_trains_each_network_as_alone(digits, optimizer) -> None:
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer)
    stacked = fit_seeds(make, digits, cross_entropy, recipe, seeds=[3, 1, 7])
    assert [one.networks for one in Normalized.made] == [3]
    alone = fit_seeds(make, digits, cross_entropy, recipe, seeds=[3, 1, 7], strategy="sequential")
    assert [one.networks for one in Normalized.made] == [3, None, None, None]
    for one, other in zip(stacked, alone, strict=True):
        torch.testing.assert_close(weights(one), weights(other), rtol=1e-3, atol=1e-4)


def test_a_partial_that_names_networks_is_believed(digits) -> None:
    recipe = dataclasses.replace(RECIPE, optimizer=partial(Normalized, networks=1))
    fit_seeds(make, digits, cross_entropy, recipe, seeds=[0, 1])
    assert [one.networks for one in Normalized.made] == [1]


@pytest.mark.parametrize(
    ("optimizer", "options", "expected"),
    [
        (Normalized, {}, True),
        (Whole, {}, False),
        (TwoPass, {}, True),  # its own default, SGD, works element by element
        (TwoPass, {"base_optimizer": torch.optim.Adam}, True),
        (TwoPass, {"base_optimizer": Normalized}, True),
        (TwoPass, {"base_optimizer": Whole}, False),
        (TwoPass, {"base_optimizer": torch.optim.LBFGS}, False),
        (TwoPass, {"base_optimizer": partial(Whole)}, False),
        (partial(TwoPass, base_optimizer=Whole), {}, False),
        (partial(TwoPass, base_optimizer=Whole), {"base_optimizer": torch.optim.Adam}, True),
        (partial(TwoPass, base_optimizer=partial(TwoPass, base_optimizer=Whole)), {}, False),
        (torch.optim.LBFGS, {}, False),
        (torch.optim.Adam, {}, True),
        (partial(torch.optim.Adam, eps=1e-6), {}, True),
    ],
)
def test_which_optimizers_are_stacked(digits, optimizer, options, expected) -> None:
    assert keeps_apart(optimizer, options) is expected
    if getattr(optimizer, "func", optimizer) in (Whole, TwoPass):
        watch = Watch()
        recipe = dataclasses.replace(RECIPE, epochs=1, optimizer=optimizer, options=options)
        fit_seeds(make, digits, cross_entropy, recipe, seeds=[0, 1], callbacks=[watch])
        assert watch.stacked == ([True] if expected else [False, False])
    if not expected:
        with pytest.raises(ValueError, match="cannot be stacked"):
            fit_seeds(
                make,
                digits,
                cross_entropy,
                dataclasses.replace(RECIPE, optimizer=optimizer, options=options),
                seeds=[0, 1],
                strategy="stacked",
            )


def test_both_passes_of_a_step_see_one_batch(digits) -> None:
    seen: list[tuple[float, float]] = []

    def objective(model: nn.Module, x: Tensor, y: Tensor, fraction: float) -> Tensor:
        seen.append((float(x.double().sum()), fraction))
        return cross_entropy(model, x, y)

    history = fit(make(0), digits, objective, RECIPE)
    assert len(seen) == 2 * history.steps
    assert seen[::2] == seen[1::2]
    assert len(set(seen[::2])) == history.steps


def test_a_checkpoint_of_another_optimizer_is_refused(digits, tmp_path) -> None:
    file = tmp_path / "run.safetensors"
    recipe = dataclasses.replace(RECIPE, optimizer=torch.optim.Adam)
    fit(make(0), digits, cross_entropy, recipe, checkpoint=file)
    fit(
        make(0),
        digits,
        cross_entropy,
        dataclasses.replace(recipe, optimizer=partial(torch.optim.Adam)),
        checkpoint=file,
    )
    for other in (torch.optim.AdamW, partial(torch.optim.Adam, eps=1e-3)):
        with pytest.raises(ValueError, match=r"other settings \(recipe\)"):
            fit(make(0), digits, cross_entropy, dataclasses.replace(recipe, optimizer=other), checkpoint=file)
