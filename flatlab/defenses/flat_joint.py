"""Regularization towards a flat joint density p(x, y) for every y (our definition).

    L = CE + lambda mean |f(x + eps d) - f(x)|_2^2,    d uniform on {-1, +1}^D

Adding one function g(x) to all logits changes the likelihood landscape and leaves the classifier as it is, so that a
penalty on LSE f can be met without changing a single prediction. A penalty on every logit cannot.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.defenses._inner import rademacher_like
from flatlab.defenses.penalty import Penalty


@dataclass(kw_only=True, eq=False)
class FlatJoint(Penalty):
    """Cross-entropy plus the squared change of all logits along a random direction, not clipped to [0, 1].

    Args:
        weight: lambda.
    """

    weight: float = 0.3

    name = "flat_joint"

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        moved = model(x + eps * rademacher_like(x, self.rng))
        logits = model(x)
        return F.cross_entropy(logits, y) + self.weight * (moved - logits).square().sum(1).mean()
