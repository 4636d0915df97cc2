"""SNL (Senetaire et al. 2025): the likelihood with a learned bound of its log Z.

    L = -mean f(x) + min over b of  b + E_q[w] exp(-b) - 1,        w = exp(f - log q)

An upper bound of the negative log-likelihood for every b, tight at b = log Z; at one b its gradient in the model is
MECO's with b for log u. Here b is learned, where MECO averages. It starts at the first batch's log Z.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.ebm.base import NoiseLoss, capped_exp


@dataclass(eq=False)
class SNLLoss(NoiseLoss):
    """SNL; its arguments are those of `NoiseLoss`, and:

    Args:
        limit: of log(w) - b, from which on the exponential is linear.
    """

    limit: float = 10.0

    memory = ("b", "begun")

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive("limit", self.limit)
        self.b = nn.Parameter(torch.zeros(1, 1))
        """The learned log Z, (S, 1)."""
        self.begun: Tensor | None = None

    def from_ratios(self, data: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        if self.begun is None:
            self.b.data.copy_(noise.detach().logsumexp(1, keepdim=True) - math.log(noise.shape[1]))
            self.begun = torch.ones(())
            # Here the gradient in b is 0 but for rounding, which Adam would enlarge to a whole step: make it 0.
            b = self.b.detach() + 0 * self.b
        else:
            b = self.b
        b = b.to(data)
        bound = b[:, 0] + capped_exp(noise - b, self.limit).mean(1) - 1
        return bound - data.mean(1), b[:, 0]
