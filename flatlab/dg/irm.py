"""Invariant risk minimisation, IRMv1 (Arjovsky et al. 2019).

    P = mean_e (d/dw L_e(w f) at w = 1)^2        d/dw CE(w f(x), y) = <softmax f(x) - onehot y, f(x)>

As in DomainBed, the square is the product of the slopes of two halves of the batch, which is unbiased and may be < 0.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab.dg.penalised import Penalised


@dataclass(eq=False, repr=False, kw_only=True)
class IRM(Penalised):
    """One classifier that is best for all domains at once. The options are those of `Penalised`."""

    lam: float = 100.0
    anneal: int = 500

    min_rows: ClassVar[int] = 2

    def penalty(self, losses: Tensor, features: list[Tensor], logits: list[Tensor], y: list[Tensor]) -> Tensor:
        return torch.stack(
            [_slope(f[::2], t[::2]) * _slope(f[1::2], t[1::2]) for f, t in zip(logits, y, strict=True)]
        ).mean()


def _slope(logits: Tensor, y: Tensor) -> Tensor:
    residual = logits.softmax(1) - F.one_hot(y, logits.shape[1]).to(logits)
    return (residual * logits).sum(1).mean()
