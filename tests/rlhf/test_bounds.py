"""The theorems: each bound against what it bounds, the constructions that prove them, and what both refuse."""

import math

import pytest
import torch

from flatlab import rlhf
from flatlab.rlhf import bounds, constructions

P = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
R = torch.tensor([0.9, 0.1, -0.5, -0.2], dtype=torch.float64)
POLICY = rlhf.SoftmaxPolicy(P.log())


def drawn(outputs: int, seed: int, *, scale: float = 1.0) -> tuple[rlhf.SoftmaxPolicy, torch.Tensor]:
    """A policy, and a ground truth in [-1, 1] without ties."""
    g = torch.Generator().manual_seed(seed)
    theta = scale * torch.randn(outputs, generator=g, dtype=torch.float64)
    return rlhf.SoftmaxPolicy(theta), torch.rand(outputs, generator=g, dtype=torch.float64) * 2 - 1


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_known_lower_bounds():
    var = float(POLICY.variance(R))
    assert bounds.time_lower(var, 0.2, tabular=True) == pytest.approx(0.34288648)
    assert bounds.time_lower(var / 100, 0.2, tabular=True) == pytest.approx(3.4288648)
    assert bounds.time_lower(var, 0.2, tabular=True, n_prompts=3) == pytest.approx(3 * 0.34288648)
    assert bounds.time_lower(0.0, 0.2) == bounds.time_lower(0.0, 0.2, tabular=True) == torch.inf
    assert bounds.time_lower(1.0, 0.9, L=2, J=3.0) == pytest.approx((1 - math.exp(-0.1)) / 288)
    assert bounds.time_lower(1.0, 9.0, lam=7.0) == pytest.approx((1 - math.exp(-1 / 3)) / 8)  # the penalty decides


def test_numbers_and_tensors():
    var = torch.tensor([0.0, 0.25, 1.0])
    for found in (
        bounds.gradient(var),
        bounds.gradient_sharp(var, 3),
        bounds.hessian(var, 0.1),
        bounds.time_lower(var, 1),
    ):
        assert found.shape == (3,)
        assert found.dtype == torch.float64
    assert bounds.gradient(0.001, L=2, J=3.0) == pytest.approx(3.6)
    assert bounds.gradient(0.001, M=8.0) == pytest.approx(1.2)
    assert bounds.gradient_sharp(0.08, L=4, J=2.0) == pytest.approx(0.8)
    assert bounds.gradient_sharp(0.08, L=4, table=True) == pytest.approx(0.2)
    assert bounds.hessian(0.08, lam=0.4) == pytest.approx(0.8)
    assert bounds.variance(0.5, 1.0, tabular=True) == pytest.approx(1 / 0.75**2)
    assert bounds.variance(torch.tensor([0.0, 1 / 16, 1.0]), 1.0).tolist() == pytest.approx([1, 8, torch.inf])
    assert bounds.movement(1 / 16, 1.0) == pytest.approx(1.5 * math.log(2))
    assert bounds.movement(1.0, 1.0) == torch.inf
    assert bounds.ratio(0.0, 0.2, 1.0) == pytest.approx(0.6)
    assert bounds.time_upper_inaccurate(0.1, 0.5, 2) == pytest.approx(8 * 16 * 8)
    assert bounds.time_upper_policy(0.1, 0.5, 2) == pytest.approx(4 * 8 * 8)
    assert bounds.time_upper_set(0.1, 3, 0.5, 0.5) == pytest.approx(48 * 8)
    assert bounds.lam_upper(0.1, 0.5, math.exp(-1)) == pytest.approx(0.1 / 16 / (8 * (0.5 / math.e + 2)))
    assert bounds.lam_upper(0.1, 0.5, math.exp(-1), policy=True) == pytest.approx(0.1 / 8 / (16 * (0.5 / math.e + 2)))


def test_slopes_of_times_on_variances():
    """Scaling the rewards gives exactly -1/2; a right output that gets rarer gives -1, beyond any lower bound."""
    scales = torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64)
    times = rlhf.time_to_gain(POLICY.at(POLICY.theta.expand(3, 4)), scales[:, None] * R, R, 0.2)
    assert (times.log().diff() / (scales**2).log().diff()).tolist() == pytest.approx([-0.5, -0.5], abs=1e-7)
    late = [bounds.time_of_one_output(p, 0.5, 50) for p in (1e-4, 1e-5)]
    assert math.log(late[1] / late[0]) / math.log(0.1) == pytest.approx(-1, abs=2e-3)


def test_parameters_that_prefixes_share():
    """theta_s = A_s w, J the largest norm of an A_s: the general bounds hold, that of a table does not."""
    g, V, L, above = torch.Generator().manual_seed(0), 2, 3, 0
    for _ in range(300):
        w = torch.randn(3, generator=g, dtype=torch.float64)
        maps = torch.randn(1, V, 3, generator=g, dtype=torch.float64) + 0.3 * torch.randn(7, V, 3, generator=g)
        J = float(torch.linalg.matrix_norm(maps, 2).max())
        blocks = (maps @ w).split([1, 2, 4])
        policy = rlhf.AutoregressiveTable(V, L, blocks)
        r = torch.rand(8, generator=g, dtype=torch.float64) * 2 - 1
        norm, var = float((policy.gradient(r) @ maps.flatten(0, 1)).norm()), float(policy.variance(r))
        assert norm <= bounds.gradient_sharp(var, L, J)
        assert norm <= bounds.gradient(var, L, J)
        above += norm > J * bounds.gradient_sharp(var, table=True)
    assert above > 0


# --- Theorem 2 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_an_accurate_teacher_may_be_slower_than_an_inaccurate_one(seed):
    outputs, gamma, n_prompts = 16, 0.3, 3
    policy, truth = drawn(outputs, seed)
    y, p, v0 = int(truth.argmax()), policy.probs(), float(policy.expected(truth))
    wrong = constructions.inaccurate_fast(truth, y)
    assert rlhf.ranking_accuracy(wrong, truth) == pytest.approx(2 / outputs)
    rho = bounds.ratio(v0, gamma, float(truth[y]))
    upper = bounds.time_upper_inaccurate(float(p[y]), rho, n_prompts)
    weak = bounds.lam_upper(float(p[y]), rho, float(p.min()))
    fast = rlhf.time_to_gain(policy, wrong, truth, gamma, torch.tensor([weak, 0.0])[0], n_prompts=n_prompts)
    assert fast <= upper
    slow = []
    for T in (10.0, 100.0, 1000.0):
        right = constructions.perfect_low_variance(truth, T)
        assert rlhf.ranking_accuracy(right, truth) == 1
        assert float(policy.variance(right)) <= 1 / T**2
        slow.append(rlhf.time_to_gain(policy, right, truth, gamma, n_prompts=n_prompts))
        assert slow[-1] >= bounds.time_lower(1 / T**2, gamma, tabular=True, n_prompts=n_prompts)
    assert slow[0] > fast
    assert [slow[1] / slow[0], slow[2] / slow[1]] == pytest.approx([10, 10], rel=1e-6)


def test_any_accuracy_with_the_right_output_first():
    truth = torch.tensor([0.9, 0.5, 0.5, -0.3, -0.9], dtype=torch.float64)
    assert rlhf.ranking_accuracy(constructions.fast(truth, 0), truth) == 1
    assert rlhf.ranking_accuracy(constructions.inaccurate_fast(truth, 0), truth) == pytest.approx(2 / 5)  # 4 of 10
    one_swap = torch.tensor([9.0, 3, 3, 1, 2])
    made = constructions.fast(one_swap, 0, spread=0.1)
    assert rlhf.ranking_accuracy(made, truth) == pytest.approx(0.9)
    assert made[0] == 1
    assert made[1:].min() == -1
    assert made[1:].max() == pytest.approx(-0.9)
    assert rlhf.ranking_accuracy(constructions.inaccurate_fast(truth, 4), truth) == 0


def test_outputs_that_both_rewards_like():
    """Proposition 4, without a penalty and without outputs that only the reward model likes."""
    for seed in range(4):
        policy, truth = drawn(12, seed)
        best, gamma = truth.topk(2).indices, 0.15
        r_rm = torch.full_like(truth, -0.8)
        r_rm[best] = torch.tensor([0.9, 0.89], dtype=torch.float64)
        rho = bounds.ratio(float(policy.expected(truth)), gamma, float(truth[best].min()))
        delta = (1 - rho) * (0.9 - float(policy.expected(r_rm))) - 0.01
        upper = bounds.time_upper_set(float(policy.probs()[best].sum()), 2, delta, rho)
        assert rlhf.time_to_gain(policy, r_rm, truth, gamma) <= upper


# --- Theorem 3 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_better_teacher_depends_on_the_policy(seed):
    outputs, gamma, T, c = 12, 0.2, 30.0, 0.2
    _, truth = drawn(outputs, seed)
    truth[:2] = torch.tensor([0.95, 0.9], dtype=torch.float64)
    v0 = 0.9 * c + (1 - c) * float(truth[2:].mean())
    pair = constructions.policy_pair(v0, c, T, r_g=truth, y=(0, 1))
    policies = [rlhf.SoftmaxPolicy(p.log()) for p in pair]
    for p, first, second in zip(pair, (c, T**-2), (T**-2, c), strict=True):
        assert float((p * truth).sum()) == pytest.approx(v0, abs=1e-9)
        assert float(p.sum()) == pytest.approx(1, abs=1e-12)
        assert p[:2].tolist() == pytest.approx([first, second])
        assert (p > 0).all()
    rewards = [constructions.one_output(outputs, y) for y in (0, 1)]
    times = [[rlhf.time_to_gain(policy, r, truth, gamma) for r in rewards] for policy in policies]
    for i in (0, 1):
        p = pair[i]
        rho = bounds.ratio(v0, gamma, float(truth[i]))
        weak = bounds.lam_upper(c, rho, float(p.min()), policy=True)
        assert times[i][i] <= bounds.time_upper_policy(c, rho)
        assert rlhf.time_to_gain(policies[i], rewards[i], truth, gamma, weak) <= bounds.time_upper_policy(c, rho)
        assert float(policies[i].variance(rewards[1 - i])) <= 8 / T**2
        lower = bounds.time_lower(8 / T**2, gamma, tabular=True)
        assert lower == pytest.approx((1 - math.exp(-gamma / 2)) * T / math.sqrt(2))
        assert times[i][1 - i] >= lower
        assert times[i][1 - i] > 10 * times[i][i]


# --- scaled prompts, bad input ----------------------------------------------------------------------------------------


def test_scaled_prompts_keep_their_ranks():
    g = torch.Generator().manual_seed(0)
    r = torch.randn(40, 6, generator=g, dtype=torch.float64) + 1.5
    scaled = constructions.scale_prompts(r, 0.5, 1e-3, seed=7)
    changed = (scaled != r).any(1)
    assert int(changed.sum()) == 20
    torch.testing.assert_close(scaled[changed], 1e-3 * r[changed])
    assert rlhf.ranking_accuracy(scaled, r) == 1
    assert rlhf.within_share(scaled) < rlhf.within_share(r) / 1.5  # since their mean is not 0
    assert torch.equal(scaled, constructions.scale_prompts(r, 0.5, 1e-3, seed=7))
    assert not torch.equal(scaled, constructions.scale_prompts(r, 0.5, 1e-3, seed=8))
    assert torch.equal(constructions.scale_prompts(r, 0.0, 1e-3, seed=7), r)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bounds.gradient(-0.1), "var"),
        (lambda: bounds.gradient(1.1), "var"),
        (lambda: bounds.gradient(4.1, M=2.0), "var"),
        (lambda: bounds.gradient(0.5, M=0.5), "M must"),
        (lambda: bounds.gradient(float("nan")), "var"),
        (lambda: bounds.gradient_sharp(0.5, L=0), "L must"),
        (lambda: bounds.gradient_sharp(0.5, J=0.0), "J must"),
        (lambda: bounds.hessian(0.5, -1.0), "lam"),
        (lambda: bounds.variance(-1.0, 0.5), "t must"),
        (lambda: bounds.variance(math.inf, 0.5), "t must be finite"),
        (lambda: bounds.variance(1.0, 2.0), "var"),
        (lambda: bounds.movement(1.0, 2.0), "var"),
        (lambda: bounds.time_lower(1.5, 0.2), "var"),
        (lambda: bounds.time_lower(torch.tensor([0.5, -0.5]), 0.2), "var"),
        (lambda: bounds.time_lower(0.5, 0.0), "gamma"),
        (lambda: bounds.time_lower(0.5, -1.0, tabular=True), "gamma"),
        (lambda: bounds.time_lower(0.5, 0.2, -0.1), "lam"),
        (lambda: bounds.time_lower(0.5, 0.2, n_prompts=0, tabular=True), "n_prompts"),
        (lambda: bounds.ratio(0.5, 0.2, 0.6), "reward"),
        (lambda: bounds.ratio(0.5, 0.2, 1.6), "reward"),
        (lambda: bounds.ratio(-1.5, 0.2, 0.6), "v0"),
        (lambda: bounds.time_upper_inaccurate(0.6, 0.5), "probability"),
        (lambda: bounds.time_upper_policy(0.0, 0.5), "probability"),
        (lambda: bounds.time_upper_policy(0.1, 1.5), "rho"),
        (lambda: bounds.time_upper_inaccurate(0.1, 1.0), "rho"),
        (lambda: bounds.time_upper_set(0.1, 0, 0.5, 0.5), "size"),
        (lambda: bounds.time_upper_set(0.1, 1, 0.0, 0.5), "delta"),
        (lambda: bounds.lam_upper(0.1, 0.5, 0.0), "p_min"),
        (lambda: bounds.time_of_one_output(0.5, 0.1, 4), "p0"),
        (lambda: bounds.time_of_one_output(0.1, 0.5, 1), "outputs"),
        (lambda: constructions.perfect_low_variance(2 * R, 10.0), r"\[-1, 1\]"),
        (lambda: constructions.perfect_low_variance(R, 0.5), "T must"),
        (lambda: constructions.one_output(4, 4), "y must"),
        (lambda: constructions.fast(R, 0, spread=2.0), "spread"),
        (lambda: constructions.fast(R[None], 0), "ranking"),
        (lambda: constructions.inaccurate_fast(R, -1), "y must"),
        (lambda: constructions.policy_pair(0.1, 0.2, 1.0, r_g=R, y=(0, 1)), "T must"),
        (lambda: constructions.policy_pair(0.1, 0.95, 4.0, r_g=R, y=(0, 1)), "c must"),
        (lambda: constructions.policy_pair(0.1, 0.2, 4.0, r_g=R, y=(1, 1)), "different"),
        (lambda: constructions.policy_pair(0.8, 0.2, 4.0, r_g=R, y=(0, 1)), "V0 must"),
        (lambda: constructions.scale_prompts(R, 0.5, 0.1, 0), "prompts, k"),
        (lambda: constructions.scale_prompts(R[None], 1.5, 0.1, 0), "frac"),
        (lambda: constructions.scale_prompts(R[None], 0.5, 0.0, 0), "factor"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
