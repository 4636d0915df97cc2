"""Sharpness-aware gradient matching of the pooled risk (Wang et al. 2023).

g1 = grad L(w + (rho / |g0| - alpha) g0)      the optimizer gets  (g0 + g1) / 2
"""

from dataclasses import dataclass
from typing import ClassVar

from flatlab import optim
from flatlab.dg.sam import SAM
from flatlab.optim.two_pass import TwoPass


@dataclass(eq=False, repr=False, kw_only=True)
class SAGM(SAM):
    """Descend on the loss and on the perturbed loss at once, the two gradients drawn together.

    Args:
        rho: length of the perturbation, >= 0.
        alpha: how far it is pulled back along g0, in units of g0, >= 0.
    """

    alpha: float = 0.001

    neutral: ClassVar = {"rho": 0.0, "alpha": 0.0}
    perturbs: ClassVar[type[TwoPass]] = optim.SAGM
