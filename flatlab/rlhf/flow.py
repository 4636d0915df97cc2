"""Gradient flow and plain gradient ascent on the expected reward, many policies at once.

    d theta / dt = grad phi(theta) / |S|,   theta(0) = theta_ref,   phi = E_p [r - lam ln(p / ref)]

(Razin et al. 2025, equation 4.) The reference is the policy that the flow starts from. The objective of a set S of
prompts is their mean, so that the flow of one prompt of a table is |S| times slower than alone. Each policy of a batch
takes steps of its own, and so does what it would do alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from flatlab import checks
from flatlab.rlhf import arguments
from flatlab.rlhf.arguments import Number
from flatlab.rlhf.policies import Policy
from flatlab.rlhf.runge_kutta import attempt, first_size

_MAX_STEPS = 20_000


@dataclass(frozen=True)
class FlowResult:
    """What happened along a flow; T times, and the batch axes of the policy.

    Attributes:
        t: (T,), in units where one step of gradient ascent takes its step size.
        v_rm, v_g: (T, *batch) expected reward under the reward model and under the ground truth.
        var: (T, *batch) variance of the regularised reward r_KL, the one that the bounds speak of: at t = 0, and
            everywhere if lam = 0, that is the reward variance.
        kl: (T, *batch) KL to the initial policy, in nats.
        policy: at the last time.
    """

    t: Tensor
    v_rm: Tensor
    v_g: Tensor
    var: Tensor
    kl: Tensor
    policy: Policy


@dataclass(frozen=True)
class Problem:
    """A batch of flows, one a row: theta (B, D), rewards and ln of the initial probabilities (B, K), lam (B, 1)."""

    policy: Policy
    r_rm: Tensor
    r_g: Tensor
    lam: Tensor
    start_log: Tensor
    n_prompts: int

    @classmethod
    def of(cls, policy: Policy, r_rm: Tensor, r_g: Tensor | None, lam: Number, n_prompts: int) -> "Problem":
        """The flows that the arguments of `gradient_flow`, which are checked, describe."""
        checks.at_least("n_prompts", n_prompts, 1)
        rm, g = (
            arguments.expanded(name, arguments.rewards(name, r, policy.outputs, bounded=True), policy.batch)
            for name, r in (("r_rm", r_rm), ("r_g", r_rm if r_g is None else r_g))
        )
        weight = arguments.expanded("lam", arguments.number("lam", lam)[..., None], policy.batch)
        start = policy.at(arguments.expanded("theta", policy.theta, policy.batch))
        return cls(start, rm, g, weight, start.log_probs(), n_prompts)

    def velocity(self, theta: Tensor) -> Tensor:
        """d theta / dt at (..., B, D)."""
        return self.policy.at(theta).ascent(self.r_rm, self.lam, self.start_log) / self.n_prompts

    def gold(self, theta: Tensor) -> Tensor:
        """Expected ground truth reward (..., B)."""
        return (self.policy.at(theta).probs() * self.r_g).sum(-1)

    def gold_rate(self, theta: Tensor, slope: Tensor) -> Tensor:
        """How fast `gold` changes (B,) where theta moves by `slope`."""
        return (self.policy.at(theta).ascent(self.r_g, torch.zeros_like(self.lam), self.start_log) * slope).sum(-1)

    def history(self, t: Tensor, states: Tensor, batch: torch.Size) -> FlowResult:
        """A result from states (T, B, D)."""
        policy = self.policy.at(states)
        logs = policy.log_probs()
        p, regular = logs.exp(), self.r_rm - self.lam * (logs - self.start_log)
        mean = (p * regular).sum(-1, keepdim=True)
        means = [(p * x).sum(-1) for x in (self.r_rm, self.r_g, (regular - mean) ** 2, logs - self.start_log)]
        v_rm, v_g, var, kl = (x.reshape(len(t), *batch) for x in means)
        return FlowResult(t, v_rm, v_g, var, kl, policy.at(states[-1].reshape(*batch, -1)))


def gradient_flow(
    policy: Policy,
    r_rm: Tensor,
    lam: Number = 0.0,
    *,
    t_max: float,
    r_g: Tensor | None = None,
    rtol: float = 1e-9,
    points: int = 101,
    n_prompts: int = 1,
) -> FlowResult:
    """Follow the gradient of the regularised reward from a policy on, up to a time.

    Args:
        policy: where the flows start, and the reference of their penalties.
        r_rm: rewards (..., K) in [-1, 1] to follow.
        lam: weight of the KL penalty, >= 0; a number, or one for each policy of the batch.
        t_max: where to end.
        r_g: ground truth rewards (..., K) in [-1, 1] to look at; None takes `r_rm`.
        rtol: error that a step may make in a logit, relative to 1 + |logit|.
        points: times 0 .. t_max, evenly spaced, at which to look; the steps between are as many as `rtol` needs.
        n_prompts: |S|.

    Raises:
        RuntimeError: more than 20,000 steps: a strong penalty over a long time is stiff.
    """
    problem = Problem.of(policy, r_rm, r_g, lam, n_prompts)
    checks.positive("t_max", t_max)
    checks.positive("rtol", rtol)
    times = torch.linspace(0, t_max, checks.at_least("points", points, 2), dtype=torch.float64)
    states = [problem.policy.theta]
    slope = problem.velocity(states[-1])
    size, budget = first_size(slope), _MAX_STEPS
    for _ in range(len(times) - 1):
        theta, left = states[-1], torch.full_like(size, t_max / (points - 1))
        while (left > 0).any():
            if (budget := budget - 1) < 0:
                raise RuntimeError(f"more than {_MAX_STEPS} steps up to t_max={t_max:g}: take a smaller one")
            step = size.minimum(left)
            end, end_slope, good, factor = attempt(problem.velocity, theta, slope, step, rtol)
            # A step that was cut short to look says only that the next may be as long as was planned.
            size = (step * factor).maximum(size.where(good & (step == left), 0.0)).where(left > 0, size)
            left = left - step.where(good, 0.0)
            theta, slope = end.where(good[:, None], theta), end_slope.where(good[:, None], slope)
        states.append(theta)
    return problem.history(times, torch.stack(states), policy.batch)


def gradient_ascent(
    policy: Policy,
    r_rm: Tensor,
    lam: Number = 0.0,
    *,
    lr: float,
    steps: int,
    r_g: Tensor | None = None,
    n_prompts: int = 1,
) -> FlowResult:
    """Plain gradient ascent, which tends to the flow as the step size does to 0; t is step size times steps.

    Args:
        policy, r_rm, lam, r_g, n_prompts: see `gradient_flow`.
        lr: step size.
        steps: how many; the result holds steps + 1 times.
    """
    problem = Problem.of(policy, r_rm, r_g, lam, n_prompts)
    checks.positive("lr", lr)
    states = [problem.policy.theta]
    for _ in range(checks.at_least("steps", steps, 1)):
        states.append(states[-1] + lr * problem.velocity(states[-1]))
    return problem.history(lr * torch.arange(steps + 1).double(), torch.stack(states), policy.batch)
