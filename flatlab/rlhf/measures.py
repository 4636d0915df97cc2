"""What is said about a reward model before training with it: how much it varies, and how well it ranks.

Definitions 1 and 2 of Razin et al. 2025, of rewards (prompts, k) of k outputs a prompt. Rewards are first standardized
over all prompts and outputs together. By the law of total variance the reward variance is then the share of the reward
model's variance that lies within prompts: it does not change under r -> a r + b, and falls to 0 as offsets of whole
prompts grow, which leave the accuracy as it is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from flatlab import checks
from flatlab.rlhf import arguments


@dataclass(frozen=True)
class RewardNormalizer:
    """r -> (r + shift) scale, in the precision of r.

    Args:
        shift: minus the mean.
        scale: one over the standard deviation.
    """

    shift: float
    scale: float

    @classmethod
    def fit(cls, rewards: Tensor, *, within: bool = False, ddof: int = 1) -> "RewardNormalizer":
        """The normalizer of rewards (prompts, k), one mean and one deviation for all; ValueError for a constant model.

        Args:
            rewards: (prompts, k).
            within: whether to divide by the root of the mean variance within prompts instead of that of the whole.
            ddof: 1 for unbiased variances, 0 for those of the rewards as a population.
        """
        r = _table("rewards", rewards)
        variance = float(_variances(r, ddof).mean() if within else _variances(r.reshape(1, -1), ddof))
        if variance <= (1e-12 * float(r.abs().max())) ** 2:
            raise ValueError(f"reward model is constant{' within prompts' * within}: it cannot be standardized")
        return cls(-float(r.mean()), variance**-0.5)

    def transform(self, r: Tensor) -> Tensor:
        """Rewards of any shape, standardized."""
        return (r + self.shift) * self.scale

    def state_dict(self) -> dict[str, float]:
        """Its two numbers: `RewardNormalizer(**state)` is the same again."""
        return {"shift": self.shift, "scale": self.scale}


def prompt_variances(rewards: Tensor, *, normalize: bool = True, ddof: int = 1) -> Tensor:
    """The variance of the rewards of each prompt, (prompts,).

    Args:
        rewards: (prompts, k).
        normalize: whether to standardize them together first.
        ddof: 1 for unbiased variances, 0 for those of the rewards as a population.
    """
    r = _table("rewards", rewards)
    return _variances(RewardNormalizer.fit(r, ddof=ddof).transform(r) if normalize else r, ddof)


def reward_variance(rewards: Tensor, *, normalize: bool = True, ddof: int = 1) -> float:
    """Reward variance (Definition 2) from k samples a prompt: the mean of the variances, see `prompt_variances`."""
    return float(prompt_variances(rewards, normalize=normalize, ddof=ddof).mean())


def within_share(rewards: Tensor) -> float:
    """The share of the variance of rewards (prompts, k) that lies within prompts, in [0, 1]."""
    return reward_variance(rewards, ddof=0)


def prompt_accuracies(
    rm_rewards: Tensor, gold_rewards: Tensor, pairs: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """The ranking accuracy of each prompt, (prompts,).

    Args:
        rm_rewards, gold_rewards: (prompts, k).
        pairs: (m, 2) indices of two outputs each; None takes all of the k (k - 1) / 2.
        weights: (m,) or (prompts, m) of the pairs, >= 0; None weighs them alike.
    """
    rm, gold = _table("rm_rewards", rm_rewards), _table("gold_rewards", gold_rewards)
    if rm.shape != gold.shape:
        raise ValueError(f"both rewards need one shape, got {tuple(rm.shape)} and {tuple(gold.shape)}")
    index = torch.combinations(torch.arange(rm.shape[1]), 2) if pairs is None else torch.as_tensor(pairs)
    if index.ndim != 2 or index.shape[1] != 2 or not len(index) or not 0 <= index.min() <= index.max() < rm.shape[1]:
        raise ValueError(f"pairs must be (m, 2) indices 0..{rm.shape[1] - 1} with m >= 1, got {tuple(index.shape)}")
    first, second = index.T.to(rm.device)
    right = (rm[:, first] - rm[:, second]).sign() == (gold[:, first] - gold[:, second]).sign()
    weight = arguments.rewards("weights", torch.ones(len(index)) if weights is None else weights, len(index))
    if float(weight.min()) < 0 or float(weight.sum(-1).min()) <= 0:
        raise ValueError("weights must be >= 0, and some of every prompt's > 0")
    return (right * weight).sum(1) / weight.sum(-1)


def ranking_accuracy(
    rm_rewards: Tensor, gold_rewards: Tensor, pairs: Tensor | None = None, weights: Tensor | None = None
) -> float:
    """Accuracy (Definition 1): the share of pairs of outputs that both rewards order alike, averaged over the prompts.

    A tie in one of the two is wrong, a tie in both is right. For the accuracy under a policy, weigh each pair by the
    product of its probabilities; for one prompt, rewards may be (k,). The other arguments are those of
    `prompt_accuracies`.
    """
    rm, gold = torch.as_tensor(rm_rewards), torch.as_tensor(gold_rewards)
    return float(prompt_accuracies(torch.atleast_2d(rm), torch.atleast_2d(gold), pairs, weights).mean())


def _table(name: str, values: Tensor) -> Tensor:
    r = arguments.rewards(name, values)
    if r.ndim != 2 or r.shape[1] < 2:
        raise ValueError(f"{name} must have shape (prompts, k) with k >= 2 outputs a prompt, got {tuple(r.shape)}")
    return r


def _variances(r: Tensor, ddof: int) -> Tensor:
    checks.one_of("ddof", str(ddof), ("0", "1"))
    return ((r - r.mean(1, keepdim=True)) ** 2).sum(1) / (r.shape[1] - ddof)
