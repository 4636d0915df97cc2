"""The second step of RLHF: pairs of answers that a gold reward orders, and a reward model that learns the order.

The reward is a linear function of the trunk's hidden states, averaged over the whole text or taken at its last token.
Averaged over the response alone, reward models of very different data would have one and the same variance.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.data import Windows
from flatlab.models.language import beginnings, codes
from flatlab.rlhf.losses import bradley_terry_loss
from flatlab.train import Recipe, fit

Gold = Callable[[Tensor], Tensor]


class RewardModel(nn.Module):
    """A trunk and a linear head: texts (N, T), or prompts (N, P) and responses (N, T), -> rewards (N,).

    Args:
        trunk: a `flatlab.models.language.LanguageModel`, of which a copy is taken; its own head stays unused.
        pool: "mean" over the text, or its "last" token.
        pad: token that counts for nothing, or None.
        seed: of the head's weights.
    """

    def __init__(self, trunk: nn.Module, *, pool: str = "mean", pad: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self.pool, self.pad = checks.one_of("pool", pool, ("mean", "last")), pad
        lm: Any = trunk
        self.trunk, width = copy.deepcopy(lm), int(lm.width)
        like = next(trunk.parameters())
        self.score = nn.Linear(width, 1).to(like.device, torch.promote_types(like.dtype, torch.float32))
        draws = torch.randn(width, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            self.score.weight.copy_(draws / math.sqrt(width + 1))
            self.score.bias.zero_()

    def forward(self, prompts: Tensor, responses: Tensor | None = None) -> Tensor:
        tokens = prompts if responses is None else torch.cat([prompts, responses], 1)
        codes("tokens", tokens, self.trunk)
        hidden = self.trunk.hidden(tokens, starts=beginnings(tokens, self.pad)).to(self.score.weight.dtype)
        used = torch.ones_like(tokens) if self.pad is None else (tokens != self.pad).long()
        if self.pool == "last":
            last = (used * torch.arange(1, tokens.shape[1] + 1, device=tokens.device)).argmax(1)
            return self.score(hidden[torch.arange(len(tokens)), last])[:, 0]
        return (self.score(hidden)[:, :, 0] * used).sum(1) / used.sum(1)


def preference_pairs(on: Tensor, off: Tensor, gold: Gold, on_policy_fraction: float, seed: int) -> Tensor:
    """Two texts of each prompt, the better one first: from `on` for a fraction of the prompts, else from `off`.

    One permutation (of `seed`) decides which prompts; a larger fraction takes those of a smaller one and more. Ties
    stay, in the order that they came in.

    Args:
        on: (P, 2, T) int64, two texts a prompt, prompt included, sampled from the policy.
        off: (P, 2, T) int64, two texts from elsewhere.
        gold: texts (N, T) -> rewards (N,).
        on_policy_fraction: of the prompts, in [0, 1].
        seed: of the permutation.

    Returns:
        (P, 2, T), chosen and rejected.
    """
    if on.shape != off.shape or on.ndim != 3 or on.shape[1] != 2 or not on.numel():
        raise ValueError(f"on and off must both be (P, 2, T), got {tuple(on.shape)} and {tuple(off.shape)}")
    if not 0 <= on_policy_fraction <= 1:
        raise ValueError(f"on_policy_fraction must lie in [0, 1], got {on_policy_fraction}")
    order = torch.randperm(len(on), generator=torch.Generator().manual_seed(seed))
    pairs = off.clone()
    chosen = order[: round(on_policy_fraction * len(on))].to(on.device)
    pairs[chosen] = on[chosen]
    rewards = judged("gold", gold(pairs.flatten(0, 1)), 2 * len(pairs)).view(-1, 2)
    swap = rewards[:, 1] > rewards[:, 0]
    pairs[swap] = pairs[swap].flip(1)
    return pairs


def judged(name: str, rewards: Tensor, count: int) -> Tensor:
    """Return what a reward function gave for `count` texts, or raise ValueError unless it is (count,) and finite."""
    values = torch.as_tensor(rewards)
    if values.shape != (count,):
        raise ValueError(f"{name} must return one number for each of {count} texts, got shape {tuple(values.shape)}")
    if not values.isfinite().all():
        row = int((~values.isfinite()).nonzero()[0])
        raise ValueError(f"{name} returned {float(values[row])} for text {row}: every text needs a finite reward")
    return values


def train_reward_model(
    pairs: Tensor,
    init: nn.Module,
    center: float = 0.01,
    margin: Tensor | float | None = None,
    *,
    recipe: Recipe | None = None,
    seed: int = 0,
    pool: str = "mean",
    pad: int | None = None,
) -> RewardModel:
    """A reward model that starts from the trunk of `init` and learns Bradley-Terry's loss on pairs.

    Args:
        pairs: (P, 2, T) int64, chosen and rejected.
        init: a language model, usually the finetuned one; it stays as it is.
        center: weight of the term that fixes the offset, see `bradley_terry_loss`.
        margin: by how much the chosen one should win, a number or (P,).
        recipe: of training; by default one epoch of AdamW at 1e-3 in batches of 64.
        seed: of the head and the order of the pairs.
        pool, pad: see `RewardModel`.

    Returns:
        The model in eval mode.
    """
    if pairs.ndim != 3 or pairs.shape[1] != 2 or not pairs.numel():
        raise ValueError(f"pairs must be (P, 2, T) with P >= 1, got {tuple(pairs.shape)}")
    wanted = torch.as_tensor(0.0 if margin is None else margin)
    if wanted.ndim and wanted.shape != (len(pairs),):
        raise ValueError(f"margin must be a number or ({len(pairs)},), got {tuple(wanted.shape)}")
    margins = wanted.expand(len(pairs)).to(pairs.device)

    def objective(net: nn.Module, x: Tensor, y: Tensor, step_fraction: float = 1.0) -> Tensor:
        rewards = net(x.flatten(0, 1)).view(-1, 2)
        return bradley_terry_loss(rewards[:, 0], rewards[:, 1], center, margins[y])

    model = RewardModel(init, pool=pool, pad=pad, seed=seed)
    how = recipe or Recipe(epochs=1, batch_size=64, lr=1e-3, optimizer=torch.optim.AdamW, schedule="constant")
    fit(model, Windows(pairs, torch.arange(len(pairs))), objective, how, seeds=seed)
    return model
