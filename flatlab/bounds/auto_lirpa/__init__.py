"""The names that users of auto_LiRPA know, so that a script runs after a change of its imports. What is different:

state       nothing stays on nodes: method="backward" after a call with IBP=True computes its own intervals (ask for
            "CROWN-IBP" to have those of IBP). Only x=None refers back, to the inputs of the last call
widths      what is inside is never wider than its interval, and products, S-shapes, softmax and perturbed weights
            have other lines: bounds are equal or, as a rule, tighter
alpha       both sides are optimised in one run, with the bounds inside unless fix_interm_bounds is True
nothing     perturbed is an error, and so is an operator or an option without a rule
return_A    holds every perturbed input; needed_A_dict may be left out. lbias and ubias hold all that is constant
weights     a ball around each of them, with bounds for each sample: average_A has no effect
absent      loss fusion as an option (see `flatlab.bounds.fused_ce`), bounds of inner nodes, dynamic forward bounds,
            constraints, branch and bound
"""

from flatlab.bounds.auto_lirpa.module import METHODS, BoundedModule
from flatlab.bounds.auto_lirpa.perturbations import (
    BoundedParameter,
    BoundedTensor,
    Perturbation,
    PerturbationL0Norm,
    PerturbationLpNorm,
    PerturbationSynonym,
)

__all__ = [
    "METHODS",
    "BoundedModule",
    "BoundedParameter",
    "BoundedTensor",
    "Perturbation",
    "PerturbationL0Norm",
    "PerturbationLpNorm",
    "PerturbationSynonym",
]
