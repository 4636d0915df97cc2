"""Correlation alignment, Deep CORAL (Sun and Saenko 2016), as DomainBed has it, with the means aligned too.

P = mean over pairs of domains of  mean_k (m - m')_k^2 + mean_kl (S - S')_kl^2
    m, S: mean and covariance of the features, S with n - 1
"""

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

from torch import Tensor

from flatlab.dg.penalised import Penalised, over_pairs


@dataclass(eq=False, repr=False, kw_only=True)
class CORAL(Penalised):
    """Features with the same mean and covariance in all domains. The options are those of `Penalised`."""

    min_rows: ClassVar[int] = 2

    def penalty(self, losses: Tensor, features: list[Tensor], logits: list[Tensor], y: list[Tensor]) -> Tensor:
        moments = [(h.mean(0), _covariance(h)) for h in features]
        gaps = [(m - n).square().mean() + (s - t).square().mean() for (m, s), (n, t) in combinations(moments, 2)]
        return over_pairs(gaps, losses[0])


def _covariance(h: Tensor) -> Tensor:
    centred = h - h.mean(0)
    return centred.T @ centred / (len(h) - 1)
