"""The theorems on policies whose expected reward, gradient and flow are exact: random instances, float64."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatlab import flatness, rlhf
from flatlab.rlhf import bounds, constructions

Array = NDArray[np.float64]
_PATIENCE = 1e5
SCALES = (1.0, 0.3, 0.1, 0.03)
"""By which rewards are multiplied to make their variance vanish."""
RARE = (0.1, 0.03, 0.01, 0.003)
"""Initial probabilities of the one good output."""
DIVISORS = (1.0, 10.0, 100.0)
"""T: what a perfectly accurate reward model is divided by."""


def draws(count: int, outputs: int, seed: int) -> tuple[rlhf.SoftmaxPolicy, Tensor]:
    """Random policies, normal logits, and rewards uniform on [-1, 1], (count, outputs) each."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, outputs, generator=generator, dtype=torch.float64)
    return rlhf.SoftmaxPolicy(logits), 2 * torch.rand(count, outputs, generator=generator, dtype=torch.float64) - 1


def gradient_shares(instances: int, seed: int) -> dict[str, Array]:
    """Norms of gradients and Hessians as shares of their bounds, which none may exceed 1, (instances,) each.

    "variance" is that of the softmax policies, "norm" the length of their gradients.
    """
    sizes = (2, 4, 8, 16, 32)
    parts: dict[str, list[Tensor]] = {}
    for index, outputs in enumerate(sizes):
        policy, r = draws(instances // len(sizes), outputs, seed + index)
        gradient, variance = policy.gradient(r), policy.variance(r)
        norm = gradient.norm(dim=1)
        found = {
            "table, L1": gradient.abs().sum(1) / bounds.gradient(variance, tabular=True),
            "table, ours": norm / bounds.gradient_sharp(variance),
            "curvature": torch.linalg.matrix_norm(policy.hessian(r), 2) / (3 * norm),
            "variance": variance,
            "norm": norm,
        }
        symbols, length = 2 + index % 3, 1 + index % 4
        generator = torch.Generator().manual_seed(seed + 100 + index)
        tables = [
            torch.randn(len(r), symbols**place, symbols, generator=generator, dtype=torch.float64)
            for place in range(length)
        ]
        chain = rlhf.AutoregressiveTable(symbols, length, tables)
        reward = 2 * torch.rand(len(r), chain.outputs, generator=generator, dtype=torch.float64) - 1
        found["autoregressive"] = chain.gradient(reward).flatten(1).norm(dim=1) / bounds.gradient(
            chain.variance(reward), length
        )
        for name, values in found.items():
            parts.setdefault(name, []).append(torch.as_tensor(values))
    return {name: torch.cat(values).numpy() for name, values in parts.items()}


def variance_shares(flows: int, seed: int) -> Array:
    """The largest variance on each flow as a share of what the theory allows at that time, (flows,)."""
    policy, r = draws(flows, 10, seed)
    path = rlhf.gradient_flow(policy, r, t_max=4.0)
    limit = torch.stack([torch.as_tensor(bounds.variance(t, path.var[0], tabular=True)) for t in path.t])
    return (path.var / limit).amax(0).numpy()


@dataclass(frozen=True)
class Waits:
    """Times to a gain of 0.2 against reward variances, (flows, families' members) each.

    Attributes:
        variance, time: of the rewards, and until the gain is reached, inf if never.
        bound: before which it cannot be.
    """

    variance: Array
    time: Array
    bound: Array

    @classmethod
    def of(cls, policy: rlhf.SoftmaxPolicy, r_rm: Tensor, r_g: Tensor, gamma: float = 0.2) -> "Waits":
        """Of policies, proxies and ground truths (flows, members, K)."""
        time = rlhf.time_to_gain(policy, r_rm, r_g, gamma, patience=_PATIENCE)
        variance = policy.variance(r_rm)
        bound = bounds.time_lower(variance, gamma, tabular=True)
        return cls(variance.numpy(), torch.as_tensor(time).numpy(), torch.as_tensor(bound).numpy())

    def slopes(self) -> Array:
        """Of the log of the time on the log of the variance, one a flow."""
        x, y = np.log(self.variance), np.log(self.time)
        x = x - x.mean(1, keepdims=True)
        return (x * y).sum(1) / (x * x).sum(1)


def scaled_rewards(flows: int, seed: int) -> Waits:
    """The ground truth itself, multiplied by each of SCALES."""
    policy, r_g = draws(flows, 10, seed)
    spread = r_g[:, None] * torch.tensor(SCALES, dtype=torch.float64)[:, None]
    return Waits.of(_repeated(policy, len(SCALES)), spread, r_g[:, None].expand_as(spread))


def noisy_rewards(flows: int, seed: int) -> Waits:
    """Proxies of the ground truth with more and more noise."""
    policy, r_g = draws(flows, 10, seed)
    noise = draws(flows, 10, seed + 1)[1]
    proxies = torch.stack([((1 - w) * r_g + w * noise) for w in (0.1, 0.3, 0.5, 0.7)], 1)
    return Waits.of(_repeated(policy, 4), proxies, r_g[:, None].expand_as(proxies))


def rare_output(flows: int, seed: int) -> Waits:
    """One good output of each of the probabilities RARE, the others random."""
    policy, _ = draws(flows, 10, seed)
    rest = policy.probs()[:, 1:] / policy.probs()[:, 1:].sum(1, keepdim=True)
    p = torch.stack([torch.cat([torch.full((flows, 1), rare), rest * (1 - rare)], 1) for rare in RARE], 1)
    r = constructions.one_output(10, 0).expand_as(p)
    return Waits.of(rlhf.SoftmaxPolicy(p.log()), r, r)


def perfect_and_fast(flows: int, seed: int, gamma: float = 0.3) -> dict[str, Array]:
    """Theorem 2: "perfect" (flows, T) times with r_G / T, "fast" (flows,) times with a reward model that is right about
    one output alone, "upper" (flows,) its bounds, "accuracy" (flows,) its accuracies."""
    policy, r_g = draws(flows, 16, seed)
    p, value = policy.probs(), policy.expected(r_g)
    best = r_g.argmax(1)
    wrong = torch.stack([constructions.inaccurate_fast(r, int(y)) for r, y in zip(r_g, best, strict=True)])
    perfect = r_g[:, None] / torch.tensor(DIVISORS, dtype=torch.float64)[:, None]
    chosen, top = p.gather(1, best[:, None])[:, 0], r_g.amax(1)
    upper = [
        bounds.time_upper_inaccurate(float(a), bounds.ratio(float(v), gamma, float(t)))
        if float(a) < bounds.ratio(float(v), gamma, float(t))
        else 0.0
        for a, v, t in zip(chosen, value, top, strict=True)
    ]
    times = rlhf.time_to_gain(
        _repeated(policy, len(DIVISORS)), perfect, r_g[:, None].expand_as(perfect), gamma, patience=_PATIENCE
    )
    fast = rlhf.time_to_gain(policy, wrong, r_g, gamma, patience=_PATIENCE)
    accuracy = [rlhf.ranking_accuracy(a, b) for a, b in zip(wrong, r_g, strict=True)]
    return {
        "perfect": torch.as_tensor(times).numpy(),
        "fast": torch.as_tensor(fast).numpy(),
        "upper": np.array(upper),
        "accuracy": np.array(accuracy),
    }


def swaps(flows: int, seed: int, gamma: float = 0.2) -> Array:
    """Theorem 3: times to a gain, (flows, 2 initial policies, 2 reward models).

    Each policy has probability 0.2 at one of the two best outputs and 1/900 at the other; each reward model likes one,
    policy and model of one index the same.
    """
    generator = torch.Generator().manual_seed(seed)
    policies, models, truths = [], [], []
    for _ in range(flows):
        r_g = 1.2 * torch.rand(12, generator=generator, dtype=torch.float64) - 1
        r_g[:2] = 0.6 + 0.4 * torch.rand(2, generator=generator, dtype=torch.float64)
        pair = constructions.policy_pair(-0.2, 0.2, 30.0, r_g=r_g, y=(0, 1))
        policies += [pair[0], pair[0], pair[1], pair[1]]
        models += [constructions.one_output(12, y) for y in (0, 1, 0, 1)]
        truths += [r_g] * 4
    policy = rlhf.SoftmaxPolicy(torch.stack(policies).log())
    times = rlhf.time_to_gain(policy, torch.stack(models), torch.stack(truths), gamma, patience=_PATIENCE)
    return torch.as_tensor(times).view(flows, 2, 2).numpy()


def best_of_n_margins(instances: int, seed: int, rivals: int = 50) -> Array:
    """E r_G of the best of four by the best of `rivals` random reward models, less that by the perfect one / 1000."""
    policy, r_g = draws(instances, 20, seed)
    p, perfect = policy.probs(), rlhf.best_of_n(policy.probs(), r_g / 1000, r_g, 4)
    generator = torch.Generator().manual_seed(seed + 1)
    noise = torch.rand(rivals, *r_g.shape, generator=generator, dtype=torch.float64)
    found = torch.stack([torch.as_tensor(rlhf.best_of_n(p, r_g + 2 * n, r_g, 4)) for n in noise])
    return (found.amax(0) - torch.as_tensor(perfect)).numpy()


def slices(seed: int, span: float = 3.0, n: int = 31) -> dict[str, flatness.Plane]:
    """Expected reward over a plane of logits, less that of its middle, for three reward models of sixteen outputs.

    The plane is spanned by the gradients of the first and of the last one's mean, the latter at a right angle.
    """
    policy, truth = draws(1, 16, seed)
    logits, r_g = policy.theta[0], truth[0]
    rewards = {"r_G": r_g, "r_G / 10": r_g / 10, "one output": constructions.inaccurate_fast(r_g, int(r_g.argmax()))}
    ahead, aside = (rlhf.SoftmaxPolicy(logits).gradient(rewards[name]) for name in ("r_G", "one output"))
    aside = aside - ahead * (aside @ ahead) / (ahead @ ahead)
    planes = {}
    for name, r in rewards.items():
        start = rlhf.SoftmaxPolicy(logits)
        label = f"{name}\naccuracy {rlhf.ranking_accuracy(r, r_g):.2f}, variance {float(start.variance(r)):.3f}"
        landscape = flatness.over_tensors(_gain(r, start), logits)
        planes[label] = flatness.loss_surface(landscape, ahead / ahead.norm(), aside / aside.norm(), span, n=n)
    return planes


def _gain(r: Tensor, start: rlhf.SoftmaxPolicy) -> flatness.landscape.Function:
    before = float(start.expected(r))
    return lambda theta: theta.softmax(0) @ r - before


def _repeated(policy: rlhf.SoftmaxPolicy, members: int) -> rlhf.SoftmaxPolicy:
    """(flows, K) policies as (flows, members, K)."""
    return rlhf.SoftmaxPolicy(policy.theta[:, None].expand(-1, members, -1))
