"""Adam against the ball it follows: the paper's recursions, the differential equation, and both thresholds."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flatlab.gan import adam_path, friction, hbf_ode, overshoot_threshold, stability_threshold, time_step


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def bumpy(x: Tensor) -> Tensor:
    """The gradient of x^2 / 2 - cos(3 x) / 2."""
    return x + 1.5 * torch.sin(3 * x)


def momentum(grad, x0: Tensor, lr: float | Tensor, beta1: float, n: int) -> Tensor:
    return adam_path(grad, x0, lr=lr, betas=(beta1, 1.0), n=n, v=1.0, eps=0.0, bias_correction=False)


@pytest.mark.parametrize(("betas", "eps"), [((0.9, 0.999), 1e-8), ((0.0, 0.9), 1e-3), ((0.5, 0.5), 1e-8)])
def test_it_is_adam(betas: tuple[float, float], eps: float) -> None:
    x = points(2.2, -0.7, 0.0).requires_grad_()
    path = adam_path(bumpy, x.detach(), lr=0.05, betas=betas, n=30, eps=eps)
    optimizer = torch.optim.Adam([x], lr=0.05, betas=betas, eps=eps)
    for step in range(1, 31):
        x.grad = bumpy(x.detach())
        optimizer.step()
        torch.testing.assert_close(path[step], x.detach(), rtol=0, atol=1e-12)


def test_both_forms_of_equation_four_are_adams_first_moment() -> None:
    a, r, n = 0.05, 4.0, 60
    generator = seeded()
    noise = [torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(n)]
    path = adam_path(
        bumpy, points(2.2, -1.0, 0.3), lr=a, betas=(1 - a * r, 1.0), n=n, v=1.0, eps=0.0,
        bias_correction=False, noise=0.5, generator=seeded(),
    )  # fmt: skip
    first = second = torch.zeros(3, dtype=torch.float64)
    for step in range(n):
        g, z = bumpy(path[step]), 0.5 * noise[step]
        first = first + a * r * (g - first) + a * r * z
        second = (1 - a * r) * second + a * r * (g + z)
        torch.testing.assert_close(first, second, rtol=0, atol=4e-15)
        torch.testing.assert_close((path[step] - path[step + 1]) / a, first, rtol=0, atol=1e-13)


def test_moments_by_hand() -> None:
    def one(x: Tensor) -> Tensor:
        return torch.full_like(x, 2.0)

    x = points(0.0)
    warm = adam_path(one, x, lr=0.1, betas=(0.9, 0.75), n=2, v=9.0, eps=0.5, bias_correction=False)
    v1, v2 = 0.75 * 9 + 0.25 * 4, 0.75 * (0.75 * 9 + 0.25 * 4) + 0.25 * 4
    first = -0.1 * 0.2 / (math.sqrt(v1) + 0.5)
    torch.testing.assert_close(warm[:, 0], points(0, first, first - 0.1 * 0.38 / (math.sqrt(v2) + 0.5)))
    # a warm second moment needs no correction, the first moment still does
    corrected = adam_path(one, x, lr=0.1, betas=(0.9, 0.75), n=1, v=9.0, eps=0.0)
    torch.testing.assert_close(corrected[1], points(-0.1 * 2 / math.sqrt(v1)))
    paper = adam_path(one, x, lr=0.1, betas=(0.9, 0.75), n=1, eps=0.0, bias_correction=False)
    torch.testing.assert_close(paper[1], points(-0.1 * 0.2 / 1.0))


def test_chains_are_on_their_own_and_may_have_rates_of_their_own() -> None:
    x0, lr = points(2.2, -0.7), points(0.01, 0.1)
    path = adam_path(bumpy, x0, lr=lr, n=20)
    for i in range(2):
        assert torch.equal(path[:, i], adam_path(bumpy, x0[i], lr=float(lr[i]), n=20))
    noisy = adam_path(bumpy, points(1.0, 1.0), lr=0.1, n=5, noise=1.0, generator=seeded())
    assert noisy[-1, 0] != noisy[-1, 1]
    assert torch.equal(noisy, adam_path(bumpy, points(1.0, 1.0), lr=0.1, n=5, noise=1.0, generator=seeded()))
    assert adam_path(bumpy, x0.float(), lr=0.1, n=2).dtype == torch.float32


@pytest.mark.parametrize("gamma", [0.3, 1.0, 3.0])
def test_momentum_follows_the_ball_with_an_error_of_first_order(gamma: float) -> None:
    known = {0.3: (0.125, 0.062, 0.031), 1.0: (0.104, 0.049, 0.024), 3.0: (0.045, 0.022, 0.011)}
    errors = []
    for dt in (0.1, 0.05, 0.025):
        lr, beta1, n = dt / gamma, 1 - dt * gamma, round(10 / dt)
        assert friction(lr, beta1) == pytest.approx(gamma)
        assert time_step(lr, beta1) == pytest.approx(dt)
        ball, _ = hbf_ode(bumpy, points(2.2), gamma, dt * torch.arange(n + 1))
        errors.append(float((momentum(bumpy, points(2.2), lr, beta1, n) - ball).abs().max()))
    assert errors == pytest.approx(known[gamma], abs=6e-4)


def test_friction_and_time_by_hand() -> None:
    assert friction(0.1, 0.9) == pytest.approx(1)
    assert friction(0.1, 0.9, v=16) == pytest.approx(2)
    assert friction(0.025, 0.0) == pytest.approx(math.sqrt(40))
    assert time_step(0.4, 0.9, v=16) == pytest.approx(0.1)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 4.0])
def test_the_ball_on_a_parabola_is_known(gamma: float) -> None:
    x0, v0, k = points(1.0, -2.0), points(0.5, 0.0), 2.0
    t = torch.linspace(0, 6, 25, dtype=torch.float64)
    x, v = hbf_ode(lambda x: k * x, x0, gamma, t, v0)
    assert x.shape == v.shape == (25, 2)
    flow = torch.tensor([[0.0, 1.0], [-k, -gamma]], dtype=torch.float64)
    both = torch.linalg.matrix_exp(t[:, None, None] * flow) @ torch.stack([x0, v0])
    torch.testing.assert_close(torch.stack([x, v], 1), both, rtol=0, atol=1e-8)
    later = hbf_ode(lambda x: k * x, x0, gamma, t[3:5], v0)[0]  # the ball starts at time 0 all the same
    torch.testing.assert_close(later, x[3:5], rtol=0, atol=1e-8)


def test_friction_alone_takes_the_energy() -> None:
    t = torch.linspace(0, 8, 801, dtype=torch.float64)
    x, v = hbf_ode(bumpy, points(2.2, -3.0), 0.4, t)
    energy = v.square() / 2 + x.square() / 2 - torch.cos(3 * x) / 2
    lost = 0.4 * torch.cumulative_trapezoid(v.square(), t, dim=0)
    torch.testing.assert_close(energy[0] - energy[1:], lost, rtol=0, atol=2e-3)
    assert (energy.diff(dim=0) < 1e-9).all()


@settings(deadline=None)
@given(st.sampled_from([0.0, 0.5, 0.9, 0.99]), st.sampled_from([0.25, 1.0, 20.0]))
def test_overshoot_and_divergence_begin_at_the_thresholds(beta1: float, curvature: float) -> None:
    def run(threshold: float, n: int) -> Tensor:
        rates = points(0.9, 1.1) * threshold / curvature
        return momentum(lambda x: curvature * x, points(1.0, 1.0), rates, beta1, n)

    assert (run(overshoot_threshold(beta1), 3000).amin(0) < 0).tolist() == [False, True]
    end = run(stability_threshold(beta1), 600)[-1].abs()
    assert end[0] < 0.1
    assert not end[1] < 1e3  # NaN once it has overflowed


def test_thresholds_by_hand() -> None:
    got = [overshoot_threshold(beta1) for beta1 in (0.0, 0.5, 0.9, 0.99)]
    assert got == pytest.approx([1, 0.171573, 0.026334, 0.002513], abs=5e-7)
    assert [stability_threshold(beta1) for beta1 in (0.0, 0.5, 0.9)] == pytest.approx([2, 6, 38])


def test_adam_is_the_ball_only_where_the_second_moment_stands_still() -> None:
    """On a parabola, where the mean of noisy chains is the chain without noise."""

    def gap(sd: float, v: float | None, correct: bool) -> float:
        lr, beta1, n, warm = 0.03, 0.99, 1000, sd**2 + 4
        paths = adam_path(
            lambda x: x, torch.full((400,), 2.0).double(), lr=lr, betas=(beta1, 0.999), n=n, v=v,
            bias_correction=correct, noise=sd, generator=seeded(),
        )  # fmt: skip
        t = time_step(lr, beta1, warm) * torch.arange(n + 1)
        ball = hbf_ode(lambda x: x, points(2.0), friction(lr, beta1, warm), t)[0]
        return float((paths.mean(1, keepdim=True) - ball).abs().max())

    assert gap(10.0, 104.0, correct=False) < 0.08
    assert gap(10.0, 104.0, correct=True) > 0.15  # the correction of the first moment is a kick at the start
    assert gap(0.0, None, correct=True) > 0.5  # gradients that vanish take the second moment with them


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: friction(0.0, 0.9), "lr must be a finite number > 0"),
        (lambda: friction(0.1, 1.0), r"beta1 must lie in \[0, 1\), got 1.0"),
        (lambda: time_step(0.1, -0.1), r"beta1 must lie in \[0, 1\), got -0.1"),
        (lambda: time_step(0.1, 0.9, v=0.0), "v must be a finite number > 0"),
        (lambda: overshoot_threshold(1.0), "beta1 must lie"),
        (lambda: stability_threshold(math.nan), "beta1 must lie"),
        (lambda: adam_path(bumpy, points(1), lr=0.0, n=1), "lr and v must be > 0, got lr=0.0, v=None"),
        (lambda: adam_path(bumpy, points(1), lr=0.1, n=1, v=-1.0), "lr and v must be > 0"),
        (lambda: adam_path(bumpy, points(1), lr=0.1, n=1, betas=(0.9, 1.1)), r"beta2 must lie in \[0, 1\], got 1.1"),
        (lambda: adam_path(bumpy, points(1), lr=0.1, n=1, betas=(0.9, 1.0)), "give its value with v="),
        (lambda: adam_path(bumpy, points(1), lr=0.1, n=1, betas=(1.0, 0.9)), "beta1 must lie"),
        (lambda: adam_path(bumpy, points(1), lr=0.1, n=0), "n must be an integer >= 1"),
        (lambda: adam_path(bumpy, points(1), lr=0.1, n=1, noise=-1), "noise must be a finite number >= 0"),
        (lambda: adam_path(bumpy, points(1), lr=0.1, n=1, eps=-1), "eps must be a finite number >= 0"),
        (lambda: hbf_ode(bumpy, points(1), -1.0, points(0, 1)), "gamma must be a finite number >= 0"),
        (lambda: hbf_ode(bumpy, points(1), 1.0, points(0, 1, 1)), "rising times"),
        (lambda: hbf_ode(bumpy, points(1), 1.0, points(-1, 1)), "rising times"),
        (lambda: hbf_ode(bumpy, points(1), 1.0, points(1)), "rising times"),
        (lambda: hbf_ode(bumpy, points(1), 1.0, points()), "rising times"),
    ],
)
def test_numbers_out_of_bounds_are_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_ball_that_is_lost_is_reported() -> None:
    with pytest.raises(RuntimeError, match="stopped before t=5"):
        hbf_ode(lambda x: -(x**3), points(3.0), 0.0, points(0, 5))
