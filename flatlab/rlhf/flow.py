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
    """A batch of flows, as tensors whose first axis is the flow; unchecked.

    Attributes:
        policy: theta (B, D) at the start.
        r_rm, r_g: (B, K).
        lam: (B, 1).
        start_log: ln of the initial probabilities (B, K).
        n_prompts: |S|.
    """

    policy: Policy
    r_rm: Tensor
    r_g: Tensor
    lam: Tensor
    start_log: Tensor
    n_prompts: int

    @classmethod
    def of(cls, policy: Policy, r_rm: Tensor, r_g: Tensor | None, lam: Number, n_prompts: int) -> "Problem":
        """Check the arguments of a flow, those of `gradient_flow`, and lay them out, one row a flow."""
        checks.at_least("n_prompts", n_prompts, 1)
        rm, g = (
            arguments.expanded(name, arguments.rewards(name, r, policy.outputs, bounded=True), policy.batch)
            for name, r in (("r_rm", r_rm), ("r_g", r_rm if r_g is None else r_g))
        )
        weight = arguments.expanded("lam", arguments.number("lam", lam)[..., None], policy.batch)
        start = policy.at(arguments.expanded("theta", policy.theta, policy.batch))
        return cls(start, rm, g, weight, start.log_probs(), n_prompts)

    def take(self, rows: Tensor) -> "Problem":
        """The flows of a mask or of indices."""
        r_rm, r_g, lam, start_log = (x[rows] for x in (self.r_rm, self.r_g, self.lam, self.start_log))
        return Problem(self.policy.at(self.policy.theta[rows]), r_rm, r_g, lam, start_log, self.n_prompts)

    def velocity(self, theta: Tensor) -> Tensor:
        """d theta / dt at (..., B, D)."""
        return self.policy.at(theta).ascent(self.r_rm, self.lam, self.start_log) / self.n_prompts

    def gold(self, theta: Tensor) -> Tensor:
        """Expected ground truth reward (..., B)."""
        return (self.policy.at(theta).probs() * self.r_g).sum(-1)

    def gold_slope(self, theta: Tensor) -> Tensor:
        """The gradient of `gold`, (..., B, D)."""
        return self.policy.at(theta).ascent(self.r_g, torch.zeros_like(self.lam), self.start_log)

    def history(self, t: Tensor, states: Tensor, batch: torch.Size) -> FlowResult:
        """A result from states (T, B, D)."""
        policy = self.policy.at(states)
        logs = policy.log_probs()
        p, regular = logs.exp(), self.r_rm - self.lam * (logs - self.start_log)
        mean = (p * regular).sum(-1, keepdim=True)
        v_rm, v_g, var, kl = (
            values.reshape(len(t), *batch)
            for values in (
                (p * self.r_rm).sum(-1),
                (p * self.r_g).sum(-1),
                (p * (regular - mean) ** 2).sum(-1),
                policy.kl(self.start_log),
            )
        )
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
    theta, t = problem.policy.theta.clone(), problem.lam.new_zeros(len(problem.lam))
    slope, seen, states = problem.velocity(theta), t.long(), theta.repeat(points, 1, 1)
    size, rows, part = first_size(slope), torch.arange(len(t)), problem
    for _ in range(_MAX_STEPS):
        left = times[seen[rows] + 1] - t[rows]
        step = size[rows].minimum(left)
        end, end_slope, ok, factor = attempt(part.velocity, theta[rows], slope[rows], step, rtol)
        arrived = ok & (step >= left)
        # A step that was cut short to look says only that the next may be as long as was planned.
        size[rows] = (step * factor).maximum(size[rows].where(arrived, torch.zeros_like(step)))
        moved, there = rows[ok], rows[arrived]
        theta[moved], slope[moved] = end[ok], end_slope[ok]
        t[moved] += step[ok]
        seen[there] += 1
        t[there], states[seen[there], there] = times[seen[there]], theta[there]
        alive = seen[rows] < points - 1
        if not alive.any():
            return problem.history(times, states, policy.batch)
        if not alive.all():
            rows = rows[alive]
            part = problem.take(rows)
    raise RuntimeError(f"the flow needs more than {_MAX_STEPS} steps up to t_max={t_max:g}: take a smaller one")


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
