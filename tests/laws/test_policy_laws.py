"""Laws that exact policies, their gradients and their flows obey, for both classes of policies."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from flatlab import rlhf
from flatlab.rlhf.policies import Policy


def softmax_policies(theta: Tensor) -> Policy:
    return rlhf.SoftmaxPolicy(theta)


def tables(theta: Tensor) -> Policy:
    """V = 2, L = 3: 14 logits, 8 outputs."""
    first, second, third = theta.split([2, 4, 8], dim=-1)
    return rlhf.AutoregressiveTable(2, 3, [first.unflatten(-1, (1, 2)), second.unflatten(-1, (2, 2)),
                                           third.unflatten(-1, (4, 2))])  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A batch of policies with rewards of their own, and a reference."""

    make: Callable[[Tensor], Policy]
    policy: Policy
    r: Tensor
    ref: Tensor

    @property
    def first(self) -> Policy:
        return self.make(self.policy.theta[0])


@pytest.fixture(params=[(softmax_policies, 8, 6), (tables, 14, 8)], ids=["softmax", "autoregressive"])
def given(request) -> Case:
    make, size, outputs = request.param
    size = outputs if make is softmax_policies else size
    generator = torch.Generator().manual_seed(3)
    theta = torch.randn(5, size, generator=generator, dtype=torch.float64)
    r = torch.rand(5, outputs, generator=generator, dtype=torch.float64) * 2 - 1
    ref = torch.randn(5, outputs, generator=generator, dtype=torch.float64).softmax(-1)
    return Case(make, make(theta), r, ref)


def objective(policy: Policy, r: Tensor, lam: float, ref: Tensor) -> Tensor:
    p = policy.probs()
    return (p * (r - lam * (p / ref).log())).sum(-1)


def test_probabilities_are_products_of_conditionals(given):
    p = given.policy.probs()
    torch.testing.assert_close(p.sum(-1), torch.ones(5, dtype=torch.float64), atol=1e-14, rtol=0)
    torch.testing.assert_close(given.policy.log_probs().exp(), p)
    if given.make is tables:
        blocks = given.policy.theta[0].split([2, 4, 8])
        for y in range(8):
            bits, chance = [y >> 2 & 1, y >> 1 & 1, y & 1], 1.0
            for position, block in enumerate(blocks):
                prefix = int("0" + "".join(map(str, bits[:position])), 2)
                chance *= float(block.reshape(-1, 2)[prefix].softmax(0)[bits[position]])
            assert float(p[0, y]) == pytest.approx(chance, rel=1e-12)


def test_offsets_of_logits_and_rewards_change_nothing(given):
    shift = torch.zeros_like(given.policy.theta)
    shift[..., :2] = 3.7  # a whole block of the first softmax
    moved = given.make(given.policy.theta + (shift if given.make is tables else 3.7))
    torch.testing.assert_close(moved.probs(), given.policy.probs())
    torch.testing.assert_close(
        given.policy.gradient(given.r + 5), given.policy.gradient(given.r), atol=1e-14, rtol=1e-10
    )
    torch.testing.assert_close(given.policy.variance(given.r + 1e6), given.policy.variance(given.r), rtol=1e-8, atol=0)


@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_gradient_and_hessian_are_derivatives(given, lam):
    for i in range(2):
        theta, ref = given.policy.theta[i], given.ref[i]
        alone = given.make(theta)

        def value(point: Tensor, i: int = i) -> Tensor:
            return objective(given.make(point), given.r[i], lam, given.ref[i])

        gradient, hessian = torch.func.grad(value)(theta), torch.func.jacrev(torch.func.grad(value))(theta)
        torch.testing.assert_close(alone.gradient(given.r[i], lam, ref), gradient, atol=1e-13, rtol=0)
        torch.testing.assert_close(alone.hessian(given.r[i], lam, ref), hessian, atol=1e-12, rtol=0)
        torch.testing.assert_close(given.policy.gradient(given.r, lam, given.ref)[i], gradient, atol=1e-13, rtol=0)
        torch.testing.assert_close(given.policy.hessian(given.r, lam, given.ref)[i], hessian, atol=1e-12, rtol=0)


def test_gradient_is_bounded_by_the_variance(given):
    g = torch.Generator().manual_seed(0)
    length, size = given.policy.length, given.policy.theta.shape[-1]
    for scale in (0.1, 1.0, 4.0):
        policy = given.make(scale * torch.randn(2000, size, generator=g, dtype=torch.float64))
        r = torch.rand(2000, policy.outputs, generator=g, dtype=torch.float64) * 2 - 1
        var, norm = policy.variance(r), policy.gradient(r).norm(dim=-1)
        sharp = rlhf.bounds.gradient_sharp(var, length, table=True)
        assert (norm <= sharp * (1 + 1e-9)).all()
        assert (sharp <= rlhf.bounds.gradient_sharp(var, length)).all()
        assert (norm <= rlhf.bounds.gradient(var, length) * (1 + 1e-9)).all()
    assert (norm / sharp).max() > 0.6  # and not by far


def test_every_row_of_a_batch_flows_as_alone(given):
    lam = torch.tensor([0.0, 0.01, 0.0, 0.05, 0.0], dtype=torch.float64)
    gamma = torch.tensor([0.05, 0.1, 9.0, 0.05, 0.2], dtype=torch.float64)
    batch = rlhf.time_to_gain(given.policy, given.r, given.r, gamma, lam)
    flows = rlhf.gradient_flow(given.policy, given.r, lam, t_max=4.0, points=5)
    assert batch.shape == (5,)
    for i in range(5):
        policy, r, weight = given.make(given.policy.theta[i]), given.r[i], float(lam[i])
        assert float(batch[i]) == pytest.approx(rlhf.time_to_gain(policy, r, r, float(gamma[i]), weight), rel=1e-12)
        alone = rlhf.gradient_flow(policy, r, weight, t_max=4.0, points=5)
        torch.testing.assert_close(flows.v_rm[:, i], alone.v_rm, rtol=1e-12, atol=1e-14)
    assert batch[2] == torch.inf


def test_energy_identity(given):
    """dV/dt = |grad V|^2 / |S| where lam = 0, so that V never falls."""
    flow = rlhf.gradient_flow(given.policy, given.r, t_max=30.0, points=61)
    assert (flow.v_rm.diff(dim=0) > 0).all()
    slower = rlhf.gradient_flow(given.policy, given.r, t_max=120.0, points=61, n_prompts=4)
    torch.testing.assert_close(slower.v_rm, flow.v_rm, rtol=1e-7, atol=1e-9)
    first, _, last = rlhf.gradient_flow(flow.policy, given.r, t_max=2e-3, points=3, n_prompts=2).v_rm
    at = rlhf.gradient_flow(flow.policy, given.r, t_max=1e-3, points=2, n_prompts=2).policy
    torch.testing.assert_close((last - first) / 2e-3, at.gradient(given.r).square().sum(-1) / 2, rtol=1e-6, atol=1e-12)


def test_penalised_objective_never_falls(given):
    lam = 0.5
    flow = rlhf.gradient_flow(given.policy, given.r, lam, t_max=30.0, points=50)
    assert ((flow.v_rm - lam * flow.kl).diff(dim=0) > -1e-12).all()
    best = (given.policy.log_probs() + given.r / lam).log_softmax(-1).exp()
    far = rlhf.gradient_flow(given.policy, given.r, lam, t_max=20000.0, points=2)
    torch.testing.assert_close(far.v_rm[-1], (best * given.r).sum(-1), atol=1e-6, rtol=0)


def test_rewards_on_another_scale_are_the_same_curve_at_another_speed(given):
    times = torch.stack([rlhf.time_to_gain(given.policy, c * given.r, given.r, 0.1) * c for c in (1.0, 0.1, 1e-3)])
    torch.testing.assert_close(times, times[:1].expand_as(times), rtol=1e-6, atol=0)


def test_gradient_ascent_tends_to_the_flow(given):
    end = rlhf.gradient_flow(given.policy, given.r, 0.02, t_max=4.0, points=2).policy.theta
    errors = []
    for lr in (0.1, 0.05, 0.025):
        steps = rlhf.gradient_ascent(given.policy, given.r, 0.02, lr=lr, steps=round(4 / lr))
        assert float(steps.t[-1]) == pytest.approx(4.0)
        errors.append(float((steps.policy.theta - end).norm()))
    assert 0.4 < errors[1] / errors[0] < 0.6
    assert 0.4 < errors[2] / errors[1] < 0.6


@pytest.mark.parametrize("lam", [0.0, 0.02])
def test_no_reward_rises_before_the_lower_bound(given, lam):
    """The bounds hold for the ground truth as for the reward model, of which this ground truth is independent."""
    truth = given.r.flip(0)
    var, tabular = given.policy.variance(given.r), given.make is softmax_policies
    for gamma in (0.02, 0.1):
        times = rlhf.time_to_gain(given.policy, given.r, truth, gamma, lam)
        assert times.isfinite().any()
        assert (times >= rlhf.bounds.time_lower(var, gamma, lam, given.policy.length)).all()
        if tabular:
            assert (times >= rlhf.bounds.time_lower(var, gamma, lam, tabular=True)).all()
    flow = rlhf.gradient_flow(given.policy, given.r, lam, t_max=0.2 if tabular else 0.001, points=30)
    t = flow.t[:, None]
    assert (flow.var <= rlhf.bounds.variance(t, var, given.policy.length) * (1 + 1e-9)).all()
    if tabular:
        assert (flow.var <= rlhf.bounds.variance(t, var, tabular=True) * (1 + 1e-9)).all()
    moved = (flow.policy.theta - given.policy.theta).norm(dim=-1)
    assert (moved <= rlhf.bounds.movement(float(flow.t[-1]), var, given.policy.length)).all()
