"""Flows and times to a gain: known times, other integrators, what is never reached, and what is refused."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from flatlab import rlhf
from flatlab.rlhf.flow import Problem
from flatlab.rlhf.gain import ceiling
from flatlab.rlhf.runge_kutta import attempt, first_size

P = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
R = torch.tensor([0.9, 0.1, -0.5, -0.2], dtype=torch.float64)
POLICY = rlhf.SoftmaxPolicy(P.log())


@pytest.mark.parametrize(
    ("scale", "lam", "wanted"), [(1, 0, 2.1607225), (0.1, 0, 21.607225), (1, 0.1, 2.2416364), (0.1, 0.1, 37.557085)]
)
def test_known_times(scale, lam, wanted):
    found = rlhf.time_to_gain(POLICY, scale * R, R, 0.2, lam)
    assert isinstance(found, float)
    assert found == pytest.approx(wanted, rel=3e-8)


@pytest.mark.parametrize(
    ("outputs", "start", "gamma", "wanted"),
    [(2, 0.1, 0.5, 2.68164458), (2, 0.01, 0.5, 25.8983498), (8, 0.05, 0.6, 9.74727541), (64, 1 / 64, 0.5, 32.8946252)],
)
def test_one_right_output_has_a_closed_form(outputs, start, gamma, wanted):
    p = torch.full((outputs,), (1 - start) / (outputs - 1), dtype=torch.float64)
    p[0] = start
    r = rlhf.constructions.one_output(outputs, 0)
    exact = rlhf.bounds.time_of_one_output(start, start + gamma / 2, outputs)
    assert exact == pytest.approx(wanted, rel=1e-8)
    assert rlhf.time_to_gain(rlhf.SoftmaxPolicy(p.log()), r, r, gamma) == pytest.approx(exact, rel=4e-8)
    assert float(rlhf.SoftmaxPolicy(p.log()).variance(r)) == pytest.approx(4 * start * (1 - start))


def test_a_gain_above_the_optimum_is_never_reached():
    """The optimum p ~ ref exp(r / lam) gains .6298 and .2842; without a penalty the supremum is .9 - .27."""
    for scale, lam, gain in ((1.0, 0.1, 0.62979360), (0.1, 0.1, 0.28419480), (1.0, 0.0, 0.63)):
        assert rlhf.time_to_gain(POLICY, scale * R, R, gain + 1e-3, lam) == torch.inf
        assert rlhf.time_to_gain(POLICY, scale * R, R, gain - 1e-3, lam) < torch.inf


def test_never_also_where_the_truth_is_another_reward():
    assert rlhf.time_to_gain(POLICY, -R, R, 1e-3) == torch.inf  # the truth only falls
    for lam in (0.0, 0.2):
        assert rlhf.time_to_gain(POLICY, torch.full((4,), 0.3), R, 0.1, lam) == torch.inf  # nothing moves
    tied = torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert rlhf.time_to_gain(POLICY, tied, R, 0.3) < torch.inf
    assert rlhf.time_to_gain(POLICY, tied, R, 0.64) == torch.inf
    assert rlhf.time_to_gain(POLICY, tied, R.flip(0), 0.64) == torch.inf  # of equals the likelier wins, slowly


def test_patience_ends_a_flow_whose_ceiling_never_comes_down():
    """The reward model's two best outputs tie, and stay equally likely: no bound knows that it cannot choose."""
    policy = rlhf.SoftmaxPolicy(torch.zeros(3, dtype=torch.float64))
    r_rm, r_g = torch.tensor([1.0, 1.0, -1.0]).double(), torch.tensor([1.0, -1.0, -1.0]).double()
    assert rlhf.time_to_gain(policy, r_rm, r_g, 0.4, patience=1e5) == torch.inf  # it ends at a gain of a third
    assert rlhf.time_to_gain(policy, r_rm, r_g, 0.3, patience=1e5) < 100


def test_patience_ends_what_nothing_rules_out():
    found = rlhf.time_to_gain(POLICY, R, R, 0.6)
    assert rlhf.time_to_gain(POLICY, R, R, 0.6, patience=2 * found) == found
    assert rlhf.time_to_gain(POLICY, R, R, 0.6, patience=found / 10) == torch.inf  # the ceiling alone would not say so


def test_a_penalised_mean_may_pass_its_limit_late():
    """By scipy's LSODA at rtol 1e-11 the gain is .62979360 + 9.99938e-6 at t = 37141."""
    assert rlhf.time_to_gain(POLICY, R, R, 0.62979360 + 9.99938e-6, 0.1) == pytest.approx(37141, rel=1e-4)


def test_a_mean_that_rises_and_falls_again_is_caught_at_its_peak():
    """Two outputs are liked; the truth likes only the one that the other overtakes."""
    policy = rlhf.SoftmaxPolicy(torch.tensor([0.6, 0.15, 0.25], dtype=torch.float64).log())
    r_rm, truth = torch.tensor([-1.0, 1.0, 0.8]), torch.tensor([0.0, -1.0, 1.0])
    path = rlhf.gradient_flow(policy, r_rm, t_max=10.0, r_g=truth, points=2001)
    top = int(path.v_g.argmax())
    assert 800 < top < 1200
    gain = float(path.v_g[top] - path.v_g[0])
    for missing in (1e-2, 1e-4, 1e-5):
        found = rlhf.time_to_gain(policy, r_rm, truth, gain - missing)
        assert 0 < found <= float(path.t[top])
        there = rlhf.gradient_flow(policy, r_rm, t_max=found, r_g=truth, points=2)
        assert float(there.v_g[-1] - there.v_g[0]) == pytest.approx(gain - missing, abs=1e-8)
    assert rlhf.time_to_gain(policy, r_rm, truth, gain + 1e-4) == torch.inf


@pytest.mark.parametrize("lam", [0.0, 0.05])
def test_flow_against_scipy(lam):
    g = torch.Generator().manual_seed(5)
    theta = torch.randn(12, generator=g, dtype=torch.float64)
    r, truth = torch.rand(2, 12, generator=g, dtype=torch.float64) * 2 - 1
    policy = rlhf.SoftmaxPolicy(theta)
    ref = policy.probs().numpy()

    def slope(_, x: np.ndarray) -> np.ndarray:
        p = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
        regular = r.numpy() - lam * np.log(p / ref)
        return p * (regular - p @ regular)

    found = rlhf.gradient_flow(policy, r, lam, t_max=40.0, r_g=truth, points=9)
    solved = solve_ivp(slope, (0, 40), theta.numpy(), method="LSODA", rtol=1e-10, atol=1e-12, t_eval=found.t.numpy())
    p = torch.tensor(solved.y.T).softmax(-1)
    torch.testing.assert_close(found.v_rm, p @ r, atol=1e-7, rtol=0)
    torch.testing.assert_close(found.v_g, p @ truth, atol=1e-7, rtol=0)
    torch.testing.assert_close(found.kl, (p * (p / policy.probs()).log()).sum(-1), atol=1e-7, rtol=0)
    regular = r - lam * (p / policy.probs()).log()  # of which the bounds speak; r itself where lam = 0
    variance = (p * (regular - (p * regular).sum(-1, keepdim=True)) ** 2).sum(-1)
    torch.testing.assert_close(found.var, variance, atol=1e-7, rtol=0)
    assert float(found.var[0]) == pytest.approx(float(policy.variance(r)))
    torch.testing.assert_close(found.policy.probs(), p[-1], atol=1e-7, rtol=0)


def test_one_step_is_of_fifth_order_and_refused_where_it_is_too_long():
    def velocity(x: torch.Tensor) -> torch.Tensor:
        return x.cos() * 2

    start = torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None]
    gaps = []
    for h in (0.1, 0.05):
        size = torch.full((4,), h, dtype=torch.float64)
        end, slope, good, _ = attempt(velocity, start, velocity(start), size, 1e-3)
        assert good.all()
        torch.testing.assert_close(slope, velocity(end))
        fine = start
        for _ in range(64):
            fine = attempt(velocity, fine, velocity(fine), size / 64, 1.0)[0]
        gaps.append(float((end - fine).abs().max()))
    assert 40 < gaps[0] / gaps[1] < 90  # 2^6
    size = torch.tensor([0.01, 0.1, 1.0, 30.0], dtype=torch.float64)
    _, _, good, factor = attempt(velocity, start, velocity(start), size, 1e-9)
    assert good.tolist() == [True, False, False, False]
    assert (factor[1:] < 1).all()
    assert first_size(torch.tensor([[0.0, -2.0], [0.0, 0.0]], dtype=torch.float64))[0] == pytest.approx(0.005)


@pytest.mark.parametrize(("lam", "t_max"), [(0.0, 2000.0), (0.05, 2000.0), (0.5, 500.0)])
def test_the_ceiling_is_one_and_comes_down(lam, t_max):
    g = torch.Generator().manual_seed(2)
    theta = torch.randn(30, 6, generator=g, dtype=torch.float64)
    r, truth = torch.rand(2, 30, 6, generator=g, dtype=torch.float64) * 2 - 1
    problem = Problem.of(rlhf.SoftmaxPolicy(theta), r, truth, lam, 1)
    path = rlhf.gradient_flow(rlhf.SoftmaxPolicy(theta), r, lam, t_max=t_max, r_g=truth, points=41)
    later = path.v_g.flip(0).cummax(0).values.flip(0)
    for i in (0, 1, 5, 20):
        at = rlhf.gradient_flow(rlhf.SoftmaxPolicy(theta), r, lam, t_max=max(float(path.t[i]), 1e-9), points=2).policy
        assert (ceiling(problem, at.theta) >= later[i] - 1e-9).all()
    assert (ceiling(problem, path.policy.theta) - path.v_g[-1]).median() < 0.02


def test_the_ceiling_holds_where_the_truth_passes_its_limit():
    """From p on, E r_G first rises above what it tends to."""
    policy = rlhf.SoftmaxPolicy(torch.tensor([[0.6, 0.15, 0.25]], dtype=torch.float64).log())
    r_rm, truth = torch.tensor([-1.0, 1.0, 0.8]), torch.tensor([0.0, -1.0, 1.0])
    for lam in (0.0, 0.02):
        top = rlhf.gradient_flow(policy, r_rm, lam, t_max=10.0, r_g=truth).v_g.max()
        limit = rlhf.gradient_flow(policy, r_rm, lam, t_max=2000.0, r_g=truth, points=2).v_g[-1]
        assert limit < 0 < top
        assert ceiling(Problem.of(policy, r_rm, truth, lam, 1), policy.theta) >= top


def test_prompts_share_the_time():
    single = rlhf.time_to_gain(POLICY, R, R, 0.2, 0.1)
    assert rlhf.time_to_gain(POLICY, R, R, 0.2, 0.1, n_prompts=7) == pytest.approx(7 * single, rel=1e-8)
    few, many = (rlhf.gradient_ascent(POLICY, R, lr=0.1 * s, steps=20, n_prompts=s) for s in (1, 4))
    torch.testing.assert_close(few.v_rm, many.v_rm)


def test_small_rewards_and_rare_outputs_cost_no_more():
    """The steps of a flow move the logits, however long they take."""
    theta = torch.zeros(50, dtype=torch.float64)
    theta[0] = -8.0
    truth = rlhf.constructions.one_output(50, 0)
    fast, slow = (rlhf.time_to_gain(rlhf.SoftmaxPolicy(theta), truth / T, truth, 1.0) for T in (1, 1e6))
    assert slow == pytest.approx(1e6 * fast, rel=1e-7)
    assert fast > 1e4


BATCH = rlhf.SoftmaxPolicy(torch.zeros(3, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rlhf.time_to_gain(POLICY, R, R, 0.0), "gamma"),
        (lambda: rlhf.time_to_gain(POLICY, R, R, -1.0), "gamma"),
        (lambda: rlhf.time_to_gain(POLICY, R, R, float("nan")), "gamma"),
        (lambda: rlhf.time_to_gain(POLICY, R, R, 0.1, -1.0), "lam"),
        (lambda: rlhf.time_to_gain(POLICY, 2 * R, R, 0.1), r"r_rm must lie in \[-1, 1\]"),
        (lambda: rlhf.time_to_gain(POLICY, R, 2 * R, 0.1), r"r_g must lie in \[-1, 1\]"),
        (lambda: rlhf.time_to_gain(POLICY, R[:3], R, 0.1), "K = 4"),
        (lambda: rlhf.time_to_gain(POLICY, R * torch.nan, R, 0.1), "NaN"),
        (lambda: rlhf.time_to_gain(POLICY, R, R, 0.1, n_prompts=0), "n_prompts"),
        (lambda: rlhf.time_to_gain(POLICY, R, R, 0.1, rtol=0), "rtol"),
        (lambda: rlhf.time_to_gain(POLICY, R, R, 0.1, patience=0), "patience"),
        (lambda: rlhf.time_to_gain(BATCH, R, R, torch.tensor([0.1, 0.2])), "gamma of shape"),
        (lambda: rlhf.time_to_gain(BATCH, R.expand(2, 4), R, 0.1), "r_rm of shape"),
        (lambda: rlhf.gradient_flow(POLICY, 2 * R, t_max=1.0), r"\[-1, 1\]"),
        (lambda: rlhf.gradient_flow(POLICY, R, t_max=0.0), "t_max"),
        (lambda: rlhf.gradient_flow(POLICY, R, t_max=1.0, points=1), "points"),
        (lambda: rlhf.gradient_flow(POLICY, R, torch.tensor([0.1, -0.1]), t_max=1.0), "lam"),
        (lambda: rlhf.gradient_ascent(POLICY, R, lr=0.0, steps=3), "lr"),
        (lambda: rlhf.gradient_ascent(POLICY, R, lr=0.1, steps=0), "steps"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_flow_that_is_too_stiff_says_so(monkeypatch):
    monkeypatch.setattr("flatlab.rlhf.flow._MAX_STEPS", 500)
    with pytest.raises(RuntimeError, match="t_max=1e\\+07"):
        rlhf.gradient_flow(rlhf.SoftmaxPolicy(torch.zeros(2)), torch.tensor([0.1, 0.0]), 1.0, t_max=1e7, points=2)
    monkeypatch.setattr("flatlab.rlhf.gain._MAX_STEPS", 50)
    with pytest.raises(RuntimeError, match="neither reached nor ruled out"):
        rlhf.time_to_gain(POLICY, R, R, 0.62979360, 0.1)
