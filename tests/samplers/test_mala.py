"""MALA: detailed balance by hand, laws that it leaves invariant at any step size, boxes, known acceptances."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from flatlab.samplers import mala
from flatlab.samplers.mala import log_ratio

TAU = math.tau


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(x: Tensor) -> Tensor:
    return -x.square().flatten(1).sum(1) / 2


def mixture(x: Tensor) -> Tensor:
    """.3 N(-2, .25) + .7 N(1, 1), up to a constant, for x (N, 1)."""
    left, right = -2 * (x + 2).square() + math.log(0.3 / 0.5), -(x - 1).square() / 2 + math.log(0.7)
    return torch.logaddexp(left, right).squeeze(1)


def mixture_draws(n: int, seed: int) -> Tensor:
    g = gen(seed)
    left = torch.rand(n, 1, generator=g, dtype=torch.float64) < 0.3
    noise = torch.randn(n, 1, generator=g, dtype=torch.float64)
    return torch.where(left, -2 + 0.5 * noise, 1 + noise)


def slope(f, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0]


def assert_drawn_from(cdf, values: Tensor) -> None:
    """By the test of Kolmogorov and Smirnov, at a level that four standard errors have."""
    assert stats.kstest(values.double().flatten().numpy(), cdf).pvalue > 6e-5


def forward(f, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Log density of the proposal y from x, (N,), spelled out."""
    drift = x + eps**2 / 2 * slope(f, x)
    d = x[0].numel()
    return -(y - drift).square().flatten(1).sum(1) / (2 * eps**2) - d / 2 * math.log(TAU * eps**2)


@pytest.mark.parametrize("eps", [0.1, 1.0, 2.5])
def test_detailed_balance(eps: float) -> None:
    x, y = (torch.randn(200, 1, dtype=torch.float64, generator=gen(seed)) * 2 for seed in (0, 1))

    def flow(a: Tensor, b: Tensor) -> Tensor:
        """log of exp f(a) q(b | a) min(1, ratio)."""
        noise = (b - a - eps**2 / 2 * slope(mixture, a)) / eps
        ratio = log_ratio((mixture(a), slope(mixture, a)), (mixture(b), slope(mixture, b)), noise, eps)
        by_hand = mixture(b) + forward(mixture, b, a, eps) - mixture(a) - forward(mixture, a, b, eps)
        torch.testing.assert_close(ratio, by_hand, rtol=1e-9, atol=1e-9)
        return mixture(a) + forward(mixture, a, b, eps) + ratio.clamp(max=0)

    torch.testing.assert_close(flow(x, y), flow(y, x), rtol=1e-9, atol=1e-9)


def test_the_ratio_sums_over_all_coordinates() -> None:
    x, y = (torch.randn(4, 2, 3, dtype=torch.float64, generator=gen(seed)) for seed in (0, 1))
    noise = (y - x - 0.3**2 / 2 * slope(normal, x)) / 0.3
    found = log_ratio((normal(x), slope(normal, x)), (normal(y), slope(normal, y)), noise, 0.3)
    by_hand = normal(y) + forward(normal, y, x, 0.3) - normal(x) - forward(normal, x, y, 0.3)
    torch.testing.assert_close(found, by_hand)


@pytest.mark.parametrize("at", [-2.5, 0.4])
def test_moves_as_often_as_the_ratio_says(at: float) -> None:
    x, eps, n = torch.full((20_000, 1), at, dtype=torch.float64), 1.5, 20_000
    grid = torch.linspace(-15, 15, 6001, dtype=torch.float64)[:, None]
    start = torch.full_like(grid, at)
    ahead = forward(mixture, start, grid, eps)
    ratio = mixture(grid) + forward(mixture, grid, start, eps) - mixture(start) - ahead
    expected = float((ahead + ratio.clamp(max=0)).exp().sum() * (grid[1] - grid[0]))
    assert 0.2 < expected < 0.8
    found = mala(mixture, x, 1, eps, generator=gen())
    assert found.acceptance == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / n))
    assert found.acceptance == float((found.x != x).double().mean())


@pytest.mark.parametrize("eps", [0.3, 1.0, 1.8])
def test_leaves_a_mixture_invariant(eps: float) -> None:
    found = mala(mixture, mixture_draws(4000, seed=1), 100, eps, generator=gen())
    assert_drawn_from(lambda v: 0.3 * stats.norm.cdf(v, -2, 0.5) + 0.7 * stats.norm.cdf(v, 1, 1), found.x)


@pytest.mark.parametrize("eps", [0.5, 1.2])
def test_leaves_a_normal_distribution_invariant(eps: float) -> None:
    x = torch.randn(4000, 2, 2, dtype=torch.float64, generator=gen(1))
    found = mala(normal, x, 50, eps, generator=gen())
    assert_drawn_from(stats.norm.cdf, found.x[:, 0, 0])
    assert_drawn_from(lambda r: stats.chi2.cdf(r, 4), found.x.square().flatten(1).sum(1))


def test_finds_the_distribution_from_elsewhere() -> None:
    found = mala(mixture, torch.full((4000, 1), 4.0, dtype=torch.float64), 400, 1.2, generator=gen())
    assert_drawn_from(lambda v: 0.3 * stats.norm.cdf(v, -2, 0.5) + 0.7 * stats.norm.cdf(v, 1, 1), found.x)


def test_known_acceptance_in_sixteen_dimensions() -> None:
    x = torch.randn(500, 16, dtype=torch.float64, generator=gen(1))
    found = mala(normal, x, 100, 0.25, generator=gen())
    assert found.acceptance == pytest.approx(0.993, abs=0.005)
    assert float(found.x.mean()) == pytest.approx(0, abs=4 / math.sqrt(8000))
    assert float(found.x.var()) == pytest.approx(1, abs=4 * math.sqrt(2 / 8000))


def test_never_leaves_a_box() -> None:
    def box(x: Tensor) -> Tensor:
        inside = ((x >= 0) & (x <= 1)).all(1)
        return torch.where(inside, 3 * x[:, 0] + 0 * x[:, 1], -torch.inf)

    x, everywhere = torch.rand(2000, 2, dtype=torch.float64, generator=gen(1)), []

    def watched(x: Tensor) -> Tensor:
        everywhere.append(x.detach())
        return box(x)

    for seed in range(30):
        x = mala(watched, x, 5, 0.5, generator=gen(seed)).x
        assert box(x).isfinite().all()
    assert min(float(tried.min()) for tried in everywhere) < 0, "no proposal left the box: the test tests nothing"
    assert_drawn_from(lambda v: (math.e ** (3 * v) - 1) / (math.e**3 - 1), x[:, 0])
    assert_drawn_from(stats.uniform.cdf, x[:, 1])


def test_a_density_that_is_nan_outside_its_support() -> None:
    gamma = stats.gamma(3)
    start = torch.from_numpy(gamma.ppf(torch.rand(4000, dtype=torch.float64, generator=gen(1)).numpy()))
    found = mala(lambda x: 2 * x.log() - x, start, 50, 1.0, generator=gen())
    assert found.x.shape == (4000,)
    assert (found.x > 0).all()
    assert_drawn_from(gamma.cdf, found.x)


def test_infinite_density_is_never_accepted() -> None:
    def f(x: Tensor) -> Tensor:
        return torch.where(x > 0.5, torch.inf, 0 * x)

    found = mala(f, torch.zeros(200), 20, 0.5, generator=gen())
    assert (found.x <= 0.5).all()
    assert 0 < found.acceptance < 1


def test_takes_one_gradient_a_step() -> None:
    calls = []

    def f(x: Tensor) -> Tensor:
        calls.append(len(x))
        return normal(x)

    mala(f, torch.zeros(7, 1), 9, 1.5, generator=gen())
    assert calls == [7] * 10


def test_no_steps_return_the_start() -> None:
    x = torch.randn(3, 2)
    found = mala(normal, x, 0, 0.1)
    assert torch.equal(found.x, x)
    assert found.acceptance == 1.0


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_a_start_outside_the_support_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="f is not finite at x0, first in row 2"):
        mala(lambda x: torch.where(x == 2, bad, -x), torch.arange(5.0), 1, 0.1)


@pytest.mark.parametrize("eps", [0.0, -1.0, math.nan, math.inf])
def test_step_sizes_out_of_bounds_are_refused(eps: float) -> None:
    with pytest.raises(ValueError, match="eps must be"):
        mala(normal, torch.zeros(2, 1), 1, eps)
