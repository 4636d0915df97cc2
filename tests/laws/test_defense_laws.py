"""Laws that every registered defense obeys; a new one is tested by being registered."""

import dataclasses
import importlib
import inspect
import math
import pkgutil
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import defenses
from flatlab.defenses import Defense
from flatlab.models import stack_models

CHEAP: dict[str, dict[str, int]] = {"jem": {"steps": 3, "buffer_size": 12}}
KINDS = ("mlp", "cnn")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

every_defense = pytest.mark.parametrize("name", defenses.available())
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(name: str, *, seed: int = 0, **hyper) -> Defense:
    return defenses.make(name, **{"eps": 0.1, "seed": seed, **CHEAP.get(name, {}), **hyper})


def network(kind: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "mlp":
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 5))
        conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))


def batch(kind: str, n: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs with 8-bit values, as images have, and labels."""
    g = torch.Generator().manual_seed(seed)
    channels = 1 if kind == "mlp" else 3
    x = torch.randint(256, (n, channels, 8, 8), generator=g).float() / 255
    return x, torch.randint(5, (n,), generator=g)


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    """By `.backward()`, as in training, and without a trace of it."""
    loss.backward()
    found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    return found


def test_every_defense_that_a_file_defines_is_registered() -> None:
    for module in pkgutil.iter_modules(defenses.__path__, "flatlab.defenses."):
        importlib.import_module(module.name)
    pending, named = [Defense], set()
    while pending:
        cls = pending.pop()
        pending += [sub for sub in cls.__subclasses__() if sub.__module__.startswith("flatlab.")]
        named |= {cls.name} if not inspect.isabstract(cls) else set()
    assert named == set(defenses.available())
    assert set(CHEAP) <= named


@every_kind
@every_defense
def test_is_a_finite_scalar_that_reaches_every_parameter(name: str, kind: str) -> None:
    model, (x, y) = network(kind), batch(kind)
    loss = make(name)(model, x, y)
    assert loss.shape == ()
    assert loss.isfinite()
    grads = gradients(loss, model)
    assert all(g.isfinite().all() for g in grads)
    assert all(g.abs().sum() > 0 for g, p in zip(grads, model.parameters(), strict=True) if p.ndim > 1)


@every_defense
def test_is_reproducible_by_seed(name: str) -> None:
    model, (x, y) = network("mlp"), batch("mlp")
    first, again, other = make(name), make(name), make(name, seed=1)
    before = first.state_dict()["rng.0"]
    losses = [defense(model, x, y) for defense in (first, again, other)]
    assert torch.equal(losses[0], losses[1])
    draws = not torch.equal(before, first.state_dict()["rng.0"])
    assert torch.equal(losses[0], losses[2]) != draws


@every_defense
def test_takes_no_number_from_the_global_generator(name: str) -> None:
    model, (x, y) = network("cnn"), batch("cnn")
    state = torch.get_rng_state()
    gradients(make(name)(model, x, y), model)
    assert torch.equal(state, torch.get_rng_state())


@every_kind
@every_defense
def test_neutral_hyperparameters_give_cross_entropy(name: str, kind: str) -> None:
    model, (x, y) = network(kind), batch(kind)
    defense = make(name)
    neutral = dataclasses.replace(defense, **defense.neutral)
    plain = F.cross_entropy(neutral.wrap(model)(x), y)
    torch.testing.assert_close(neutral(model, x, y), plain)
    if defense.neutral:
        assert not torch.allclose(defense(model, x, y), plain, rtol=1e-6, atol=0) or name == "free"


@every_defense
def test_refuses_bad_hyperparameters(name: str) -> None:
    numbers = {f.name: f.default for f in dataclasses.fields(make(name)) if not isinstance(f.default, bool)}
    for field, default in {**numbers, "eps": 0.1}.items():
        bad: tuple[object, ...] = ("no such choice",) if isinstance(default, str) else (-1, -0.5)
        bad += (0, 1.5) if isinstance(default, int) else ()
        for value in bad:
            with pytest.raises(ValueError, match=field):
                make(name, **{field: value})
        with pytest.raises(ValueError):
            make(name, **{field: math.nan})


@every_defense
def test_refuses_bad_batches(name: str) -> None:
    defense, model, (x, y) = make(name), network("mlp"), batch("mlp")
    with pytest.raises(TypeError, match="floating point"):
        defense(model, (x * 255).to(torch.uint8), y)
    with pytest.raises(ValueError, match="non-empty"):
        defense(model, x[:0], y[:0])
    with pytest.raises(ValueError, match="labels must have shape"):
        defense(model, x, y[:-1])
    with pytest.raises(ValueError, match="step_fraction"):
        defense(model, x, y, 1.5)


class Faulty(nn.Module):
    """A network that raises in its k-th forward pass."""

    def __init__(self, model: nn.Module, good: int) -> None:
        super().__init__()
        self.model, self.good = model, good

    def forward(self, x: Tensor) -> Tensor:
        self.good -= 1
        if self.good < 0:
            raise ArithmeticError
        return self.model(x)


def traces(model: nn.Module) -> list[object]:
    return [
        [module.training for module in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [p.grad for p in model.parameters()],
    ]


def failing_at_every_pass(model: nn.Module) -> Iterator[Faulty]:
    for good in range(50):
        yield Faulty(model, good)
    raise AssertionError("no objective needs so many forward passes")


@every_defense
def test_leaves_model_and_inputs_as_they_were_also_after_errors(name: str) -> None:
    model, (x, y) = network("cnn").train(), batch("cnn")
    model[1].eval()  # one layer frozen: the flags differ from layer to layer
    model[4].bias.requires_grad_(False)
    original = x.clone()
    for faulty in failing_at_every_pass(model):
        before = traces(faulty)
        try:
            make(name)(faulty, x, y)
            finished = True
        except ArithmeticError:
            finished = False
        assert traces(faulty) == before
        assert torch.equal(x, original)
        assert not x.requires_grad
        assert x.grad is None
        if finished:
            return


@every_defense
def test_state_continues_bit_equal(name: str) -> None:
    model, batches = network("mlp"), [batch("mlp", seed=seed) for seed in (0, 0, 0, 1, 1)]
    defense = make(name).seeded([3, 4])
    for x, y in batches[:2]:
        gradients(defense(model, x, y), model)
    state = defense.state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())
    saved = {key: value.clone() for key, value in state.items()}
    expected = [gradients(defense(model, x, y), model) for x, y in batches[2:] + batches[:2]]
    assert all(torch.equal(state[key], saved[key]) for key in saved), "a saved state changed afterwards"
    resumed = make(name).seeded([8, 9])
    for _ in range(2):  # twice: loading must not hand out the saved tensors
        resumed.load_state_dict(state)
        found = [gradients(resumed(model, x, y), model) for x, y in batches[2:] + batches[:2]]
        assert all(torch.equal(a, b) for e, f in zip(expected, found, strict=True) for a, b in zip(e, f, strict=True))


@every_kind
@every_defense
def test_stacked_seeds_equal_the_sum_of_single_seeds(name: str, kind: str) -> None:
    """In double precision, as a rounding error can flip the sign of a gradient, and with it a pixel by 2 eps."""
    seeds = (5, 6, 7)
    singles = [network(kind, seed).double() for seed in seeds]
    stacked = stack_models(singles)
    data = [[batch(kind, seed=seed + step) for seed in seeds] for step in (0, 0, 10)]
    together, apart = make(name).seeded(seeds), [make(name).seeded(seed) for seed in seeds]
    for step in data:
        x, y = (torch.cat(parts) for parts in zip(*step, strict=True))
        joint = len(seeds) * together(stacked, x.double(), y)
        losses = [d(m, x.double(), y) for d, m, (x, y) in zip(apart, singles, step, strict=True)]
        torch.testing.assert_close(joint, torch.stack(losses).sum(), rtol=1e-6, atol=1e-8)
        each = [gradients(loss, m) for loss, m in zip(losses, singles, strict=True)]
        for found, *expected in zip(gradients(joint, stacked), *each, strict=True):
            torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-7)


@every_defense
def test_ramp_grows_the_radius_from_zero(name: str) -> None:
    model, (x, y) = network("mlp"), batch("mlp")

    def loss(step_fraction: float, **hyper: float) -> Tensor:
        return make(name, **hyper)(model, x, y, step_fraction)

    assert torch.equal(loss(0.0, ramp=0.5), loss(0.0, eps=0.0))
    assert torch.equal(loss(0.25, ramp=0.5), loss(0.25, eps=0.05))
    assert torch.equal(loss(0.5, ramp=0.5), loss(0.0))
    assert torch.equal(loss(1.0, ramp=0.5), loss(0.0))


@every_defense
def test_has_the_same_value_without_gradients(name: str) -> None:
    model, (x, y) = network("mlp"), batch("mlp")
    loss = make(name)(model, x, y)
    with torch.no_grad():
        assert torch.equal(make(name)(model, x, y), loss)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", DEVICES)
@every_defense
def test_keeps_dtype_and_device(name: str, device: str, dtype: torch.dtype) -> None:
    model, (x, y) = network("cnn").to(device, dtype), batch("cnn")
    for drawn_on in {"cpu", device}:
        loss = make(name).seeded(0, drawn_on)(model, x.to(device, dtype), y.to(device))
        assert (loss.dtype, loss.device.type) == (dtype, device)
        assert all(g.isfinite().all() for g in gradients(loss, model))


@every_kind
@every_defense
def test_wrapped_model_is_a_deterministic_classifier(name: str, kind: str) -> None:
    model, (x, _) = network(kind).eval(), batch(kind)
    wrapped = make(name).wrap(model)
    assert not any(module.training for module in wrapped.modules())
    assert wrapped(x).shape == (6, 5)
    assert torch.equal(wrapped(x), wrapped(x))
