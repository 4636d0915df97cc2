"""Local linearity regularization, LLR (Qin et al. 2019).

    g(delta) = |CE(x + delta) - CE(x) - delta^T grad CE(x)|,    delta* = approximate argmax of g over the ball
    L = CE(x) + lambda g(delta*) + mu |delta*^T grad CE(x)|

The first term asks for a loss that is linear within the ball, the second for a small slope along delta*. Gradients flow
through grad CE(x) too (double backpropagation).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.defenses._inner import ascend, uniform_like, value_and_gradient
from flatlab.defenses.penalty import Penalty
from flatlab.modes import evaluating


@dataclass(kw_only=True, eq=False)
class Llr(Penalty):
    """Cross-entropy plus its distance from its own linearization, and the slope of that.

    Args:
        weight: lambda, of the distance from linearity.
        mu: weight of the slope.
        steps: gradient steps of the search for delta*, from a uniform random start.
        alpha: length of its path in units of eps.
    """

    weight: float = 4.0
    mu: float = 3.0
    steps: int = 2
    alpha: float = 2.5

    name = "llr"
    neutral: ClassVar = {"weight": 0.0, "mu": 0.0}

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.nonnegative("mu", self.mu)
        checks.at_least("steps", self.steps, 1)
        checks.positive("alpha", self.alpha)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        def ce(point: Tensor) -> Tensor:
            return F.cross_entropy(model(point), y, reduction="none")

        with evaluating(model):
            fixed_value, fixed_slope = value_and_gradient(ce, x, create_graph=False)
        fixed_value = fixed_value.detach()

        def distance(point: Tensor) -> Tensor:
            return (ce(point) - fixed_value - _dot(point - x, fixed_slope)).abs()

        start = uniform_like(x, self.rng).mul_(eps)
        x_adv = ascend(model, x, distance, eps=eps, steps=self.steps, alpha=self.alpha, start=start)
        value, slope = value_and_gradient(ce, x)
        linear = _dot(x_adv - x, slope)
        return (value + self.weight * (ce(x_adv) - value - linear).abs() + self.mu * linear.abs()).mean()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample, (N, ...) -> (N,)."""
    return (a * b).flatten(1).sum(1)
