"""Laws that every algorithm of domain generalisation obeys; a new one is tested by being registered."""

import copy
import functools
import importlib
import inspect
import math
import pkgutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flatlab import dg, optim
from flatlab.train.checkpoint import load_checkpoint, save_checkpoint

SGD = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9)
EARLY: dict[str, dict[str, Any]] = {name: {"anneal": 2} for name in ("IRM", "VREx", "Fishr")} | {
    "UDIM": {"total_steps": 8},
    "SWAD": {"total_steps": 4},
}
"""Options with which all phases of a method fall into a few steps."""

every_algorithm = pytest.mark.parametrize("name", dg.ALGORITHMS)


class Net(nn.Module):
    """Two parts, with BatchNorm in the first."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.featurizer = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.BatchNorm1d(7), nn.Softplus())
            self.classifier = nn.Linear(7, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.featurizer(x))


def batches(domains: int = 3, n: int = 6, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.rand(n, 3, 2, 2, generator=g, dtype=torch.float64) + k, torch.randint(3, (n,), generator=g))
        for k in range(domains)
    ]


def make(name: str, model: nn.Module, optimizer: Any = SGD, **options: Any) -> dg.Algorithm:
    return dg.get_algorithm(name)(model, optimizer, **{**EARLY.get(name, {}), **options})


def train(algorithm: dg.Algorithm, steps: int, *, first: int = 0, domains: int = 3) -> list[dict[str, float]]:
    return [algorithm.update(batches(domains, seed=seed)) for seed in range(first, first + steps)]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_every_algorithm_that_a_file_defines_is_registered() -> None:
    for module in pkgutil.iter_modules(dg.__path__, "flatlab.dg."):
        importlib.import_module(module.name)
    pending, named = [dg.Algorithm], set()
    while pending:
        cls = pending.pop()
        pending += [sub for sub in cls.__subclasses__() if sub.__module__.startswith("flatlab.")]
        named |= {cls.__name__} if not inspect.isabstract(cls) else set()
    assert named == set(dg.ALGORITHMS)
    assert set(EARLY) <= named


@every_algorithm
def test_options_by_name_are_those_of_the_class(name: str) -> None:
    options = dg.default_hparams(name)
    assert not options.keys() & {"model", "optimizer", "seed", "lr", "batch_size"}
    parameters = inspect.signature(dg.get_algorithm(name)).parameters
    assert all(parameters[key].default == value for key, value in options.items())
    assert all(parameters[key].kind is inspect.Parameter.KEYWORD_ONLY for key in [*options, "seed"])
    train(dg.get_algorithm(name)(Net(), SGD, **options), 1)


@every_algorithm
def test_at_weight_zero_it_is_erm(name: str) -> None:
    cls = dg.get_algorithm(name)
    found, erm, usual = Net(), Net(), Net()
    neutral = make(name, found, **cls.neutral)
    train(neutral, 5)
    train(make("ERM", erm), 5)
    for key, value in erm.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], value, atol=1e-12, rtol=0)
        torch.testing.assert_close(neutral.model.state_dict()[key], value, atol=1e-12, rtol=0)
    algorithm = make(name, usual)
    train(algorithm, 5)
    differs = not torch.allclose(algorithm.model.classifier.weight, erm.classifier.weight, atol=1e-9, rtol=0)
    assert differs == (name != "ERM")


@every_algorithm
def test_is_reproducible_by_seed_and_takes_no_number_from_the_global_generator(name: str) -> None:
    models = [Net() for _ in range(3)]
    state = torch.get_rng_state()
    values = [train(make(name, model, seed=seed), 4) for model, seed in zip(models, (1, 1, 2), strict=True)]
    assert torch.equal(state, torch.get_rng_state())
    assert values[0] == values[1]
    assert same(state_of(models[0]), state_of(models[1]))
    assert same(state_of(models[0]), state_of(models[2])) == (name != "Mixup"), "only what draws depends on the seed"


@every_algorithm
def test_reports_finite_floats_and_learns(name: str) -> None:
    options = {"lam": 1.0} if name in ("IRM", "Fishr") else {}  # their defaults are for long trainings
    algorithm = make(name, Net(), functools.partial(torch.optim.Adam, lr=0.02), **options)
    data = batches(2, 8)
    found = [algorithm.update(data) for _ in range(60)]
    assert next(iter(found[0])) == "loss"
    assert all(isinstance(v, float) and math.isfinite(v) for values in found for v in values.values())
    x, y = torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])
    with torch.no_grad():
        before, after = (nn.functional.cross_entropy(m, y) for m in (Net().eval()(x), algorithm.predict(x)))
    assert after < before


@every_algorithm
def test_leaves_its_batches_alone(name: str) -> None:
    data = batches()
    kept = copy.deepcopy(data)
    algorithm = make(name, Net())
    for _ in range(4):
        algorithm.update(data)
    for (x, y), (x0, y0) in zip(data, kept, strict=True):
        assert torch.equal(x, x0)
        assert torch.equal(y, y0)
        assert not x.requires_grad
        assert x.grad is None


@every_algorithm
def test_without_a_learning_rate_the_weights_stay_and_statistics_move_once(name: str) -> None:
    model, seen = Net(), []
    model.featurizer[2].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    algorithm = make(name, model, functools.partial(torch.optim.SGD, lr=0.0))
    for step in range(1, 5):
        seen.clear()
        norm = model.featurizer[2]
        before = norm.running_mean.clone()
        algorithm.update(batches(seed=step))
        assert int(norm.num_batches_tracked) == step
        torch.testing.assert_close(norm.running_mean, before.lerp(seen[0].mean(0), 0.1), atol=1e-12, rtol=0)
        assert norm.track_running_stats
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), Net().parameters(), strict=True))
    assert all(p.grad is not None and not p.grad.requires_grad for p in model.parameters())


@every_algorithm
def test_frozen_statistics_stay_frozen(name: str) -> None:
    model = Net()
    model.featurizer[2].eval()
    train(make(name, model), 3)
    assert int(model.featurizer[2].num_batches_tracked) == 0
    assert [m.training for m in model.modules()] == [m is not model.featurizer[2] for m in model.modules()]


@every_algorithm
def test_frozen_parameters_stay_frozen(name: str) -> None:
    model = Net()
    model.featurizer[1].requires_grad_(False)
    train(make(name, model), 4)
    assert torch.equal(model.featurizer[1].weight, Net().featurizer[1].weight)
    assert not torch.equal(model.classifier.weight, Net().classifier.weight)


@every_algorithm
def test_predicts_as_its_model_does_and_one_row_at_a_time(name: str) -> None:
    algorithm = make(name, Net())
    train(algorithm, 3)
    x = batches()[0][0]
    flags = [m.training for m in algorithm.model.modules()]
    assert flags == [True] * len(flags)
    before = state_of(algorithm.model)
    found = algorithm.predict(x)
    assert not found.requires_grad
    assert [m.training for m in algorithm.model.modules()] == flags
    assert same(before, state_of(algorithm.model))
    torch.testing.assert_close(algorithm.predict(x[:1]), found[:1], atol=1e-12, rtol=0)
    torch.testing.assert_close(algorithm.model.eval()(x), found)


@every_algorithm
@pytest.mark.parametrize("after", [1, 3])
def test_resumes_exactly(name: str, after: int, tmp_path: Path) -> None:
    whole, parts = Net(), Net()
    reference = make(name, whole, functools.partial(torch.optim.Adam, lr=0.01))
    train(reference, 6)
    first = make(name, parts, functools.partial(torch.optim.Adam, lr=0.01))
    train(first, after)
    save_checkpoint(tmp_path / "state", first.state_dict())
    kept = first.state_dict()
    train(first, 2)
    fresh = make(name, Net(5), functools.partial(torch.optim.Adam, lr=0.01))
    for state in (load_checkpoint(tmp_path / "state"), kept):
        fresh.load_state_dict(copy.deepcopy(state))
        train(fresh, 6 - after, first=after)
        assert same(state_of(reference.trained), state_of(fresh.trained))
        assert same(state_of(reference.model), state_of(fresh.model))
        assert fresh.steps == 6


@every_algorithm
def test_takes_an_optimizer_or_a_factory(name: str) -> None:
    made, given = Net(), Net()
    train(make(name, made), 4)
    train(make(name, given, SGD(given.parameters())), 4)
    assert same(state_of(made), state_of(given))


@every_algorithm
def test_takes_one_domain_and_batches_of_unequal_size(name: str) -> None:
    algorithm = make(name, Net())
    assert all(math.isfinite(v) for values in train(algorithm, 4, domains=1) for v in values.values())
    algorithm = make(name, Net())
    (x, y), other = batches(2)
    for _ in range(4):
        assert math.isfinite(algorithm.update([(x[:4], y[:4]), other])["loss"])


@every_algorithm
def test_refuses_bad_batches_before_anything_moves(name: str) -> None:
    model = Net()
    algorithm, (good, (x, y)) = make(name, model), batches(2)
    with pytest.raises(ValueError, match="minibatches is empty"):
        algorithm.update([])
    with pytest.raises(ValueError, match=f"minibatch 1 has 0 rows, and {name} needs at least"):
        algorithm.update([good, (x[:0], y[:0])])
    if algorithm.min_rows > 1:
        with pytest.raises(ValueError, match=r"minibatch 1 has 1 rows.*at least 2.*raise batch_size"):
            algorithm.update([good, (x[:1], y[:1])])
    for bad in (y + 3, y - 3):
        with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2"):
            algorithm.update([good, (x, bad)])
    with pytest.raises(ValueError, match="labels must have shape"):
        algorithm.update([good, (x, y[:2])])
    with pytest.raises(TypeError, match="floating point"):
        algorithm.update([good, (x.to(torch.uint8), y)])
    with pytest.raises(ValueError, match=r"minibatch 1 has inputs of shape \(1, 2, 2\), minibatch 0 of \(3, 2, 2\)"):
        algorithm.update([good, (x[:, :1], y)])
    assert same(state_of(model), state_of(Net()))
    assert algorithm.steps == 0


@every_algorithm
def test_refuses_models_and_optimizers_that_do_not_fit(name: str) -> None:
    with pytest.raises(TypeError, match=r"^model must have a \.featurizer .*but Linear has none"):
        make(name, nn.Linear(12, 3))
    headless, hidden = Net(), Net()
    del headless.classifier
    hidden.classifier = nn.Sequential(nn.Linear(7, 3))
    with pytest.raises(TypeError, match=r"^model must have a \.classifier .*Net has none"):
        make(name, headless)
    with pytest.raises(TypeError, match=r"nn\.Linear, but Net has a Sequential"):
        make(name, hidden)
    for bad in ("adam", lambda parameters: "adam"):
        with pytest.raises(TypeError, match="optimizer"):
            make(name, Net(), bad)
    with pytest.raises(ValueError, match="not the model's"):
        make(name, Net(), torch.optim.SGD(Net().parameters(), lr=0.1))
    with pytest.raises(ValueError, match="base"):
        make(name, Net(), optim.SAM)
    with pytest.raises(ValueError, match="seed"):
        make(name, Net(), seed=-1)
    for option, default in dg.default_hparams(name).items():
        if isinstance(default, float):
            for value in (-1.0, math.nan, -math.inf):
                with pytest.raises(ValueError, match=option):
                    make(name, Net(), **{option: value})


@pytest.mark.parametrize("name", ["udim", "UDMI", "DANN"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    for call in (dg.get_algorithm, dg.default_hparams):
        with pytest.raises(ValueError, match=f"unknown algorithm '{name}'.*ERM, SAM, .*UDIM"):
            call(name)


def test_a_state_goes_to_the_algorithm_that_saved_it() -> None:
    algorithm = make("GroupDRO", Net())
    train(algorithm, 1)
    with pytest.raises(ValueError, match="holds weights, which ERM does not know"):
        make("ERM", Net()).load_state_dict(algorithm.state_dict())
