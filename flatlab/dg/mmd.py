"""Maximum mean discrepancy between the features of domains (Li et al. 2018, MMD-AAE), as DomainBed has it.

P = mean over pairs of domains of  mean k(h, h) + mean k(h', h') - 2 mean k(h, h')
k(a, b) = sum over g in {.001, .01, .1, 1, 10, 100, 1000} of exp(-g |a - b|^2)
"""

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from flatlab.dg.penalised import Penalised, over_pairs

_GAMMAS = tuple(10.0**power for power in range(-3, 4))


@dataclass(eq=False, repr=False, kw_only=True)
class MMD(Penalised):
    """Features of the same distribution in all domains. The options are those of `Penalised`."""

    def penalty(self, losses: Tensor, features: list[Tensor], logits: list[Tensor], y: list[Tensor]) -> Tensor:
        own = [_kernel(h, h) for h in features]
        pairs = combinations(range(len(features)), 2)
        return over_pairs([own[i] + own[j] - 2 * _kernel(features[i], features[j]) for i, j in pairs], losses[0])


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """The mean of k over all pairs of rows."""
    squares = (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp_min(0)
    return torch.stack([(-gamma * squares).exp().mean() for gamma in _GAMMAS]).sum()
