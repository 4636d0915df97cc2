"""Weighted energy adversarial training, WEAT (Mirza et al. 2024): TRADES with a weight per sample.

    L = mean_x w(x) [CE + beta KL(p(.|x) || p(.|x'))],    w(x) = 1 / log(1 + exp |E(x)|),   E(x) = -LSE f(x)

The weights are detached. CE is taken at x (the paper's WEAT_nat, beta 6) or at x' (WEAT_adv, beta 7). Small |E| weighs
most; samples of higher energy weigh more only where E < 0, as it is for trained classifiers.

The official code computes exp |E|, which overflows for |E| > 88 in single precision and drops the sample; softplus
gives the same weight and does not.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.defenses.base import Defense
from flatlab.defenses.trades import divergence, divergence_attack


@dataclass(kw_only=True, eq=False)
class Weat(Defense):
    """TRADES whose samples are weighted by their energy.

    Args:
        beta: weight of the divergence.
        steps: gradient steps of the attack.
        alpha: length of its path in units of eps.
        at: where the cross-entropy is taken, "natural" or "adversarial".
        power: exponent of the weight: 1 is the paper's, 0 gives every sample the weight 1.
    """

    beta: float = 6.0
    steps: int = 7
    alpha: float = 2.5
    at: str = "natural"
    power: float = 1.0

    name = "weat"
    neutral: ClassVar = {"beta": 0.0, "power": 0.0}

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.nonnegative("beta", self.beta)
        checks.at_least("steps", self.steps, 1)
        checks.positive("alpha", self.alpha)
        checks.one_of("at", self.at, ("natural", "adversarial"))
        checks.nonnegative("power", self.power)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        x_adv = divergence_attack(model, x, eps=eps, steps=self.steps, alpha=self.alpha, rng=self.rng)
        clean, adversarial = model(x), model(x_adv)
        energy = -clean.detach().logsumexp(1)
        weight = F.softplus(energy.abs()).pow(-self.power)
        fit = F.cross_entropy(clean if self.at == "natural" else adversarial, y, reduction="none")
        return (weight * (fit + self.beta * divergence(clean, adversarial))).mean()
