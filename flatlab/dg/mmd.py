"""Maximum mean discrepancy between the features of domains (Li et al. 2018, MMD-AAE), as DomainBed has it.

P = mean over pairs of domains of  mean k(h, h) + mean k(h', h') - 2 mean k(h, h')
k(a, b) = sum over g in {.001, .01, .1, 1, 10, 100, 1000} of exp(-g |a - b|^2)
"""

from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab.dg.penalised import Penalised, over_pairs

_GAMMAS = tuple(10.0**power for power in range(-3, 4))


@dataclass(eq=False, repr=False, kw_only=True)
class MMD(Penalised):
    """Features of the same distribution in all domains. The options are those of `Penalised`."""

    def penalty(self, losses: Tensor, features: list[Tensor], logits: list[Tensor], y: list[Tensor]) -> Tensor:
        h, sizes = torch.cat(features), [len(domain) for domain in features]
        rows = torch.arange(len(sizes), device=h.device).repeat_interleave(torch.tensor(sizes, device=h.device))
        shares = F.one_hot(rows).to(h) / torch.tensor(sizes, device=h.device)
        means = shares.T @ _kernel(h) @ shares  # of k, between each two domains
        pairs = combinations(range(len(sizes)), 2)
        return over_pairs([means[i, i] + means[j, j] - 2 * means[i, j] for i, j in pairs], losses[0])


def _kernel(h: Tensor) -> Tensor:
    """k between all rows, (N, N)."""
    lengths = h.square().sum(1)
    squares = (lengths[:, None] + lengths - 2 * h @ h.T).clamp_min(0)
    return torch.stack([(-gamma * squares).exp() for gamma in _GAMMAS]).sum(0)
