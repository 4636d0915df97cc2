"""How long gradient flow takes to raise the expected ground truth reward by a given gain.

    t_gamma = inf {t : E_{p(t)} r_G >= E_{p(0)} r_G + gamma}

The crossing is located as an event: by Newton's method within the step that holds it, never on a grid. That there is
none is proved rather than waited for. The flow only ever raises its objective, so that E_p r_G stays below a ceiling:

    lam = 0:   max r_RM - E_p r_RM only falls; divided by max - second r_RM, it bounds the mass off the outputs that
               r_RM likes best;
    lam > 0:   lam KL(p || p*) only falls, with p* = ref exp(r_RM / lam) / Z, and for each b > 0
               E_p r_G <= (KL(p || p*) + ln E_{p*} exp(b r_G)) / b  (Donsker and Varadhan).

Both ceilings are ours, and hold for every policy that follows its gradient. They may take long to come down: where the
best outputs of r_RM tie, or where one was suppressed early on and rises again after ages. See `patience`.
"""

import torch
from torch import Tensor

from flatlab import checks
from flatlab.rlhf import arguments
from flatlab.rlhf.arguments import Number
from flatlab.rlhf.flow import Problem
from flatlab.rlhf.policies import Policy
from flatlab.rlhf.runge_kutta import attempt, first_size

_MAX_STEPS = 20_000
_LOOK_EVERY = 10  # steps between two looks at the ceiling
_TILTS = torch.logspace(-6, 6, 25, dtype=torch.float64)  # the b of the second ceiling


def time_to_gain(
    policy: Policy,
    r_rm: Tensor,
    r_g: Tensor,
    gamma: Number,
    lam: Number = 0.0,
    *,
    n_prompts: int = 1,
    rtol: float = 1e-9,
    patience: float = 1e8,
) -> float | Tensor:
    """t_gamma of one policy, a float, or of a batch, a tensor of its shape; inf where the gain is never reached.

    Args:
        policy, r_rm, lam, n_prompts, rtol: see `gradient_flow`.
        r_g: ground truth rewards (..., K) in [-1, 1] whose mean must rise.
        gamma: by how much, > 0; a number, or one for each policy of the batch.
        patience: in units of |S| / range(r_RM); a flow that by then has neither reached the gain nor been ruled out
            counts as one that never will.

    Raises:
        RuntimeError: more than 20,000 steps, as a penalised flow may need until the patience ends.
    """
    problem = Problem.of(policy, r_rm, r_g, lam, n_prompts)
    checks.positive("rtol", rtol)
    checks.positive("patience", patience)
    gain = arguments.expanded("gamma", arguments.number("gamma", gamma, strict=True)[..., None], policy.batch)
    found = _times(problem, problem.gold(problem.policy.theta) + gain[:, 0], rtol, n_prompts * patience).reshape(
        policy.batch
    )
    return found if policy.batch else float(found)


def _times(problem: Problem, target: Tensor, rtol: float, patience: float) -> Tensor:
    """When each flow's expected ground truth reward reaches its target (B,), inf from t range(r_RM) = `patience` on."""
    theta, t = problem.policy.theta, torch.zeros_like(target)
    slope, value = problem.velocity(theta), problem.gold(theta)
    size, rate = first_size(slope), problem.gold_rate(theta, slope)
    spread = problem.r_rm.amax(1) - problem.r_rm.amin(1)
    running, turned, reached = spread > 0, t > 0, t > 0
    for count in range(_MAX_STEPS):
        if count % _LOOK_EVERY == 0:
            running &= (t * spread < patience) & (ceiling(problem, theta) >= target)
        if not running.any():
            found = t + _located(problem, theta, slope, size, target, reached, rtol)
            return found.where(reached & (found * spread < patience), torch.inf)
        end, end_slope, good, factor = attempt(problem.velocity, theta, slope, size, rtol)
        end_value, end_rate = problem.gold(end), problem.gold_rate(end, end_slope)
        good &= running
        crossed = good & (end_value >= target)
        # The mean may rise to the target and fall again within a step, which is then taken up to its peak.
        turned = good & ~crossed & ~turned & (rate > 0) & (end_rate < 0) & (value + rate * size >= target)
        taken = good & ~crossed & ~turned
        reached, running = reached | crossed, running & ~crossed
        t = t + size.where(taken, 0.0)
        size = size * (rate / (rate - end_rate)).where(turned, factor.where(running, 1.0))
        theta, slope = end.where(taken[:, None], theta), end_slope.where(taken[:, None], slope)
        value, rate = end_value.where(taken, value), end_rate.where(taken, rate)
    raise RuntimeError(
        f"after {_MAX_STEPS} steps, at t={float(t[running].min()):.3g}, the gain is neither reached nor ruled out: "
        f"have less patience than {patience / problem.n_prompts:g}, or choose another gamma"
    )


def _located(
    problem: Problem, theta: Tensor, slope: Tensor, size: Tensor, target: Tensor, rows: Tensor, rtol: float
) -> Tensor:
    """How far into the step each of `rows` crosses: Newton's method, kept between what is known to bracket it."""
    low, high, x = torch.zeros_like(size), size, size / 2
    for _ in range(60):
        end, end_slope, _, _ = attempt(problem.velocity, theta, slope, x, rtol)
        gap = problem.gold(end) - target
        low, high = x.where(gap < 0, low), x.where(gap >= 0, high)
        newton = x - gap / problem.gold_rate(end, end_slope)
        before, x = x, newton.where((newton >= low) & (newton <= high), (low + high) / 2)
        if bool(((x - before).abs() <= 1e-13 * size)[rows].all()):
            break
    return x


def ceiling(problem: Problem, theta: Tensor) -> Tensor:
    """What the expected ground truth reward cannot exceed (B,) from the points theta (B, D) on; see above."""
    policy, top = problem.policy.at(theta), problem.r_g.amax(1)
    below = problem.r_rm.amax(1, keepdim=True) - problem.r_rm
    second = below.where(below > 0, torch.inf).amin(1)
    off = ((policy.probs() * below).sum(1) / second).clamp(max=1.0)
    best = problem.r_g.where(below == 0, -torch.inf).amax(1)
    greedy, penalised = best + off * (top - best), problem.lam[:, 0] > 0
    if not penalised.any():
        return greedy
    optimum = (problem.start_log + problem.r_rm / problem.lam.where(problem.lam > 0, 1.0)).log_softmax(1)
    b = _TILTS.to(theta.device)[:, None]
    moments = (optimum + b[..., None] * problem.r_g).logsumexp(-1)
    return ((policy.kl(optimum) + moments) / b).amin(0).minimum(top).where(penalised, greedy)
