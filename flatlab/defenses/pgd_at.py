"""Adversarial training with projected gradient descent (Madry et al. 2018).

    L = CE(f(x'), y),   x' = approximate argmax of CE(f(x'), y) over |x' - x|_inf <= eps, x' in [0, 1]^D

Widely used code attacks in train mode; here the attack runs in eval mode, so that BatchNorm neither mixes samples nor
averages over the attack's iterates.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.defenses._inner import cross_entropy_attack
from flatlab.defenses.base import Defense


@dataclass(kw_only=True, eq=False)
class PgdAt(Defense):
    """Cross-entropy at the end of a projected ascent from a random start.

    Args:
        steps: gradient steps of the attack.
        alpha: length of its path in units of eps; each step has size alpha * eps / steps.
    """

    steps: int = 7
    alpha: float = 2.5

    name = "pgd_at"
    neutral: ClassVar = {"eps": 0.0}

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least("steps", self.steps, 1)
        checks.positive("alpha", self.alpha)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        x_adv = cross_entropy_attack(model, x, y, eps=eps, steps=self.steps, alpha=self.alpha, rng=self.rng)
        return F.cross_entropy(model(x_adv), y)
