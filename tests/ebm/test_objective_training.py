"""Losses in the training loop: where they lead, what a watcher sees, what checkpoints know."""

import copy
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flatlab import ebm
from flatlab.data import Points
from flatlab.ebm import (
    CDLoss,
    EnergyLoss,
    ExpNCELoss,
    GaussianNoise,
    LossOutput,
    MECOLoss,
    NCELoss,
    NormalizedSGD,
    PCDLoss,
    SNLLoss,
    TiltedModel,
)
from flatlab.models import mlp, stack_models
from flatlab.train import Recipe, fit, fit_seeds

DOUBLE = torch.float64


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Shift(nn.Module):
    """f(x) = b x - x^2 / 2, whose density is N(b, 1) and whose log Z is b^2 / 2 + log(2 pi) / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros((), dtype=DOUBLE))

    def forward(self, x: Tensor) -> Tensor:
        return self.b * x[:, 0] - x[:, 0].square() / 2


X = torch.randn(200, 1, generator=seeded(), dtype=DOUBLE) + 1.5
MEAN = float(X.mean())


def fixed_point(loss: EnergyLoss, steps: int = 400, lr: float = 0.5) -> tuple[float, LossOutput]:
    """Where gradient descent on all of the data ends: the mean of the last half of b, and the last output."""
    model, g, path = Shift(), seeded(1), []
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=lr)
    for step in range(steps):
        out = loss(model, X, g)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        if 2 * step >= steps:
            path.append(float(model.b.detach()))
    return sum(path) / len(path), out


def test_meco_ends_at_the_mean_of_the_data_as_the_draws_grow() -> None:
    """N(1.5, 1) under the noise N(0, 2^2). Of few draws, one batch alone is biased, and their moving average hardly."""
    noise = GaussianNoise.standard(1, 2.0).double()
    few, more, many = (abs(fixed_point(MECOLoss(noise, gamma=1, n_noise=n))[0] - MEAN) for n in (4, 40, 4000))
    assert few > 0.2
    assert more < 0.06
    assert many < 0.005
    averaged, _ = fixed_point(MECOLoss(noise, gamma=0.1, n_noise=4), steps=1500, lr=0.03)
    assert abs(averaged - MEAN) < 0.1


@pytest.mark.parametrize("kind", [NCELoss, ExpNCELoss, SNLLoss], ids=lambda kind: kind.__name__)
def test_a_learned_constant_is_log_z(kind) -> None:
    """Of f = -|x|^2 / (2 .7^2), whose form the data have, only log Z is left to learn."""
    data, known = 0.7 * torch.randn(20_000, 2, generator=seeded(2), dtype=DOUBLE), math.log(math.tau * 0.49)
    loss = kind(GaussianNoise.standard(2).double(), n_noise=20_000)
    optimizer, g = torch.optim.SGD(loss.parameters(), lr=1.0), seeded(3)
    found = []
    for _ in range(60):
        out = loss(lambda x: -x.square().sum(1) / 0.98, data, g)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        found.append(float(out.log_z))
    assert abs(found[0] - known) > 0.5 or kind is SNLLoss
    assert sum(found[-20:]) / 20 == pytest.approx(known, abs=0.02)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return mlp((2,), 1, widths=(16,), activation="softplus")


PLANE = Points(torch.randn(256, 2, generator=seeded(4)) * torch.tensor([0.6, 0.9]) + torch.tensor([0.8, -0.4]))
Q = GaussianNoise.standard(2, 1.5)
TRUTH = -(PLANE.x.double().var(0).log().sum() / 2 + math.log(math.tau) + 1)


@pytest.mark.parametrize("kind", [MECOLoss, SNLLoss, NCELoss, ExpNCELoss], ids=lambda kind: kind.__name__)
def test_tilted_networks_learn_the_density(kind) -> None:
    watched: list[LossOutput] = []
    goal = ebm.objective(kind(Q, n_noise=256), base=Q, cap=5.0, watch=watched.append)
    recipe = Recipe(epochs=120, batch_size=64, lr=0.02)
    nets = fit_seeds(network, PLANE, goal, recipe, seeds=[1, 2])
    assert len(watched) == 480
    for out in watched:
        assert {tuple(getattr(out, field.name).shape) for field in fields(out)} == {(2,)}
        assert not any(getattr(out, field.name).requires_grad for field in fields(out))
    for at, net in enumerate(nets):
        model = TiltedModel(net, Q, cap=5.0)
        grid = ebm.log_z_grid(model)
        exact = grid.log_z - float(ebm.evaluated(model, PLANE.x).mean())
        untrained = -float(Q.log_prob(PLANE.x).mean())
        best = -float(TRUTH)
        assert best - 0.05 < exact < best + 0.2 * (untrained - best)
        said = sum(float(out.log_z[at]) for out in watched[-20:]) / 20
        assert said == pytest.approx(grid.log_z, abs=0.1)


def test_ence_learns_under_normalized_steps() -> None:
    recipe = Recipe(epochs=20, batch_size=64, lr=0.2, optimizer=NormalizedSGD, schedule="cosine")
    losses = []
    for strategy in ("stacked", "sequential"):
        watched: list[LossOutput] = []
        goal = ebm.objective(ExpNCELoss(Q, n_noise=128), base=Q, cap=5.0, watch=watched.append)
        fit_seeds(network, PLANE, goal, recipe, seeds=[1, 2], strategy=strategy)
        losses.append(torch.stack([out.loss.mean() for out in watched]))
    assert losses[0][-20:].mean() < losses[0][:5].mean() - 0.01
    torch.testing.assert_close(losses[0], losses[1].view(2, -1).mean(0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("loss", [CDLoss(eps=0.3), PCDLoss(Q, eps=0.3, buffer_size=100)], ids=["cd", "pcd"])
def test_chains_teach_the_mean_of_the_data(loss: EnergyLoss) -> None:
    """Of N(b, 1), with chains long enough; the unadjusted ones are centred all the same."""
    model, flat = Shift(), copy.deepcopy(loss)
    flat.steps = 40
    if isinstance(flat, PCDLoss):
        flat.noise, flat.buffer_size = GaussianNoise.standard(1), 300
        flat = flat.fresh(1)
    history = fit(model, Points(X), ebm.objective(flat), Recipe(epochs=60, batch_size=200, lr=0.1, schedule="cosine"))
    assert float(model.b.detach()) == pytest.approx(MEAN, abs=0.2)
    assert history.steps == 60


def test_the_objective_trains_copies() -> None:
    loss = MECOLoss(Q, n_noise=32)
    goal = ebm.objective(loss)
    fit(network(0), PLANE, goal, Recipe(epochs=1))
    assert loss.log_u is None
    assert goal.loss is loss
    assert goal.seeded([1, 2]).loss is not loss
    with pytest.raises(ValueError, match="the state has an entry other, which EnergyObjective does not know"):
        goal.load_state_dict({**goal.state_dict(), "other": torch.zeros(1)})


def test_a_stack_needs_a_generator_for_each_network() -> None:
    goal, stack = ebm.objective(MECOLoss(Q, n_noise=32)), stack_models([network(0), network(1)])
    assert goal(network(0), PLANE.x).isfinite()
    with pytest.raises(ValueError, match=r"holds 2 network\(s\), the objective draws for 1: .* by seeded\(seeds\)"):
        goal(stack, PLANE.x)
    loss = goal.seeded([1, 2])
    assert loss(stack, PLANE.x).isfinite()
    with pytest.raises(ValueError, match=r"log Z is of 2 network\(s\), the batch of 1: call reset\(\) first"):
        loss.loss(TiltedModel(network(0), Q), PLANE.x)
    loss.loss.reset()
    assert loss.loss(TiltedModel(network(0), Q), PLANE.x).loss.isfinite()


class TwoColumns(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp((2,), 2, widths=(4,))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_networks_of_one_number_a_row_are_energies() -> None:
    goal = ebm.objective(MECOLoss(Q, n_noise=32))
    flat = nn.Sequential(network(0), nn.Flatten(0))
    assert torch.equal(goal.seeded(3)(network(0), PLANE.x), goal.seeded(3)(flat, PLANE.x))
    with pytest.raises(ValueError, match=r"f must return one number a row, shape \(288,\), got \(288, 2\)"):
        goal(TwoColumns(), PLANE.x)
    with pytest.raises(ValueError, match=r"it returned \(\d+, 2\)"):
        ebm.objective(MECOLoss(Q, n_noise=32), base=Q)(TwoColumns(), PLANE.x)
    with pytest.raises(ValueError, match="cap must be a finite number > 0, got 0"):
        ebm.objective(MECOLoss(Q), base=Q, cap=0)(network(0), PLANE.x)


def schedule(gamma: float) -> Callable[[int], float]:
    return lambda step: gamma


def test_checkpoints_know_the_settings_but_no_address(tmp_path: Path) -> None:
    """A function prints where it lies in memory, which another process cannot repeat."""
    file, recipe = tmp_path / "training.safetensors", Recipe(epochs=1)
    fit(network(0), PLANE, ebm.objective(MECOLoss(Q, gamma=schedule(0.5))), recipe, checkpoint=file)
    same = ebm.objective(MECOLoss(Q, gamma=schedule(0.5)))
    assert " at 0x" in repr(same.loss)
    assert " at 0x" not in repr(same)
    fit(network(0), PLANE, same, recipe, checkpoint=file)
    for other in (
        ebm.objective(MECOLoss(Q, gamma=schedule(0.5), n_noise=9)),
        ebm.objective(SNLLoss(Q)),
        ebm.objective(MECOLoss(Q, gamma=schedule(0.5)), base=Q),
    ):
        with pytest.raises(ValueError, match=r"made with other settings \(objective\)"):
            fit(network(0), PLANE, other, recipe, checkpoint=file)
