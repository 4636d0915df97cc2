"""What IRM, VREx, CORAL, MMD and Fishr share: the mean loss over domains plus a weighted penalty.

    L = mean_e L_e + w P        w = lam after `anneal` steps, min(lam, 1) before

As in DomainBed (Gulrajani and Lopez-Paz 2021), the optimizer forgets its moments when w jumps.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab import checks
from flatlab.dg.base import Batch, features_and_logits
from flatlab.dg.erm import ERM


@dataclass(eq=False, repr=False, kw_only=True)
class Penalised(ERM):
    """Mean loss over domains plus a penalty.

    Args:
        lam: weight of the penalty, >= 0.
        anneal: steps in which the weight is at most 1.
    """

    lam: float = 1.0
    anneal: int = 0

    neutral: ClassVar = {"lam": 0.0}

    def __post_init__(self) -> None:
        checks.nonnegative("lam", self.lam)
        checks.at_least("anneal", self.anneal, 0)
        super().__post_init__()

    @abstractmethod
    def penalty(self, losses: Tensor, features: list[Tensor], logits: list[Tensor], y: list[Tensor]) -> Tensor:
        """P, a scalar, of the losses of E domains (E,), and of each domain's features, logits and labels.

        Args:
            losses: (E,).
            features: E tensors (n, d). logits: E tensors (n, C). y: E tensors (n,).
        """

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        if self.steps == self.anneal and self.lam > 1:
            self._optimizer.state.clear()
        features, logits = features_and_logits(self.trained, batch.x)
        losses = domain_losses(logits, batch)
        weight = self.lam if self.steps >= self.anneal else min(self.lam, 1.0)
        parts = (tensor.split(batch.sizes) for tensor in (features, logits, batch.y))
        penalty = self.penalty(losses, *(list(part) for part in parts))
        return {"loss": losses.mean() + weight * penalty, "penalty": penalty}


def domain_losses(logits: Tensor, batch: Batch) -> Tensor:
    """The cross-entropy of each domain, (E,)."""
    each = F.cross_entropy(logits, batch.y, reduction="none")
    return torch.stack([part.mean() for part in each.split(batch.sizes)])


def over_pairs(values: list[Tensor], like: Tensor) -> Tensor:
    """The mean of the numbers of all pairs of domains, 0 if there is but one domain."""
    return torch.stack(values).mean() if values else torch.zeros_like(like)
