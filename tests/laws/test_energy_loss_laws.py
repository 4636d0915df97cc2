"""Laws that every loss of energy-based models obeys, alone and in flatlab's training loop."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flatlab import ebm
from flatlab.data import Points
from flatlab.ebm import EnergyLoss, GaussianNoise, LossOutput
from flatlab.models import mlp, stack_models
from flatlab.train import Recipe, TrainingDiverged, fit, fit_seeds

DOUBLE = torch.float64
Q = GaussianNoise.standard(2, 1.5)
MAKERS: dict[str, Callable[[], EnergyLoss]] = {
    "nce": lambda: ebm.NCELoss(Q, n_noise=24),
    "nce-without-constant": lambda: ebm.NCELoss(Q, n_noise=24, nu=2.0, log_z=False),
    "ence": lambda: ebm.ExpNCELoss(Q, n_noise=24),
    "meco": lambda: ebm.MECOLoss(Q, n_noise=24),
    "meco-decay": lambda: ebm.MECOLoss(Q, n_noise=24, gamma=ebm.Decay()),
    "meco-storm": lambda: ebm.MECOLoss(Q, n_noise=24, storm=True),
    "snl": lambda: ebm.SNLLoss(Q, n_noise=24),
    "cd": lambda: ebm.CDLoss(steps=2, eps=0.2),
    "pcd": lambda: ebm.PCDLoss(Q, steps=2, eps=0.2, buffer_size=60, reinit=0.3),
    "dsm": lambda: ebm.DSMLoss(sigma=0.4),
}
STEPWISE = {"nce", "ence", "meco", "meco-decay", "meco-storm", "snl", "pcd"}  # keep something from step to step
every_loss = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


X = torch.randn(48, 2, generator=seeded(1)) * 0.7 + 0.5
DATA = Points(X)
# Not Adam: the likelihood is flat along a constant in f, and Adam makes whole steps of the rounding of a zero gradient.
RECIPE = Recipe(epochs=4, batch_size=20, lr=0.03, optimizer=torch.optim.SGD, options={"momentum": 0.9})
OPTIONS = [{}, {"base": Q, "cap": 3.0}]
every_model = pytest.mark.parametrize("options", OPTIONS, ids=["plain", "tilted"])


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return mlp((2,), 1, widths=(8,), activation="softplus")


class Net(nn.Module):
    """A network as an energy (N,)."""

    def __init__(self, dtype: torch.dtype = DOUBLE) -> None:
        super().__init__()
        self.net = network(3).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(1) - x.square().sum(1) / 4


def numbers(out: LossOutput) -> Tensor:
    return torch.stack([getattr(out, field.name).detach() for field in fields(out)])


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def learn(loss: EnergyLoss, model: nn.Module, steps: int, g: torch.Generator) -> Tensor:
    """Steps of gradient descent on the network and on what the loss learns; what the loss said, (steps, 5)."""
    said = []
    for _ in range(steps):
        out = loss(model, X.to(DOUBLE), g)
        said.append(numbers(out))
        parameters = [*model.parameters(), *loss.parameters()]
        slopes = torch.autograd.grad(out.loss, parameters, allow_unused=True)
        with torch.no_grad():
            for p, slope in zip(parameters, slopes, strict=True):
                p -= 0.05 * (0 if slope is None else slope)
    return torch.stack(said)


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(-1e9), b.nan_to_num(-1e9))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=["float32", "float64"])
def test_returns_scalars_of_the_data_and_a_graph_of_the_loss_alone(make, dtype: torch.dtype) -> None:
    model = Net(dtype)
    out = make()(model, X.to(dtype), seeded())
    for field in fields(out):
        value = getattr(out, field.name)
        assert (value.shape, value.dtype) == ((), dtype), field.name
        assert value.requires_grad == (field.name == "loss"), field.name
    out.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert out.loss.isfinite()
    known = isinstance(make(), ebm.NoiseLoss)
    assert [bool(value.isfinite()) for value in numbers(out)[1:]] == [known] * 4
    if known:
        assert 1 <= out.ess <= 24
        assert 1 / 24 <= out.max_weight <= 1


@every_loss
def test_a_generator_decides_all_numbers(make) -> None:
    model, state = Net(), torch.get_rng_state()
    first, again, other = (numbers(make()(model, X.to(DOUBLE), seeded(seed))) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)
    assert torch.equal(state, torch.get_rng_state()), "torch's own numbers are left alone"
    torch.manual_seed(1)
    assert same(numbers(make()(model, X.to(DOUBLE))), first), "and are the default"


@every_loss
@every_model
def test_networks_side_by_side_train_as_each_alone(make, options) -> None:
    seen: dict[str, list[LossOutput]] = {"stacked": [], "sequential": []}
    trained = {}
    for strategy, found in seen.items():
        goal = ebm.objective(make(), **options, watch=found.append)
        trained[strategy] = fit_seeds(network, DATA, goal, RECIPE, seeds=[5, 6], strategy=strategy)
    for together, alone, seed in zip(trained["stacked"], trained["sequential"], (5, 6), strict=True):
        torch.testing.assert_close(weights(together), weights(alone), rtol=1e-5, atol=1e-5)
        assert (weights(alone) - weights(network(seed))).abs().max() > 1e-2, "they did learn"
    assert (len(seen["stacked"]), len(seen["sequential"])) == (12, 24)
    for step, out in enumerate(seen["stacked"]):
        alone = torch.cat([numbers(seen["sequential"][step + at]) for at in (0, 12)], 1)
        torch.testing.assert_close(numbers(out), alone, rtol=1e-4, atol=1e-4, equal_nan=True)
    moved = seen["stacked"][-1].log_z != seen["stacked"][0].log_z
    assert moved.all() or not make().parameters(), "what a loss learns is trained, and what it said stays"


class StopAfter:
    """Ends training after so many epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_step(self, state, loss: Tensor) -> None: ...

    def on_epoch(self, state) -> None:
        state.stop = state.epoch >= self.epochs


@every_loss
@pytest.mark.parametrize("networks", [1, 2])
def test_training_goes_on_exactly_from_a_checkpoint(make, networks: int, tmp_path: Path) -> None:
    seeds, file = list(range(7, 7 + networks)), tmp_path / "training.safetensors"
    models = [stack_models([network(seed) for seed in seeds]) for _ in range(3)]
    said: list[LossOutput] = []
    whole = fit(models[0], DATA, ebm.objective(make(), watch=said.append), RECIPE, seeds=seeds)
    rest: list[LossOutput] = []
    for model, callbacks in ((models[1], [StopAfter(2)]), (models[2], [])):
        rest.clear()
        goal = ebm.objective(make(), watch=rest.append)
        found = fit(model, DATA, goal, RECIPE, seeds=seeds, callbacks=callbacks, checkpoint=file)
    assert len(rest) == len(said) // 2, "the second half"
    assert found == whole
    assert torch.equal(weights(models[2]), weights(models[0]))
    for again, once in zip(rest, said[-len(rest) :], strict=True):
        assert same(numbers(again), numbers(once))


def spoilt(seed: int) -> nn.Module:
    net = network(seed)
    if seed == 6:
        nn.init.constant_(net[-1].weight, torch.nan)
    return net


@every_loss
@every_model
def test_a_network_that_diverges_leaves_the_others_alone(make, options) -> None:
    goal = ebm.objective(make(), **options)
    well, ill = (stack_models([build(seed) for seed in (5, 6, 7)]) for build in (network, spoilt))
    fit(well, DATA, goal, RECIPE, seeds=[5, 6, 7])
    with pytest.warns(RuntimeWarning, match="seeds diverged, and their networks are NaN: 6 at step 1; lower lr"):
        history = fit(ill, DATA, goal, RECIPE, seeds=[5, 6, 7])
    assert history.diverged == {6: 1}
    for name, value in ill.named_parameters():
        assert value[1].isnan().all()
        torch.testing.assert_close(value[[0, 2]], dict(well.named_parameters())[name][[0, 2]], rtol=1e-6, atol=1e-6)
    with pytest.raises(TrainingDiverged, match="step 1"):
        fit(spoilt(6), DATA, goal, RECIPE, seeds=6)


class Ruined(Net):
    """A network as an energy, whose values are changed."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(super().forward(x))


@every_loss
def test_bad_batches_and_models_are_refused(make) -> None:
    x = X.to(DOUBLE)
    with pytest.raises(ValueError, match=r"data must be a non-empty batch \(B, ...\), got shape \(0, 2\)"):
        make()(Net(), x[:0])
    with pytest.raises(TypeError, match=r"data must be floating point, got torch.int64; dequantize integers first"):
        make()(Net(), x.long())
    with pytest.raises(ValueError, match=r"f must return one .*, shape \(\d+,\), got \(\d+, 1\)"):
        make()(Ruined(lambda values: values[:, None]), x)
    for bad in (torch.nan, torch.inf, -torch.inf):
        ruined = Ruined(lambda values, bad=bad: values + torch.where(torch.arange(len(values)) == 0, bad, 0.0))
        with pytest.raises(ValueError, match=rf"f returned {bad} at row 0 of \d+.*must be finite; lower the learning"):
            make()(ruined, x)
    if hasattr(make(), "noise"):
        with pytest.raises(ValueError, match=r"noise has shape \(2,\) a sample, the data \(3,\): fit"):
            make()(Net(), torch.zeros(5, 3))


@every_loss
def test_a_state_continues_exactly(make, request) -> None:
    first, second, model, g, h = make(), make(), Net(), seeded(), seeded()
    learn(first, model, 4, g)
    state = first.state_dict()
    kept = {name: value.clone() for name, value in state.items()}
    second.load_state_dict(state)
    assert second.state_dict().keys() == kept.keys()
    assert bool(kept) == (request.node.callspec.id in STEPWISE)
    h.set_state(g.get_state())
    twin = Net()
    twin.load_state_dict(model.state_dict())
    assert same(learn(second, twin, 3, h), learn(first, model, 3, g))
    assert torch.equal(weights(twin), weights(model))
    assert all(torch.equal(state[name], value) for name, value in kept.items()), "a state does not go on with its loss"
    with pytest.raises(ValueError, match=f"has entries other, unknown, which {type(first).__name__} does not know"):
        first.load_state_dict({**first.state_dict(), "unknown": torch.zeros(1), "other": torch.zeros(1)})


@every_loss
def test_reset_forgets_and_training_can_go_on(make) -> None:
    loss, model, start = make(), Net(), Net().state_dict()
    held = loss.parameters()
    first = learn(loss, model, 4, seeded())
    model.load_state_dict(start)
    loss.reset()
    assert all(a is b for a, b in zip(loss.parameters(), held, strict=True)), "an optimizer holds them"
    assert same(learn(loss, model, 4, seeded()), first)


@every_loss
def test_a_fresh_loss_has_the_settings_and_nothing_else(make) -> None:
    loss = make()
    learn(loss, Net(), 3, seeded())
    fresh = loss.fresh(3)
    assert repr(fresh) == repr(loss) == repr(make())
    assert [tuple(p.shape) for p in fresh.parameters()] == [(3, 1)] * len(loss.parameters())
    assert all(not p.any() for p in fresh.parameters())
    assert set(fresh.state_dict()) <= {"c", "b"}, "no average, no chains"
