"""Fast adversarial training (Wong, Rice, Kolter 2020).

    L = CE(f(x + delta), y),  delta = clip(delta_0 + alpha eps sign grad CE(f(x + delta_0), y)),  delta_0 ~ U(-eps, eps)

with clip to the ball and to [0, 1]. The paper takes alpha = 1.25; much larger steps, a start at zero or long training
lead to catastrophic overfitting: full accuracy against one step and none against many.

The official code attacks in train mode, with the batch statistics of BatchNorm; here the attack runs in eval mode.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.defenses._inner import cross_entropy_attack
from flatlab.defenses.base import Defense


@dataclass(kw_only=True, eq=False)
class FgsmAt(Defense):
    """Cross-entropy after one signed gradient step from a random start.

    Args:
        alpha: step size in units of eps.
    """

    alpha: float = 1.25

    name = "fgsm_at"
    neutral: ClassVar = {"eps": 0.0}

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive("alpha", self.alpha)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        x_adv = cross_entropy_attack(model, x, y, eps=eps, steps=1, alpha=self.alpha, rng=self.rng)
        return F.cross_entropy(model(x_adv), y)
