"""Adaptive sharpness-aware minimisation of the pooled risk (Kwon et al. 2021).

w' = w + rho T^2 g0 / |T g0|,   T = |w| + eta, elementwise      the rest as in SAM
"""

from dataclasses import dataclass
from typing import ClassVar

from flatlab import optim
from flatlab.dg.sam import SAM
from flatlab.optim.two_pass import TwoPass


@dataclass(eq=False, repr=False, kw_only=True)
class ASAM(SAM):
    """SAM in units of each weight.

    Args:
        rho: length of the perturbation, in units of the weights, >= 0.
        eta: added to |w|, >= 0.
    """

    rho: float = 0.5
    eta: float = 0.01

    perturbs: ClassVar[type[TwoPass]] = optim.ASAM
