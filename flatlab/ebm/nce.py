"""Noise-contrastive estimation, NCE (Gutmann and Hyvärinen 2010): logistic regression of data against noise.

    G(x) = f(x) - c - log q(x),        nu = draws of noise for each data point
    L = -mean log s(G(x) - log nu) - nu mean log s(log nu - G(y)),        s(u) = 1 / (1 + exp(-u))

The minimum is at exp(f - c) = p*: c is a learned log Z, trained with the model. Its landscape is exponentially flat in
the distance of data and noise, which the study shows.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.ebm.base import NoiseLoss


@dataclass(eq=False)
class NCELoss(NoiseLoss):
    """NCE; its arguments are those of `NoiseLoss`, and:

    Args:
        nu: draws of noise for each data point; None takes n_noise over the size of the batch.
        log_z: learn c, one number a network in `.c` (S, 1), which belongs to `parameters()`; otherwise f is taken as
            normalized (c = 0), as it can be where the model has a free constant.
    """

    nu: float | None = None
    log_z: bool = True

    memory = ("c",)
    compares = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nu is not None:
            checks.positive("nu", self.nu)
        self.c = nn.Parameter(torch.zeros(1, 1)) if self.log_z else None

    def constant(self, data: Tensor) -> Tensor:
        """c (S, 1), in the dtype and on the device of the data."""
        return torch.zeros_like(data[:, :1], requires_grad=False) if self.c is None else self.c.to(data)

    def from_ratios(self, data: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        c, nu = self.constant(data), self.nu or noise.shape[1] / data.shape[1]
        ratio = math.log(nu)
        loss = F.softplus(c + ratio - data).mean(1) + nu * F.softplus(noise - c - ratio).mean(1)
        return loss, c[:, 0]
