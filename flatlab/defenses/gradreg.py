"""Gradient regularization: adversarial training to first order.

    L = CE + lambda eps |grad_x CE|_1

since max over |delta|_inf <= eps of CE(x + delta) = CE(x) + eps |grad_x CE|_1 + O(eps^2). The double backpropagation
goes back to Drucker and LeCun (1992); the L1 norm is the one dual to L_inf.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.defenses._inner import value_and_gradient
from flatlab.defenses.penalty import Penalty


@dataclass(kw_only=True, eq=False)
class GradReg(Penalty):
    """Cross-entropy plus its first-order growth within the ball.

    Args:
        weight: lambda; 1 is the first-order expansion of adversarial training.
    """

    weight: float = 1.0

    name = "gradreg"

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        ce, gradient = value_and_gradient(lambda point: F.cross_entropy(model(point), y, reduction="none"), x)
        return (ce + self.weight * eps * gradient.flatten(1).abs().sum(1)).mean()
