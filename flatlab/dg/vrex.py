"""Variance risk extrapolation, V-REx (Krueger et al. 2021).

P = mean_e (L_e - mean L)^2
"""

from dataclasses import dataclass

from torch import Tensor

from flatlab.dg.penalised import Penalised


@dataclass(eq=False, repr=False, kw_only=True)
class VREx(Penalised):
    """Losses that are equal over domains. The options are those of `Penalised`."""

    lam: float = 10.0
    anneal: int = 500

    def penalty(self, losses: Tensor, features: list[Tensor], logits: list[Tensor], y: list[Tensor]) -> Tensor:
        return losses.var(correction=0)
