"""Waves of random frequencies, and the smooth small networks that serve as energies."""

import math

import pytest
import torch
from torch import nn

from flatlab.models import FourierFeatures, build, stack_models, stackable, unstack

ENERGY = {"fourier": 32, "scale": 2.0, "activation": "silu", "widths": (64, 64)}


def energy(seed: int) -> nn.Module:
    return build("mlp", (2,), 1, seed=seed, options=ENERGY).double()


def waves(net: nn.Module) -> FourierFeatures:
    (layer,) = (m for m in net.modules() if isinstance(m, FourierFeatures))
    return layer


def points(n: int) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_known_features() -> None:
    layer = FourierFeatures(2, 3).double()
    layer.frequencies = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
    x = torch.tensor([[0.5, 3.0], [0.0, 0.0]], dtype=torch.float64)
    first = [0.5, 3.0, *(math.sin(a) for a in (0.5, 3.0, -2.0)), *(math.cos(a) for a in (0.5, 3.0, -2.0))]
    expected = torch.tensor([first, [0, 0, 0, 0, 0, 1, 1, 1]], dtype=torch.float64)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-14)


def test_frequencies_have_the_scale_and_are_those_of_the_seed() -> None:
    torch.manual_seed(0)
    layer = FourierFeatures(4, 5000, scale=3.0)
    assert layer.frequencies.shape == (4, 5000)
    assert float(layer.frequencies.std()) == pytest.approx(3.0, abs=4 * 3 / math.sqrt(2 * 20_000))
    assert float(layer.frequencies.mean()) == pytest.approx(0, abs=4 * 3 / math.sqrt(20_000))
    assert FourierFeatures(2).frequencies.shape == (2, 32)
    one, again, other = (waves(energy(seed)).frequencies for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert 1.4 < float(one.std()) < 2.6, "the scale of the options"


def test_frequencies_are_saved_and_not_trained() -> None:
    net, other = energy(0), energy(1)
    before = waves(net).frequencies.clone()
    assert not any(before.shape == p.shape for p in net.parameters())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.1)
    net(points(5)).sum().backward()
    optimizer.step()
    assert torch.equal(waves(net).frequencies, before)
    assert "1.frequencies" in net.state_dict()
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(points(5)), net(points(5)))


def test_an_energy_is_one_number_a_point_with_smooth_derivatives() -> None:
    net = energy(0)
    assert [type(m).__name__ for m in net] == ["Flatten", "FourierFeatures", *["Linear", "SiLU"] * 2, "Linear"]
    assert net(points(7)).shape == (7, 1)
    x = points(3).requires_grad_()
    assert torch.autograd.gradcheck(net, x)
    assert torch.autograd.gradgradcheck(net, x)


def test_without_waves_a_perceptron_is_what_it_was() -> None:
    net = build("mlp", (1, 2, 3), 4, seed=3, options={"widths": (5,)})
    assert [type(m).__name__ for m in net] == ["Flatten", "Linear", "ReLU", "Linear"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first = nn.Linear(6, 5)
    assert torch.equal(net[1].weight, first.weight)


def test_a_stack_of_energies_is_its_networks_side_by_side() -> None:
    nets, x = [energy(seed) for seed in range(3)], points(12)
    assert stackable(nets[0])
    stacked = stack_models(nets)
    assert waves(stacked).frequencies.shape == (3, 2, 32)
    x.requires_grad_()
    found = stacked(x)
    expected = torch.cat([net(block) for net, block in zip(nets, x.split(4), strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad(values.square().sum(), x)[0] for values in (found, expected)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-12, atol=1e-12)
    stacked(x).square().sum().backward()
    for net, block in zip(nets, x.detach().split(4), strict=True):
        net(block).square().sum().backward()
    for whole, parts in zip(stacked.parameters(), zip(*[net.parameters() for net in nets], strict=True), strict=True):
        torch.testing.assert_close(whole.grad, torch.stack([p.grad for p in parts]), rtol=1e-12, atol=1e-12)


def test_networks_come_back_from_a_stack_with_their_frequencies() -> None:
    nets = [energy(seed) for seed in range(3)]
    stacked = stack_models(nets)
    for net, again in zip(nets, unstack(stacked, energy(9)), strict=True):
        assert net.state_dict().keys() == again.state_dict().keys()
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())
        assert torch.equal(net(points(4)), again(points(4)))
    waves(stacked).frequencies.zero_()
    assert waves(nets[0]).frequencies.any(), "a stack holds copies"
    with pytest.raises(ValueError, match="differ in architecture"):
        stack_models([energy(0), build("mlp", (2,), 1, options={**ENERGY, "fourier": 16})])


def test_a_small_cnn_has_the_activation_asked_for_and_the_same_weights() -> None:
    plain, smooth = (build("small_cnn", (1, 28, 28), 1, options=o) for o in ({}, {"activation": "silu"}))
    assert [type(m).__name__ for m in plain] == [*["Conv2d", "ReLU"] * 2, "Flatten", "Linear", "ReLU", "Linear"]
    assert [type(m).__name__ for m in smooth] == [*["Conv2d", "SiLU"] * 2, "Flatten", "Linear", "SiLU", "Linear"]
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), smooth.parameters(), strict=True))
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert smooth(x).shape == (2, 1)
    assert not torch.equal(smooth(x), plain(x))
    assert stackable(smooth)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlp", {"fourier": -1}, "fourier must be an integer >= 0, got -1"),
        ("mlp", {"fourier": 2.5}, "fourier must be an integer >= 0, got 2.5"),
        ("mlp", {"fourier": 4, "scale": 0.0}, "scale must be a finite number > 0, got 0.0"),
        ("mlp", {"scale": math.inf}, "scale must be a finite number > 0, got inf"),
        ("mlp", {"activation": "relo", "widths": ()}, "unknown activation 'relo'.*did you mean 'relu'"),
        ("small_cnn", {"activation": "silo"}, "unknown activation 'silo'.*did you mean 'silu'"),
    ],
)
def test_bad_options_of_energies_are_named(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, (1, 8, 8), 1, options=options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "dim must be an integer >= 1, got 0"), ((2, 0), "features must be an integer >= 1, got 0"),
     ((2, 3, -1.0), "scale must be a finite number > 0, got -1.0")],
)  # fmt: skip
def test_bad_arguments_of_the_layer_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FourierFeatures(*arguments)
