"""Training on random corners of the ball: L = CE(f(x + eps d), y), d uniform on {-1, +1}^D.

The control for adversarial training: perturbations of the same size without their direction.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.defenses._inner import rademacher_like
from flatlab.defenses.base import Defense


@dataclass(kw_only=True, eq=False)
class Noise(Defense):
    """Cross-entropy at x + eps d, with a fresh direction for every sample and step.

    The noisy input is not clipped to [0, 1]: most pixels of a digit are at the edge of the box, where clipping
    would remove half of the noise.
    """

    name = "noise"
    neutral: ClassVar = {"eps": 0.0}

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        return F.cross_entropy(model(x + eps * rademacher_like(x, self.rng)), y)
