"""Standard training: L = CE(f(x), y)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.defenses.base import Defense


@dataclass(kw_only=True, eq=False)
class Std(Defense):
    """No defense: what the others are compared with. Ignores `eps`."""

    name = "std"

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        return F.cross_entropy(model(x), y)
