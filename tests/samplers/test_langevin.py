"""Langevin dynamics: its discretised stationary laws, its formula, and what it must leave alone."""

import math

import pytest
import torch
from torch import Tensor, nn

from flatlab.samplers import langevin, langevin_step


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(x: Tensor) -> Tensor:
    return -x.square().flatten(1).sum(1) / 2


def quartic(x: Tensor) -> Tensor:
    return -x.pow(4).flatten(1).sum(1) / 4


def assert_variance(x: Tensor, wanted: float) -> None:
    """Within four standard errors of the variance of independent normal numbers with mean 0."""
    assert float(x.square().mean()) == pytest.approx(wanted, rel=4 * math.sqrt(2 / x.numel()))


@pytest.mark.parametrize("eps", [0.5, 1.0, 1.5])
def test_the_unadjusted_chain_has_its_own_stationary_variance(eps: float) -> None:
    x = langevin(normal, torch.zeros(20_000, 1, dtype=torch.float64), 80, eps, generator=gen())
    assert_variance(x, 1 / (1 - eps**2 / 4))


def test_step_and_noise_apart_have_another_temperature() -> None:
    x = langevin(normal, torch.zeros(20_000, 1, dtype=torch.float64), 80, step=0.1, noise=0.1, generator=gen())
    assert_variance(x, 0.1**2 / (1 - 0.9**2))


def test_a_step_by_hand() -> None:
    x = torch.randn(5, 2, 3, dtype=torch.float64, generator=gen(1))
    noise = torch.randn(5, 2, 3, dtype=torch.float64, generator=gen(2))
    found = langevin_step(quartic, x, step=0.3, noise=0.7, generator=gen(2))
    torch.testing.assert_close(found, x - 0.3 * x**3 + 0.7 * noise)
    clipped = langevin_step(quartic, x, step=0.3, noise=0.7, generator=gen(2), clip=0.5)
    torch.testing.assert_close(clipped, x - 0.3 * (x**3).clamp(-0.5, 0.5) + 0.7 * noise)


def test_eps_stands_for_a_step_and_a_noise() -> None:
    x = torch.randn(5, 2, generator=gen(1))
    found = langevin(quartic, x, 4, 0.3, generator=gen(), clip=0.4)
    expected = x
    same = gen()
    for _ in range(4):
        expected = langevin_step(quartic, expected, step=0.045, noise=0.3, generator=same, clip=0.4)
    assert torch.equal(found, expected)
    assert torch.equal(found, langevin(quartic, x, 4, step=0.045, noise=0.3, generator=gen(), clip=0.4))


def test_a_gradient_that_is_a_view_can_be_clipped() -> None:
    x = torch.zeros(3, 1)
    found = langevin(lambda p: p.squeeze(1), x, 2, step=1.0, noise=0.0, clip=0.25)
    assert torch.equal(found, torch.full((3, 1), 0.5))


def test_no_step_keeps_a_graph_and_parameters_stay_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    model[0].bias.requires_grad_(False)
    model[2].weight.grad = torch.ones(1, 4)
    leaves = []

    def f(x: Tensor) -> Tensor:
        leaves.append(x.is_leaf)
        return model(x).squeeze(1)

    x = torch.randn(3, 2, requires_grad=True)
    found = langevin(f, x * 1, 5, 0.1, generator=gen())
    assert leaves == [True] * 5
    assert not found.requires_grad
    assert x.grad is None
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True]
    assert [p.grad is None for p in model.parameters()] == [True, True, False, True]
    assert torch.equal(model[2].weight.grad, torch.ones(1, 4))
    with torch.no_grad():
        assert torch.equal(langevin(f, x, 5, 0.1, generator=gen()), found)


@pytest.mark.parametrize("given", ["", "step", "noise", "eps step", "eps noise", "eps step noise"])
def test_sizes_that_say_too_little_or_too_much_are_refused(given: str) -> None:
    with pytest.raises(ValueError, match="either eps or both of step and noise"):
        langevin(normal, torch.zeros(2, 1), 1, **dict.fromkeys(given.split(), 0.1))


def test_sizes_out_of_bounds_are_refused() -> None:
    both = {"step": 1.0, "noise": 1.0}
    bad = {"eps": [{"eps": 0.0}, {"eps": math.nan}], "step": [{**both, "step": 0.0}]}
    bad |= {"noise": [{**both, "noise": -1.0}], "clip": [{**both, "clip": 0.0}]}
    for name, cases in bad.items():
        for sizes in cases:
            with pytest.raises(ValueError, match=f"^{name} must be"):
                langevin(normal, torch.zeros(2, 1), 1, **sizes)
