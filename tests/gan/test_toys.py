"""The toy games: their paths by hand and by matrix powers, their spread in closed form, and what the ratio decides."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_discrete_lyapunov
from torch import Tensor

from flatlab.gan import (
    OPTIMUM,
    critical_ratio,
    game_eigenvalues,
    network_flow,
    quadratic_game,
    saddle,
    saddle_deviation,
)

GAME = (1.0, 2.0, 0.5)  # a, b, c: stable for ratios above 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(got: Tensor, wanted: object, tol: float = 1e-9) -> None:
    torch.testing.assert_close(got, torch.as_tensor(wanted, dtype=got.dtype), rtol=0, atol=tol)


def test_saddle_by_hand_in_both_orders() -> None:
    path = saddle(1e-4, 0.01, 100, 0.0, order="sequential")
    assert path.shape == (101, 2)
    close(path[0], [0.5, -0.4], 0)
    close(path[1], [0.490016, -0.3900790746])
    close(path[10], [0.4086443471, -0.3136287707])
    close(path[100], [0.0663575932, -0.0469641443])
    path = saddle(1e-4, 0.01, 10, 0.0)
    close(path[1], [0.490016, -0.39])
    close(path[10], [0.4086441848, -0.3130956452])


def test_at_rate_one_hundredth_x_oscillates_for_ever() -> None:
    path = saddle(0.01, 0.01, 5000, 0.0, order="sequential")
    close(path[1], [-0.4984, -0.39001278], 1e-8)
    close(path[2], [0.49688377, -0.38028669], 1e-8)
    close(path[[1000, 5000]].abs(), [[0.46820584, 0.0]] * 2, 1e-8)


@pytest.mark.parametrize("lr", [0.009, 0.001])
def test_saddle_spreads_as_its_linear_steps_say(lr: float) -> None:
    n = round(40 / lr)
    tail = saddle(lr, lr, n, runs=100, record=range(n // 4, n, n // 1000), generator=seeded())
    wanted = torch.tensor(saddle_deviation(lr, lr))
    torch.testing.assert_close(tail.flatten(0, 1).std(0), wanted.double(), rtol=0.07, atol=0)


def test_deviations_in_closed_form() -> None:
    assert saddle_deviation(0.009, 0.009) == pytest.approx((0.0150, 0.04764907), rel=1e-6)
    assert saddle_deviation(0.0001, 0.0001) == pytest.approx((0.00050252, 0.00500025), rel=1e-5)
    assert saddle_deviation(0.001, 0.01, sigma=3) == pytest.approx((0.005, 3 * 0.05025189), rel=1e-6)
    assert saddle_deviation(0.01, 0.01)[0] == math.inf
    assert saddle_deviation(0.0099, 1.0)[1] == math.inf


def test_saddle_reproduces_the_order_of_figure_four_and_its_control() -> None:
    lr_x = torch.tensor([0.01, 0.001, 0.0001, 0.01, 0.009])
    lr_y = torch.tensor([0.01, 0.001, 0.01, 0.0001, 0.009])
    norm = saddle(lr_x, lr_y, runs=20, generator=seeded()).norm(dim=-1)
    assert norm.shape == (5, 20, 5001)
    below = norm < 0.15
    hit = below.double().argmax(-1).where(below.any(-1), torch.tensor(9999)).median(-1).values
    tail = norm[..., -1000:].mean((-2, -1))
    equal, slow, two_scales, reverse, control = hit.tolist()
    assert 50 < two_scales < 100 < 400 < slow < 600 < equal < reverse == 9999
    assert control < two_scales  # one rate just below the edge is faster than two time scales
    assert tail[0] > 0.4
    assert tail[3] > 0.2
    assert tail[1] == pytest.approx(0.013, rel=0.15)
    assert tail[2] == pytest.approx(0.0405, rel=0.15)


def test_game_without_noise_is_a_matrix_power() -> None:
    a, b, c, lr_g, lr_d, n = 1.0, 2.0, 0.5, 0.02, 0.05, 40
    step = torch.eye(2).double() + torch.tensor([[lr_g * a, -lr_g * b], [lr_d * b, -lr_d * c]], dtype=torch.float64)
    wanted = torch.linalg.matrix_power(step, n)[:, 0]
    path = quadratic_game(a, b, c, lr_g, lr_d, n, 0.0)
    assert path.shape == (n + 1, 2)
    close(path[0], [1, 0], 0)
    close(path[n], wanted, 1e-12)


def test_game_spreads_as_the_lyapunov_equation_says() -> None:
    lr_g, lr_d, sigma = 0.01, 0.05, 0.1
    step = torch.eye(2).double() + torch.tensor([[lr_g, -2 * lr_g], [2 * lr_d, -0.5 * lr_d]], dtype=torch.float64)
    noise = torch.tensor([lr_g, lr_d]).double().square().diag() * sigma**2
    wanted = torch.from_numpy(solve_discrete_lyapunov(step.numpy(), noise.numpy()))
    tail = quadratic_game(*GAME, lr_g, lr_d, 6000, runs=100, record=range(3000, 6000, 10), generator=seeded())
    torch.testing.assert_close(tail.flatten(0, 1).T.cov(), wanted, rtol=0.1, atol=0.05 * float(wanted.max()))


def test_decay_takes_each_rate_down_by_its_own_power() -> None:
    path = quadratic_game(*GAME, 0.1, 0.2, 3, 0.0, decay=(1.0, 0.5, 4.0))
    theta, w = 1.0, 0.0
    for n in range(3):
        slow, fast = 0.1 / (1 + n / 4), 0.2 / (1 + n / 4) ** 0.5
        theta, w = theta + slow * (theta - 2 * w), w + fast * (2 * theta - 0.5 * w)
        close(path[n + 1], [theta, w], 1e-14)


def test_only_ratios_above_the_critical_one_settle_and_small_steps_do_not_help() -> None:
    tau = torch.tensor([0.5, 1.5, 3.0, 10.0])
    for lr, n in ((0.01, 6000), (0.002, 30_000)):
        path = quadratic_game(*GAME, lr, lr * tau, n, runs=10, record=range(n - 500, n, 20), generator=seeded())
        norm = path.norm(dim=-1).mean(-1).median(-1).values
        assert (norm[:2] > 50).all()
        assert (norm[2:] < 0.06).all()


def test_theorem_one_with_steps_that_fall() -> None:
    powers = torch.tensor([0.7, 1.0, 0.9]), torch.tensor([0.7, 0.7, 0.6])
    marks = [1000, 10_000, 60_000]
    path = quadratic_game(*GAME, 0.05, 0.05, 60_000, decay=(*powers, 100), runs=10, record=marks, generator=seeded())
    norm = path.norm(dim=-1).median(1).values
    assert (norm[0].diff() > 0).all()  # one time scale: away
    assert (norm[1:, -1] < norm[1:, 0] / 1000).all()  # two: in
    stable = quadratic_game(-0.5, 2, 0.5, 0.05, 0.05, 10_000, decay=(0.7, 0.7, 100), runs=10, generator=seeded())
    assert stable[:, -1].norm(dim=-1).median() < 0.01  # where it is not needed, one time scale does


def test_eigenvalues_of_the_game() -> None:
    for tau, real, imaginary in ((1, 0.25, 1.8540), (2, 0.0, 2.6458), (3, -0.25, 3.2307), (10, -2.0, 5.5678)):
        values = game_eigenvalues(*GAME, tau)
        close(torch.view_as_real(values), [[real, imaginary], [real, -imaginary]], 5e-5)
    close(torch.view_as_real(game_eigenvalues(-3.0, 0.0, 1.0, 2.0)), [[-2.0, 0.0], [-3.0, 0.0]], 1e-15)


number = st.integers(-6, 6).map(lambda i: i / 2)


@settings(deadline=None)
@given(number, number, number)
def test_critical_ratio_is_where_the_eigenvalues_cross(a: float, b: float, c: float) -> None:
    def settles(tau: float) -> bool:
        return float(game_eigenvalues(a, b, c, tau).real.max()) < -1e-12

    ratio = critical_ratio(a, b, c)
    if ratio == math.inf:
        assert not settles(1e4)
    else:
        assert all(settles(ratio + more) for more in (0.01, 1.0, 100.0, 1e4))
        assert ratio == 0 or not settles(ratio * 0.99)


def test_critical_ratio_by_hand() -> None:
    assert critical_ratio(*GAME) == 2
    assert critical_ratio(-1, 2, 0.5) == critical_ratio(-1, 2, 0) == critical_ratio(0, 1, 1) == 0
    for game in ((0, 1, 0), (1, 1, 1), (1, 1, 2), (1, 2, -1), (-1, 2, -0.5)):
        assert critical_ratio(*game) == math.inf


def test_network_rests_at_its_optimum() -> None:
    x1, x2, x3, x4, p1, p2, p3 = OPTIMUM
    assert (x1 + x4, x2 + x4, x3 + x4) == pytest.approx((1, 2, 1), abs=1e-12)
    assert (p1 * x1, p2 * x2, p3 * x3, (p1 + p2 + p3) * x4) == pytest.approx((1, 1, 1, 1), abs=1e-12)
    assert pytest.approx((0.7071, 1.7071, 0.7071, 0.2929, 1.4142, 0.5858, 1.4142), abs=5e-5) == OPTIMUM
    distance = network_flow(torch.tensor([0.01, 0.02, 0.002]), torch.tensor([0.01, 0.002, 0.02]), 20_000, 0.0)
    assert distance.shape == (3, 20_001)
    optimum = torch.tensor(OPTIMUM, dtype=torch.float64)
    first = (optimum - 1).norm() / optimum.norm()
    close(distance[:, 0], [float(first)] * 3, 1e-12)
    assert (distance[:, -1] < 1e-6).all()


def test_network_stays_in_a_neighbourhood_that_steps_and_bias_widen() -> None:
    lr = torch.tensor([0.01, 0.05])
    tail = {"runs": 5, "record": range(4000, 8000, 20)}
    noisy = network_flow(lr, lr, 8000, generator=seeded(), **tail).mean((1, 2))
    assert 0.05 < noisy[0] < 0.15 < noisy[1] < 0.3
    falling = network_flow(0.05, 0.05, 8000, decay=(0.7, 0.7, 100), generator=seeded(), **tail).mean()
    assert falling < 0.08
    off = [float(network_flow(0.01, 0.01, 8000, 0.0, bias=bias)[-1]) for bias in (0.1, 0.5)]
    assert off == pytest.approx([0.06423, 0.31477], abs=1e-4)  # where the biased field is zero


@pytest.mark.parametrize(("bias", "x", "p"), [(2.0, (10, 10, 10, 1), 0), (-2.0, (0.1,) * 4, 10)])
def test_network_keeps_its_bounds(bias: float, x: tuple[float, ...], p: float) -> None:
    optimum = torch.tensor(OPTIMUM, dtype=torch.float64)
    wanted = (torch.tensor((*x, p, p, p), dtype=torch.float64) - optimum).norm() / optimum.norm()
    close(network_flow(10.0, 20.0, 1, 0.0, bias=bias)[1], wanted, 1e-12)


def test_settings_share_their_noise_and_runs_do_not() -> None:
    lr = torch.tensor([0.01, 0.02])
    both = quadratic_game(*GAME, 0.01, 5 * lr, 50, runs=3, generator=seeded())
    for row, rate in zip(both, lr, strict=True):
        alone = quadratic_game(*GAME, 0.01, 5 * float(rate), 50, runs=3, generator=seeded())
        close(row, alone, 1e-6)
    assert not torch.equal(both[0, 0], both[0, 1])
    assert not torch.equal(both[0], quadratic_game(*GAME, 0.01, 0.05, 50, runs=3, generator=seeded(1)))


def test_a_record_is_part_of_the_path() -> None:
    steps = [0, 7, 1023, 1024, 1025, 2100]  # noise is drawn for 1024 steps at once
    whole = saddle(0.001, 0.01, 2100, runs=2, generator=seeded())
    part = saddle(0.001, 0.01, 2100, runs=2, record=steps, generator=seeded())
    assert torch.equal(part, whole[:, steps])
    flow = network_flow(0.01, 0.01, 2100, record=steps, generator=seeded())
    assert torch.equal(flow, network_flow(0.01, 0.01, 2100, generator=seeded())[steps])


def test_shapes() -> None:
    grid = torch.full((2, 1), 0.01), torch.full((3,), 0.01)
    assert saddle(*grid, 4).shape == (2, 3, 5, 2)
    assert saddle(*grid, 4, runs=1).shape == (2, 3, 1, 5, 2)
    assert quadratic_game(torch.ones(4, 1), 2, 0.5, 0.1, torch.ones(2), 3, runs=5, record=[3]).shape == (4, 2, 5, 1, 2)
    assert network_flow(*grid, 4, runs=2).shape == (2, 3, 2, 5)
    assert saddle(0.1, 0.1, 1).dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: saddle(0.0, 0.1), "rates must be finite numbers > 0, got 0.0"),
        (lambda: saddle(0.1, math.nan), "rates must be finite numbers > 0"),
        (lambda: quadratic_game(*GAME, 0.1, math.inf, 5), "rates must be finite numbers > 0"),
        (lambda: saddle(0.1, 0.1, 0), "n must be an integer >= 1, got 0"),
        (lambda: saddle(0.1, 0.1, runs=0), "runs must be an integer >= 1, got 0"),
        (lambda: saddle(0.1, 0.1, sigma=-1), "sigma must be a finite number >= 0"),
        (lambda: saddle(0.1, 0.1, order="both"), "unknown order 'both'"),
        (lambda: saddle(0.1, 0.1, 5, record=[2, 2]), r"rising step numbers in 0..5, got \[2, 2\]"),
        (lambda: saddle(0.1, 0.1, 5, record=[6]), "rising step numbers in 0..5"),
        (lambda: saddle(0.1, 0.1, 5, record=[-1]), "rising step numbers"),
        (lambda: saddle(0.1, 0.1, 5, record=[]), "rising step numbers"),
        (lambda: quadratic_game(*GAME, 0.1, 0.1, 5, decay=(1, 1, 0)), "n0 of decay must be a finite number > 0"),
        (lambda: network_flow(0.1, 0.1, 5, bias=math.nan), "bias must be finite, got nan"),
        (lambda: game_eigenvalues(*GAME, 0), "tau must be a finite number > 0"),
        (lambda: critical_ratio(1, math.inf, 1), "a, b, c must be finite"),
        (lambda: saddle_deviation(0, 1), "lr_x must be a finite number > 0"),
        (lambda: saddle_deviation(1, 0), "lr_y must be a finite number > 0"),
        (lambda: saddle_deviation(1, 1, -1), "sigma must be a finite number >= 0"),
    ],
)
def test_numbers_out_of_bounds_are_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
