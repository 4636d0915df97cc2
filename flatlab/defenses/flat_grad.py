"""Regularization towards a flat likelihood landscape, by its gradient (our definition).

    L = CE + lambda mean |grad_x LSE f(x)|_2^2,    grad_x LSE f = J^T p

The limit of `flat_rand` for small steps: E_d (d^T g)^2 = |g|_2^2 for random signs d.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.defenses.penalty import Penalty


@dataclass(kw_only=True, eq=False)
class FlatGrad(Penalty):
    """Cross-entropy plus the squared norm of the gradient of the log-density. Ignores `eps`.

    Args:
        weight: lambda.
    """

    weight: float = 0.1

    name = "flat_grad"

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            logits = model(point)
            (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), point, create_graph=True)
        return F.cross_entropy(logits, y) + self.weight * gradient.flatten(1).square().sum(1).mean()
