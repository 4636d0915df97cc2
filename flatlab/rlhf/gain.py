"""How long gradient flow takes to raise the expected ground truth reward by a given gain.

    t_gamma = inf {t : E_{p(t)} r_G >= E_{p(0)} r_G + gamma}

The crossing is located as an event: by Newton's method within the step that holds it, never on a grid. That there is
none is proved rather than waited for. The flow only ever raises its objective, so that E_p r_G stays below a ceiling:

    lam = 0:   max r_RM - E_p r_RM only falls; divided by max - second r_RM, it bounds the mass off the outputs that
               r_RM likes best;
    lam > 0:   lam KL(p || p*) only falls, with p* = ref exp(r_RM / lam) / Z, and by Pinsker's inequality E_p r_G is
               within range(r_G) sqrt(KL / 2) of E_{p*} r_G.

Both ceilings are ours, and hold for every policy that follows its gradient. They come down to what the flow tends to,
unless lam = 0 and the best outputs of r_RM tie; such a flow is given up at t = 1e8 |S| / range(r_RM).
"""

from dataclasses import dataclass

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
_PATIENCE = 1e8  # how many times |S| / range(r_RM) to wait where nothing is proved


def time_to_gain(
    policy: Policy,
    r_rm: Tensor,
    r_g: Tensor,
    gamma: Number,
    lam: Number = 0.0,
    *,
    n_prompts: int = 1,
    rtol: float = 1e-9,
) -> float | Tensor:
    """t_gamma of one policy, a float, or of a batch, a tensor of its shape; inf where the gain is never reached.

    Args:
        policy: where the flows start, and the reference of their penalties.
        r_rm: rewards (..., K) in [-1, 1] that the flows follow.
        r_g: ground truth rewards (..., K) in [-1, 1] whose mean must rise.
        gamma: by how much, > 0; a number, or one for each policy of the batch.
        lam: weight of the KL penalty, >= 0; likewise.
        n_prompts: |S|, see `gradient_flow`.
        rtol: error that a step may make in a logit, relative to 1 + |logit|.

    Raises:
        RuntimeError: after 20,000 steps the gain is neither reached nor ruled out: it is what the flow tends to.
    """
    problem = Problem.of(policy, r_rm, r_g, lam, n_prompts)
    checks.positive("rtol", rtol)
    gain = arguments.expanded("gamma", arguments.number("gamma", gamma, strict=True)[..., None], policy.batch)
    found = _Race.start(problem, gain[:, 0]).run(rtol).reshape(policy.batch)
    return found if policy.batch else float(found)


@dataclass
class _Race:
    """The flows that have neither crossed nor been ruled out, by row: where they are, and what they must reach."""

    problem: Problem
    index: Tensor
    target: Tensor
    theta: Tensor
    slope: Tensor
    t: Tensor
    size: Tensor
    value: Tensor
    rate: Tensor
    turned: Tensor

    @classmethod
    def start(cls, problem: Problem, gain: Tensor) -> "_Race":
        theta = problem.policy.theta
        slope, value, zero = problem.velocity(theta), problem.gold(theta), torch.zeros_like(gain)
        rate, never = (problem.gold_slope(theta) * slope).sum(1), zero.bool()
        return cls(
            problem, torch.arange(len(gain)), value + gain, theta, slope, zero, first_size(slope), value, rate, never
        )

    def take(self, rows: Tensor) -> "_Race":
        problem, *tensors = vars(self).values()
        return self if rows.all() else _Race(problem.take(rows), *(x[rows] for x in tensors))

    def run(self, rtol: float) -> Tensor:
        """The times (B,) of the crossings, inf where there is none."""
        race, times, crossings = self, torch.full_like(self.t, torch.inf), []
        for count in range(_MAX_STEPS):
            if count % _LOOK_EVERY == 0:
                race = race.take(race._open())
            if not len(race.t):
                break
            crossed = race._advance(rtol)
            if crossed.any():
                crossings.append(race.take(crossed))
                race = race.take(~crossed)
        else:
            short = float((race.target - race.value).abs().min())
            raise RuntimeError(
                f"after {_MAX_STEPS} steps the gain is {short:.2g} away and neither reached nor ruled out: choose a "
                "gamma further from what the flow tends to"
            )
        for race in crossings:
            times[race.index] = race._locate(rtol)
        return times

    def _open(self) -> Tensor:
        spread = self.problem.r_rm.amax(1) - self.problem.r_rm.amin(1)
        waiting = self.t * spread < _PATIENCE * self.problem.n_prompts
        return (ceiling(self.problem, self.theta) >= self.target) & waiting & (spread > 0)

    def _advance(self, rtol: float) -> Tensor:
        """Take a step where it is good; returns which would have crossed the target, and so did not take theirs."""
        end, end_slope, ok, factor = attempt(self.problem.velocity, self.theta, self.slope, self.size, rtol)
        value, rate = self.problem.gold(end), (self.problem.gold_slope(end) * end_slope).sum(1)
        crossed = ok & (value >= self.target)
        # The mean may rise to the target and fall again within a step, which then ends at its peak.
        peaks = (self.rate > 0) & (rate < 0) & (self.value + self.rate * self.size >= self.target)
        self.turned = ok & ~crossed & peaks & ~self.turned
        taken = ok & ~crossed & ~self.turned
        self.t = self.t + self.size.where(taken, torch.zeros_like(self.t))
        peak = self.rate / (self.rate - rate)
        self.size = self.size * peak.where(self.turned, factor.where(~crossed, torch.ones_like(factor)))
        self.theta, self.slope = end.where(taken[:, None], self.theta), end_slope.where(taken[:, None], self.slope)
        self.value, self.rate = value.where(taken, self.value), rate.where(taken, self.rate)
        return crossed

    def _locate(self, rtol: float) -> Tensor:
        """The times of crossings within the next step, by Newton's method kept between what is known to bracket it."""
        low, high = torch.zeros_like(self.t), self.size
        x = self.size / 2
        for _ in range(60):
            end, slope, _, _ = attempt(self.problem.velocity, self.theta, self.slope, x, rtol)
            gap, rate = self.problem.gold(end) - self.target, (self.problem.gold_slope(end) * slope).sum(1)
            low, high = x.where(gap < 0, low), x.where(gap >= 0, high)
            newton = x - gap / rate
            before, x = x, newton.where((newton >= low) & (newton <= high), (low + high) / 2)
            if bool(((x - before).abs() <= 1e-13 * self.size).all()):
                break
        return self.t + x


def ceiling(problem: Problem, theta: Tensor) -> Tensor:
    """What the expected ground truth reward cannot exceed (B,) from the points theta (B, D) on; see above."""
    policy, lam = problem.policy.at(theta), problem.lam[:, 0]
    below = problem.r_rm.amax(1, keepdim=True) - problem.r_rm
    second = below.where(below > 0, torch.full_like(below, torch.inf)).amin(1)
    off = ((policy.probs() * below).sum(1) / second).clamp(max=1.0)
    best = problem.r_g.where(below == 0, torch.full_like(below, -torch.inf)).amax(1)
    top = problem.r_g.amax(1)
    greedy = best + off * (top - best)
    tilted = (problem.start_log + problem.r_rm / problem.lam.where(problem.lam > 0, 1.0)).log_softmax(1)
    reach = (policy.kl(tilted).clamp(min=0) / 2).sqrt() * (top - problem.r_g.amin(1))
    return greedy.where(lam == 0, ((tilted.exp() * problem.r_g).sum(1) + reach).minimum(top))
