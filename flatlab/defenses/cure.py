"""Curvature regularization, CURE (Moosavi-Dezfooli et al. 2019).

    L = CE + lambda |grad CE(x + h z) - grad CE(x)|_2^2,    z = sign grad CE(x) / |sign grad CE(x)|_2

The paper's h = 1.5 for 32x32x3 inputs moves each pixel by 1.5 / sqrt(3072) = 0.027, close to the radius 8/255; here the
distance is given in radii, h_paper = h eps sqrt(D), so that it carries over to other sizes and to an eps that grows.

The official code penalizes the norm and not its square, and puts the network into eval mode for this term; here both
terms share one forward pass at x, in the mode the network is in. The point x + h z is not clipped to [0, 1] in either.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.defenses._inner import value_and_gradient
from flatlab.defenses.penalty import Penalty


@dataclass(kw_only=True, eq=False)
class Cure(Penalty):
    """Cross-entropy plus the change of its gradient along the direction that an attack would take.

    Args:
        weight: lambda; the paper takes 4 on CIFAR-10, 8x8 digits lose clean accuracy above .1.
        h: how far to go along the sign of the gradient, in units of eps.
    """

    weight: float = 0.03
    h: float = 1.0

    name = "cure"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive("h", self.h)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        def per_sample_loss(point: Tensor) -> Tensor:
            return F.cross_entropy(model(point), y, reduction="none")

        ce, gradient = value_and_gradient(per_sample_loss, x)
        _, ahead = value_and_gradient(per_sample_loss, x + self.h * eps * gradient.detach().sign())
        return (ce + self.weight * (ahead - gradient).flatten(1).square().sum(1)).mean()
