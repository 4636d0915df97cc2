"""Regularization towards a flat likelihood landscape, in the worst direction (our definition).

    L = CE + lambda mean |LSE f(x*) - LSE f(x)|,    x* = approximate argmax of |LSE f(x') - LSE f(x)| over the ball

x* is detached; gradients flow through both densities. The attack runs in eval mode, and within [0, 1].
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.defenses._inner import ascend, uniform_like
from flatlab.defenses.penalty import Penalty
from flatlab.modes import evaluating


@dataclass(kw_only=True, eq=False)
class FlatAdv(Penalty):
    """Cross-entropy plus the largest change of the log-density that a short attack finds.

    Args:
        weight: lambda.
        steps: gradient steps of the attack, from a uniform random start.
        alpha: length of its path in units of eps.
    """

    weight: float = 1.0
    steps: int = 3
    alpha: float = 2.5

    name = "flat_adv"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least("steps", self.steps, 1)
        checks.positive("alpha", self.alpha)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        with evaluating(model), torch.no_grad():
            centre = model(x).logsumexp(1)

        def change(point: Tensor) -> Tensor:
            return (model(point).logsumexp(1) - centre).abs()

        start = uniform_like(x, self.rng).mul_(eps)
        worst = ascend(model, x, change, eps=eps, steps=self.steps, alpha=self.alpha, start=start)
        logits = model(x)
        largest = (model(worst).logsumexp(1) - logits.logsumexp(1)).abs()
        return F.cross_entropy(logits, y) + self.weight * largest.mean()
