"""Reward models and policies that the theorems of Razin et al. 2025 are proved with.

Theorem 2 (5): `perfect_low_variance` against `inaccurate_fast`. Theorem 3 (6): `policy_pair`, with `one_output` as the
reward models. And `scale_prompts`, by which the paper gives a perfectly accurate reward model a low variance.
"""

import torch
from torch import Tensor

from flatlab import checks
from flatlab.rlhf import arguments


def perfect_low_variance(r_g: Tensor, T: float) -> Tensor:
    """r_G / T, T >= 1: accuracy 1, and a variance of at most 1 / T^2 under every policy, for r_G (..., K) in [-1, 1].

    Any other reward model in the place of r_G keeps its accuracy, too.
    """
    return arguments.rewards("r_g", r_g, bounded=True) / arguments.number("T", T, 1.0)


def one_output(outputs: int, y: int) -> Tensor:
    """+1 at the output y, -1 at all others, (outputs,)."""
    r = torch.full((checks.at_least("outputs", outputs, 2),), -1.0, dtype=torch.float64)
    r[_output(y, outputs)] = 1.0
    return r


def fast(ranking: Tensor, y: int, *, spread: float = 1e-3) -> Tensor:
    """+1 at y, and -1 to -1 + spread elsewhere in the order of a ranking (K,): the accuracy of any reward with y first.

    Args:
        ranking: (K,) numbers that order the other outputs; equal ones stay equal.
        y: the output that is ranked first.
        spread: in (0, 2).
    """
    order = arguments.rewards("ranking", ranking)
    if order.ndim != 1 or len(order) < 2:
        raise ValueError(f"ranking must have shape (K,) with K >= 2, got {tuple(order.shape)}")
    others = torch.arange(len(order)) != _output(y, len(order))
    ranks = order[others].unique(return_inverse=True)[1].double()
    r = torch.ones_like(order)
    r[others] = arguments.number("spread", spread, high=2.0, strict=True) * ranks / ranks.max().clamp(min=1.0) - 1
    return r


def inaccurate_fast(r_g: Tensor, y: int, *, spread: float = 1e-3) -> Tensor:
    """+1 at y, the others close to -1 in a wrong order: accuracy at most 2 / K, as only pairs with y can be right.

    Args:
        r_g: ground truth (K,); where it ties, the reward model does not, which is wrong, too.
        y: an output; if it is the only best one, the accuracy is 2 / K.
        spread: see `fast`.
    """
    truth = arguments.rewards("r_g", r_g)
    return fast(truth.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1), y, spread=spread)


def policy_pair(V0: float, c: float, T: float, *, r_g: Tensor, y: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Two policies (K,) with E r_G = V0 that disagree on the better reward model, `one_output` at y[0] or at y[1].

    The first has probability c at y[0] and T^-2 at y[1], the second has them swapped; the remaining mass is spread over
    the other outputs as exp(b r_G), b such that E r_G = V0.

    Args:
        V0: expected ground truth reward.
        c: in (0, 1 - T^-2).
        T: > 1.
        r_g: ground truth (K,) in [-1, 1].
        y: two outputs; for the theorem, r_G > V0 + gamma at both.

    Raises:
        ValueError: also where no spread of the rest gives V0.
    """
    truth = arguments.rewards("r_g", r_g, bounded=True)
    rare = float(arguments.number("T", T, 1.0, strict=True)) ** -2
    arguments.number("c", c, high=1 - rare, strict=True)
    first, second = (_output(index, len(truth)) for index in y)
    if truth.ndim != 1 or first == second:
        raise ValueError(f"r_g must have shape (K,) and y two different outputs, got {tuple(truth.shape)} and {y}")
    return _tilted(V0, truth, {first: c, second: rare}), _tilted(V0, truth, {second: c, first: rare})


def scale_prompts(r: Tensor, frac: float, factor: float, seed: int) -> Tensor:
    """Rewards (prompts, k) with a drawn fraction of the prompts scaled: ranks stay, the variance within prompts falls.

    After joint normalization it falls only if the rewards have a mean away from 0.

    Args:
        r: rewards (prompts, k).
        frac: of the prompts, in [0, 1], rounded down.
        factor: > 0.
        seed: of the draw.
    """
    scaled = arguments.rewards("r", r).clone()
    if scaled.ndim != 2:
        raise ValueError(f"r must have shape (prompts, k), got {tuple(scaled.shape)}")
    count = int(len(scaled) * float(arguments.number("frac", frac, high=1.0)))
    order = torch.randperm(len(scaled), generator=torch.Generator().manual_seed(seed))
    scaled[order[:count]] *= checks.positive("factor", factor)
    return scaled


def _output(index: int, outputs: int) -> int:
    if not 0 <= index < outputs:
        raise ValueError(f"y must name an output 0..{outputs - 1}, got {index}")
    return int(index)


def _tilted(v0: float, truth: Tensor, fixed: dict[int, float]) -> Tensor:
    p = torch.zeros_like(truth)
    for index, probability in fixed.items():
        p[index] = probability
    rest, mass, given = p == 0, 1 - float(p.sum()), float((p * truth).sum())
    others = truth[rest]
    ends = [given + mass * float(end) for end in (others if len(others) else truth).aminmax()]
    if not len(others) or not ends[0] <= v0 <= ends[1]:
        raise ValueError(f"V0 must lie in [{ends[0]:g}, {ends[1]:g}] with these rewards and probabilities, got {v0:g}")
    low, high = -1e4, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        mean = given + mass * float((others * (middle * others).softmax(0)).sum())
        low, high = (middle, high) if mean < v0 else (low, middle)
    p[rest] = mass * (high * others).softmax(0)
    return p
