"""Denoising score matching, DSM (Vincent 2011): the gradient of f at noisy data points back to the clean ones.

    L = mean |sigma grad f(x + sigma xi) + xi|^2,        xi ~ N(0, I)

Its minimum is the density of the data blurred by N(0, sigma^2 I). It needs no log Z and no sampler, and knows none:
`nll` and `log_z` are NaN.
"""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from flatlab import checks
from flatlab.ebm.base import Draws, Energy, EnergyLoss, LossOutput, block, energies
from flatlab.samplers import normal_like


@dataclass(eq=False)
class DSMLoss(EnergyLoss):
    """DSM, a sum over the coordinates of a sample.

    Args:
        sigma: of the blur, in units of the data.
    """

    _: KW_ONLY
    sigma: float = 0.15

    def __post_init__(self) -> None:
        checks.positive("sigma", self.sigma)

    def compute(self, f: Energy, x: Tensor, draws: Draws, networks: int, *, strict: bool = False) -> LossOutput:
        xi = normal_like(x, draws)
        with torch.enable_grad():
            noisy = (x + self.sigma * xi).requires_grad_()
            values = energies(f, noisy, strict=strict)
            (score,) = torch.autograd.grad(values.sum(), noisy, create_graph=True)
        loss = block((self.sigma * score + xi).square().flatten(1).sum(1), networks).mean(1)
        unknown = torch.full_like(loss, torch.nan, requires_grad=False)
        return LossOutput(loss, unknown, unknown, unknown, unknown)
