"""TRADES (Zhang et al. 2019).

    L = CE(f(x), y) + beta KL(p(.|x) || p(.|x')),   x' = approximate argmax of that KL over the ball

In the energy reading, with E(x, y) = -f_y(x) and E(x) = -LSE f(x), the second term aligns energies:

    KL(p(.|x) || p(.|x')) = sum_y p(y|x) [E(x', y) - E(x, y)] + E(x) - E(x')

The attack starts at x + 0.001 N(0, 1), since the gradient of KL vanishes at x, and runs in eval mode; the loss is
differentiated through both arguments of the KL. All of this is as in the official code, whose radius of .031 with 10
steps of .007 makes a path of 2.26 radii.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.defenses._inner import ascend
from flatlab.defenses.base import Defense
from flatlab.modes import evaluating
from flatlab.rng import SeedGenerators
from flatlab.samplers import normal_like


@dataclass(kw_only=True, eq=False)
class Trades(Defense):
    """Cross-entropy plus beta times the divergence of the prediction within the ball.

    Args:
        beta: weight of the divergence.
        steps: gradient steps of the attack.
        alpha: length of its path in units of eps.
    """

    beta: float = 6.0
    steps: int = 7
    alpha: float = 2.5

    name = "trades"
    neutral: ClassVar = {"beta": 0.0}

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.nonnegative("beta", self.beta)
        checks.at_least("steps", self.steps, 1)
        checks.positive("alpha", self.alpha)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        x_adv = divergence_attack(model, x, eps=eps, steps=self.steps, alpha=self.alpha, rng=self.rng)
        clean, adversarial = model(x), model(x_adv)
        return F.cross_entropy(clean, y) + self.beta * divergence(clean, adversarial).mean()


def divergence(logits: Tensor, other: Tensor) -> Tensor:
    """KL(softmax(logits) || softmax(other)) of each row, (N, C) -> (N,)."""
    return F.kl_div(other.log_softmax(1), logits.log_softmax(1), reduction="none", log_target=True).sum(1)


def divergence_attack(
    model: nn.Module, x: Tensor, *, eps: float, steps: int, alpha: float, rng: SeedGenerators
) -> Tensor:
    """Inputs (N, ...) within eps of x where the prediction diverges most from that at x.

    Args:
        model: (N, ...) in [0, 1] -> logits (N, C).
        x: inputs (N, ...) in [0, 1].
        eps, steps, alpha: as in `flatlab.defenses._inner.ascend`.
        rng: of the start.
    """
    with evaluating(model), torch.no_grad():
        target = model(x).softmax(1)

    def objective(point: Tensor) -> Tensor:
        # The KL up to its entropy term, which does not depend on the point.
        return F.cross_entropy(model(point), target, reduction="none")

    start = normal_like(x, rng).mul_(1e-3)
    return ascend(model, x, objective, eps=eps, steps=steps, alpha=alpha, start=start)
