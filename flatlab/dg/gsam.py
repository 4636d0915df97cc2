"""Surrogate-gap-guided sharpness-aware minimisation of the pooled risk (Zhuang et al. 2022).

g1 = grad L(w + rho g0 / |g0|)      the optimizer gets  g1 - alpha (g0 - (<g0, g1> / |g1|^2) g1)
"""

from dataclasses import dataclass
from typing import ClassVar

from flatlab import optim
from flatlab.dg.sam import SAM
from flatlab.optim.two_pass import TwoPass


@dataclass(eq=False, repr=False, kw_only=True)
class GSAM(SAM):
    """SAM that also closes the gap between the perturbed loss and the loss; alpha = 0 is SAM.

    Args:
        rho: length of the perturbation, >= 0.
        alpha: weight of the part of g0 orthogonal to g1, >= 0.
    """

    alpha: float = 0.4

    neutral: ClassVar = {"rho": 0.0, "alpha": 0.0}
    perturbs: ClassVar[type[TwoPass]] = optim.GSAM
