"""Losses and penalties by hand: a critic that knows nothing, a linear one, and numbers worked out on paper."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flatlab.gan import LOSSES, gradient_penalty
from flatlab.gan.penalties import squared_slopes

D, FAKE = torch.tensor([2.0, -1.0, 0.0]).double(), torch.tensor([0.5, -3.0, 0.0]).double()
LOG2 = math.log(2)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """u x, summed over everything but the samples."""

    def __init__(self, u: Tensor) -> None:
        super().__init__()
        self.u = nn.Parameter(u)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.u).flatten(1).sum(1)


class Bowl(nn.Module):
    """|x|^2 / 2: the slope is |x|. Its numbers come as (N, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).square().sum(1, keepdim=True) / 2


@pytest.mark.parametrize(
    ("name", "critic", "generator"),
    [
        ("ns", [0.126928 + 0.974077, 1.313262 + 0.048587, 2 * LOG2], [0.474077, 3.048587, LOG2]),
        ("wgan-gp", [-1.5, -2.0, 0.0], [-0.5, 3.0, 0.0]),
        ("hinge", [0.0 + 1.5, 2.0 + 0.0, 2.0], [-0.5, 3.0, 0.0]),
        ("rpgan", [0.201413, 0.126928, LOG2], [1.701413, 2.126928, LOG2]),
    ],
)
def test_losses_by_hand(name: str, critic: list[float], generator: list[float]) -> None:
    assert LOSSES[name].critic(D, FAKE).tolist() == pytest.approx(critic, abs=1e-6)
    assert LOSSES[name].generator(D, FAKE).tolist() == pytest.approx(generator, abs=1e-6)


def test_every_loss_is_tested_by_hand() -> None:
    assert set(LOSSES) == {"ns", "wgan-gp", "hinge", "rpgan"}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-60, 60), st.floats(-60, 60)), min_size=1, max_size=5))
def test_ns_is_cross_entropy_and_rpgan_that_of_the_difference(numbers: list[tuple[float, float]]) -> None:
    d, f = torch.tensor(numbers, dtype=torch.float64).unbind(1)
    one, entropy = torch.ones_like(d), F.binary_cross_entropy_with_logits
    ns, rpgan = LOSSES["ns"], LOSSES["rpgan"]
    wanted = entropy(d, one, reduction="none") + entropy(f, 0 * one, reduction="none")
    torch.testing.assert_close(ns.critic(d, f), wanted)
    torch.testing.assert_close(ns.generator(d, f), entropy(f, one, reduction="none"))
    torch.testing.assert_close(rpgan.critic(d, f), entropy(d - f, one, reduction="none"))
    torch.testing.assert_close(rpgan.generator(d, f), rpgan.critic(f, d))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_numbers_far_out_are_finite_with_finite_gradients(name: str) -> None:
    d, f = (torch.tensor([-1e4, 1e4]).requires_grad_() for _ in range(2))
    loss = LOSSES[name].critic(d, f) + LOSSES[name].generator(d, f)
    gradients = torch.autograd.grad(loss.sum(), [d, f])
    assert all(found.isfinite().all() for found in (loss, *gradients))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4).filter(lambda u: any(abs(v) > 1e-2 for v in u)))
def test_a_linear_critic_pays_for_its_norm_wherever_it_is_asked(u: list[float]) -> None:
    """(|u| - 1)^2, whose gradient is 2 (|u| - 1) u / |u|."""
    critic = Linear(torch.tensor(u, dtype=torch.float64).view(1, 2, 2))
    real, fake = (torch.randn(5, 1, 2, 2, generator=draws(seed), dtype=torch.float64) for seed in (1, 2))
    found, flat = gradient_penalty(critic, real, fake, generator=draws()), critic.u.detach()
    assert found.item() == pytest.approx((flat.norm().item() - 1) ** 2, abs=1e-9)
    found.backward()
    torch.testing.assert_close(critic.u.grad, 2 * (flat.norm() - 1) * flat / flat.norm(), rtol=1e-6, atol=1e-9)


def test_slopes_are_taken_between_the_pairs_at_one_place_a_sample() -> None:
    real, fake = (torch.randn(6, 2, 3, generator=draws(seed), dtype=torch.float64) for seed in (1, 2))
    e = torch.rand(6, generator=draws(7), dtype=torch.float64)
    between = torch.stack([x + place * (g - x) for x, g, place in zip(real, fake, e, strict=True)])
    wanted = (between.flatten(1).norm(dim=1) - 1).square().mean()
    found = gradient_penalty(Bowl(), real, fake, generator=draws(7))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=0)
    assert gradient_penalty(Bowl(), real, fake, generator=draws(8)) != found
    with torch.no_grad():
        assert gradient_penalty(Bowl(), real, fake, generator=draws(7)) == found


def test_a_flat_critic_pays_one_and_has_a_gradient() -> None:
    critic = Linear(torch.zeros(3))
    found = gradient_penalty(critic, torch.ones(2, 3), -torch.ones(2, 3), generator=draws())
    found.backward()
    assert found.item() == pytest.approx(1, abs=1e-5)
    assert critic.u.grad.isfinite().all()


def test_gradients_of_penalties_against_differences() -> None:
    """Of a critic that bends, with respect to a weight inside it."""
    torch.manual_seed(1)
    critic = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    real, fake = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    weight, step = critic[0].weight, 1e-5

    for penalty in (
        lambda: gradient_penalty(critic, real, fake, generator=draws()),
        lambda: squared_slopes(critic, real).mean(),
    ):
        (gradient,) = torch.autograd.grad(penalty(), weight)
        ends = []
        for side in (step, -step):
            with torch.no_grad():
                weight[1, 2] += side
            ends.append(penalty().item())
            with torch.no_grad():
                weight[1, 2] -= side
        assert gradient[1, 2].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)
        assert abs(gradient[1, 2]) > 1e-4


def test_squared_slopes_of_each_sample() -> None:
    x = torch.randn(4, 2, 2, generator=draws())
    torch.testing.assert_close(squared_slopes(Bowl(), x), x.square().sum((1, 2)))
    assert not x.requires_grad


def test_penalties_refuse_what_does_not_pair() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(4, 2\) and \(3, 2\)"):
        gradient_penalty(Bowl(), torch.ones(4, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match="len\\(real\\) must be an integer >= 1, got 0"):
        gradient_penalty(Bowl(), torch.ones(0, 2), torch.ones(0, 2))
