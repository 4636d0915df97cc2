"""Fishr: invariant gradient variances (Rame et al. 2022).

    P = mean_e mean_j (v_e - mean v)_j^2        v_e = (b u_e + (1 - b) Var_i G_i) / (1 - b),   u_e <- (1 - b) v_e

G_i is the gradient of sample i of domain e for the classifier's weight and bias, u_e its smoothed variance, a constant
from earlier steps. Gradients come in closed form (`flatlab.dg.head`); mean_j runs over all numbers of the head.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flatlab.dg.head import head_moments, head_residuals
from flatlab.dg.penalised import Penalised


@dataclass(eq=False, repr=False, kw_only=True)
class Fishr(Penalised):
    """Gradients of the head that vary alike in all domains.

    Args:
        lam, anneal: as for `Penalised`.
        ema: b, the weight of earlier steps, in [0, 1).
    """

    lam: float = 1000.0
    anneal: int = 1500
    ema: float = 0.95

    min_rows: ClassVar[int] = 2
    memory: ClassVar[tuple[str, ...]] = ("variances",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema!r}")
        self.variances: Tensor | None = None

    def penalty(self, losses: Tensor, features: list[Tensor], logits: list[Tensor], y: list[Tensor]) -> Tensor:
        h, r = head_residuals(torch.cat(features), torch.cat(logits), torch.cat(y))
        mean, square = head_moments(h, r, [len(t) for t in y])
        now = square - mean.square()
        before = torch.zeros_like(now) if self.variances is None else same_domains(self.variances, now)
        smooth = self.ema * before + (1 - self.ema) * now
        self.variances = smooth.detach()
        v = smooth / (1 - self.ema)
        return (v - v.mean(0)).square().mean()


def same_domains(before: Tensor, now: Tensor) -> Tensor:
    """What is remembered of each domain; ValueError if the number of domains has changed."""
    if len(before) != len(now):
        raise ValueError(f"there were {len(before)} minibatches in earlier steps, now {len(now)}: give one per domain")
    return before.to(now)
