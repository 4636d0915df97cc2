"""Exponential NCE, eNCE (Liu, Rosenfeld, Ravikumar and Risteski 2022): the exponential loss in place of the logistic.

    L = 1/2 mean exp(-G(x) / 2) + 1/2 mean exp(G(y) / 2),        G = f - c - log q

Its minimum is where NCE's is. The condition number is polynomial in the distance of data and noise for an exponential
family, but gradients are still exponentially small there: it needs `NormalizedSGD`. Beyond |G| = `limit` the
exponentials go on as their tangents, so that an outlier does not overflow and keeps its gradient.
"""

from dataclasses import dataclass

from torch import Tensor

from flatlab import checks
from flatlab.ebm.base import capped_exp
from flatlab.ebm.nce import NCELoss


@dataclass(eq=False)
class ExpNCELoss(NCELoss):
    """eNCE; its arguments are those of `NCELoss` (`nu` has no part in it), and:

    Args:
        limit: of |G|, from which on exponentials are linear.
    """

    limit: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive("limit", self.limit)
        if self.nu is not None:
            raise ValueError(f"eNCE weighs data and noise equally; it has no nu, got {self.nu!r}")

    def from_ratios(self, data: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        c, most = self.constant(data), self.limit / 2
        loss = capped_exp((c - data) / 2, most).mean(1) + capped_exp((noise - c) / 2, most).mean(1)
        return loss / 2, c[:, 0]
