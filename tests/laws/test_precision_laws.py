"""Attacks and measures on networks of half precision, on networks that return no tensor, and inside inference mode."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from flatlab import attacks, defenses, flatness, modes, train

EPS = 0.1
HALVES = [torch.bfloat16, torch.float16]
Measure = Callable[[nn.Module, Tensor, Tensor], Any]


def gen() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def weights(model: nn.Module, x: Tensor, y: Tensor) -> flatness.Landscape:
    return flatness.over_parameters(model, lambda m: F.cross_entropy(m(x), y))


def signs(x: Tensor) -> Tensor:
    return flatness.rademacher(torch.zeros(x.shape), generator=gen())


def ahead(model: nn.Module) -> tuple[Tensor, ...]:
    return flatness.filter_normalized_direction(model, generator=gen())


def aside(model: nn.Module) -> tuple[Tensor, ...]:
    return flatness.rademacher(tuple(torch.zeros(p.shape) for p in model.parameters()), generator=gen())


ATTACKS: dict[str, Measure] = {
    "fgsm": lambda m, x, y: attacks.fgsm(m, x, y, EPS),
    "pgd": lambda m, x, y: attacks.pgd(m, x, y, EPS, generator=gen()),
    "pgd dlr": lambda m, x, y: attacks.pgd(m, x, y, EPS, loss="dlr", restarts=2, early_stop=True, generator=gen()),
    "dlr_targeted": lambda m, x, y: attacks.dlr_targeted(m, x, y, EPS, steps=10, generator=gen()),
    "square": lambda m, x, y: attacks.square(m, x, y, EPS, queries=100, generator=gen()),
    "foolbox": lambda m, x, y: attacks.foolbox_attack("LinfPGD", m, x, y, EPS, steps=10, random_start=False),
    "evaluation": lambda m, x, y: attacks.evaluate_robustness(m, x, y, EPS, suite="fast").worst_inputs,
}

OF_INPUTS: dict[str, Measure] = {
    "likelihood": lambda m, x, y: flatness.likelihood_flatness(m, x, 0.01, generator=gen()).per_sample,
    "adversarial": lambda m, x, y: flatness.likelihood_flatness(m, x, 0.01, law="adversarial").per_sample,
    "margin": lambda m, x, y: flatness.margin_flatness(m, x, 0.01, generator=gen()).per_sample,
    "worst case": lambda m, x, y: flatness.worst_case_flatness(m, x, 0.01, generator=gen()).per_sample,
    "gradient": lambda m, x, y: flatness.gradient_flatness(m, x, 0.01).per_sample,
    "gradient sign": flatness.gradient_sign,
    "plane": lambda m, x, y: flatness.likelihood_plane(m, x, signs(x), signs(x[:1]).flip(1)[0], 0.1, n=3).values,
    "relative": lambda m, x, y: flatness.relative_log_likelihood(m, x, x.flip(0)).detach(),
}

OF_WEIGHTS: dict[str, Measure] = {
    "value": lambda m, x, y: weights(m, x, y).value(),
    "gradient of weights": lambda m, x, y: torch.cat([g.flatten() for g in weights(m, x, y).gradient()]),
    "sam": lambda m, x, y: flatness.sam_sharpness(weights(m, x, y), 0.01),
    "asam": lambda m, x, y: flatness.sam_sharpness(weights(m, x, y), 0.01, adaptive=True),
    "eigenvalues": lambda m, x, y: flatness.top_eigenvalues(weights(m, x, y), 3, generator=gen()).values,
    "smallest": lambda m, x, y: flatness.top_eigenvalues(weights(m, x, y), end="min", generator=gen()).values,
    "trace": lambda m, x, y: flatness.hutchinson_trace(weights(m, x, y), probes=3, generator=gen()).samples,
    "density": lambda m, x, y: flatness.spectral_density(weights(m, x, y), probes=1, generator=gen()).values,
    "line": lambda m, x, y: flatness.loss_line(weights(m, x, y), ahead(m), 0.1, n=5).values,
    "surface": lambda m, x, y: flatness.loss_surface(weights(m, x, y), ahead(m), aside(m), 0.01, n=3).values,
    "weight attack": lambda m, x, y: flatness.weight_attack(m, x, y, 0.01, steps=3, restarts=2),
    "random gap": lambda m, x, y: flatness.random_gap(m, x, y, 0.01, samples=3),
}

MEASURES = OF_INPUTS | OF_WEIGHTS
CALLERS = ATTACKS | OF_INPUTS | {"accuracy": train.accuracy, "loss": train.evaluate_loss}
CALLERS |= {"samples": train.evaluate_samples}
WITHOUT_GRADIENT = {"likelihood", "margin", "plane", "relative", "value", "line", "surface", "random gap"}


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32)[:200], torch.tensor(data.target)[:200]


@pytest.fixture(scope="module")
def net(digits) -> nn.Module:
    x, y = digits
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def half(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    return copy.deepcopy(model).to(dtype)


def fooled(model: nn.Module, x: Tensor, y: Tensor, dtype: torch.dtype) -> float:
    with torch.no_grad():
        return float((model(x.to(dtype)).argmax(1) != y).double().mean())


@pytest.mark.parametrize("given", ["data in float32", "data as the model"])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_reach_in_half_precision_what_they_reach_in_float32(name, dtype, given, net, digits) -> None:
    x, y = digits
    model = half(net, dtype)
    inputs = x if given == "data in float32" else x.to(dtype)
    found = ATTACKS[name](model, inputs, y)
    assert found.dtype == torch.float32
    assert (found - inputs.float()).abs().max() <= EPS + 1e-7
    assert found.min() >= 0
    assert found.max() <= 1
    assert fooled(model, found, y, dtype) == pytest.approx(fooled(net, ATTACKS[name](net, x, y), y, x.dtype), abs=0.025)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert all(p.grad is None for p in model.parameters())


def test_the_slope_of_a_confident_network_survives_float16(net, digits) -> None:
    x, y = digits
    model = copy.deepcopy(net)
    with torch.no_grad():
        model[3].weight.mul_(4), model[3].bias.mul_(4)
    wanted = fooled(model, attacks.pgd(model, x, y, 0.3, generator=gen()), y, x.dtype)
    coarse = model.to(torch.float16)
    found = fooled(coarse, attacks.pgd(coarse, x, y, 0.3, generator=gen()), y, torch.float16)
    assert found == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize("given", ["data in float32", "data as the model"])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_of_half_precision_is_that_of_the_same_weights_in_float32(name, dtype, given, net, digits) -> None:
    x, y = digits
    model, measure = half(net, dtype), MEASURES[name]
    inputs = x if given == "data in float32" else x.to(dtype)
    found, wanted = measure(model, inputs, y), measure(copy.deepcopy(model).float(), inputs.float(), y)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    for tensor in (*model.parameters(), model[2].running_mean):
        assert tensor.dtype == dtype
    assert not any(layer._forward_pre_hooks for layer in model.modules())


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "recurrent": lambda: nn.LSTM(8, 8, batch_first=True),
    "attention": lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
    "parametrized": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
    "normalised": lambda: nn.Sequential(nn.Conv1d(5, 4, 3, padding=1), nn.BatchNorm1d(4), nn.LayerNorm(8)),
    "tied": lambda: tied(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))),
}


def tied(model: nn.Sequential) -> nn.Sequential:
    model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", LAYERS)
def test_layers_of_every_kind_are_measured_in_float32(kind, dtype) -> None:
    torch.manual_seed(0)
    model, x = LAYERS[kind]().eval().to(dtype), torch.randn(2, 5, 8).to(dtype)

    def top(model: nn.Module, x: Tensor) -> Tensor:
        def loss(m: nn.Module) -> Tensor:
            found = m(x)
            return (found[0] if isinstance(found, tuple) else found).square().mean()

        return flatness.top_eigenvalues(flatness.over_parameters(model, loss), generator=gen()).values

    assert torch.equal(top(model, x), top(copy.deepcopy(model).float(), x.float()))


@pytest.mark.parametrize(
    ("inside", "cure", "cured"),
    [
        (torch.inference_mode, r"torch\.inference_mode\(False\)", lambda: torch.inference_mode(False)),
        (lambda: torch.autocast("cpu"), r"torch\.autocast\('cpu'", lambda: torch.autocast("cpu", enabled=False)),
    ],
)
@pytest.mark.parametrize("name", MEASURES)
def test_where_gradients_are_missing_or_coarse_a_measure_says_so(name, inside, cure, cured, net, digits) -> None:
    wanted = MEASURES[name](net, *digits)
    with inside():
        if name in WITHOUT_GRADIENT:
            torch.testing.assert_close(MEASURES[name](net, *digits), wanted, rtol=0, atol=0)
            return
        with pytest.raises(RuntimeError, match=cure):
            MEASURES[name](net, *digits)
        with cured():
            torch.testing.assert_close(MEASURES[name](net, *digits), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(OF_INPUTS.keys() - {"relative"}))
def test_data_made_in_inference_mode_may_be_measured_outside(name, net, digits) -> None:
    with torch.inference_mode():
        x = digits[0].clone()
    wanted = OF_INPUTS[name](net, *digits)
    torch.testing.assert_close(OF_INPUTS[name](net, x, digits[1]), wanted, rtol=0, atol=0)


def test_points_that_no_landscape_can_have() -> None:
    with torch.inference_mode():
        made = torch.ones(2)
    with pytest.raises(RuntimeError, match=r"tensor 0 .*inference_mode.*clone\(\)"):
        flatness.over_tensors(lambda w: w.sum(), made)
    with pytest.raises(TypeError, match=r"tensor 1 .*torch\.bfloat16.*tensor\.float\(\)"):
        flatness.over_tensors(lambda v, w: (v * w).sum(), torch.ones(2), torch.ones(2).bfloat16())


@dataclass
class Output:
    logits: Tensor


class Wrapped(nn.Module):
    """A network whose logits come inside something else."""

    def __init__(self, model: nn.Module, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model, self.wrap = model, wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.model(x))


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda z: (z, None), r"got tuple.*model\(x\)\[0\]"),
        (lambda z: [z], r"got list.*model\(x\)\[0\]"),
        (lambda z: {"logits": z}, r"got dict.*model\(x\)\['logits'\]"),
        (Output, r"got Output.*model\(x\)\.logits"),
    ],
)
@pytest.mark.parametrize("name", CALLERS)
def test_what_is_no_tensor_of_logits_is_named(name, wrap, message, net, digits) -> None:
    x, y = digits
    with pytest.raises(TypeError, match=message):
        CALLERS[name](Wrapped(net, wrap).eval(), x, y)


@pytest.mark.parametrize("name", CALLERS)
def test_the_cure_for_models_that_return_something_else(name, net, digits) -> None:
    picked = Wrapped(Wrapped(net, Output), lambda out: out.logits).eval()
    found, wanted = CALLERS[name](picked, *digits), CALLERS[name](net, *digits)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", HALVES)
def test_evaluation_in_half_precision_sums_in_float32(dtype, net, digits) -> None:
    x, y = digits
    model = half(net, dtype)
    logits = model(x.to(dtype)).detach().double()
    wanted = (float(F.cross_entropy(logits, y)), float((logits.argmax(1) == y).double().mean()))
    assert train.evaluate_loss(model, x, y) == pytest.approx(wanted, rel=1e-5)
    assert train.accuracy(model, x, y) == wanted[1]
    assert float(train.evaluate_samples(model, x, y)[0].mean()) == pytest.approx(wanted[0], rel=1e-5)
    gaps = [
        (a.double() - b.double()).detach().square().sum()
        for a, b in zip(model.parameters(), net.parameters(), strict=True)
    ]
    assert train.evaluate.distance(model, net) == pytest.approx(float(sum(gaps)) ** 0.5, rel=1e-6)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["std", "pgd_at", "free", "flat_rand"])
def test_defenses_refuse_half_precision(name, dtype, net, digits) -> None:
    x, y = digits
    defense = defenses.make(name, eps=EPS)
    for model, inputs in ((net, x.to(dtype)), (half(net, dtype), x)):
        with pytest.raises(TypeError, match=rf"{name} .*{dtype}.*float32.*autocast"):
            defense(model, inputs, y)


def test_inputs_follow_the_dtype_of_the_weights(net, digits) -> None:
    x, y = digits
    double = half(net, torch.float64)
    assert modes.call(double, x).dtype == torch.float64
    assert modes.call(net, x.double()).dtype == torch.float32
    found = attacks.pgd(double, x, y, EPS, steps=3, generator=gen())
    assert torch.equal(found, attacks.pgd(double, x, y, EPS, steps=3, generator=gen()))
    assert found.dtype == torch.float32
