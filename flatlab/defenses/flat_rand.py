"""Regularization towards a flat likelihood landscape, along random directions (our definition).

    L = CE + lambda mean [LSE f(x + a d) - LSE f(x)]^2,    a ~ U(0, eps),   d uniform on {-1, +1}^D

with a fresh direction and length for every sample and step, and gradients through both terms. For small a the penalty
divided by a^2 is that of `flat_grad`. Like the measure of flatness it does not clip the perturbed input to [0, 1].
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.defenses._inner import per_sample, rademacher_like
from flatlab.defenses.penalty import Penalty


@dataclass(kw_only=True, eq=False)
class FlatRand(Penalty):
    """Cross-entropy plus the squared change of the log-density along a random direction.

    Args:
        weight: lambda.
    """

    weight: float = 10.0

    name = "flat_rand"

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        length = per_sample(self.rng.uniform((len(x),)).to(x), x) * eps
        moved = model(x + length * rademacher_like(x, self.rng))
        logits = model(x)
        change = moved.logsumexp(1) - logits.logsumexp(1)
        return F.cross_entropy(logits, y) + self.weight * change.square().mean()
