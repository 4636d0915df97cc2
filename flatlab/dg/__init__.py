"""Domain generalisation: train on some domains, and do well on one that nobody has seen.

    algorithm = dg.UDIM(model, functools.partial(torch.optim.Adam, lr=1e-3), rho=0.05, rho_x=1.0)
    for _ in range(steps):
        algorithm.update([(x1, y1), (x2, y2)])          # one (x, y) for each source domain
    algorithm.predict(x)

`ALGORITHMS` names them all; one is added as a file of its own and a line in `registry.py`, and tests/laws then puts it
through the laws that all of them obey. Models have a `.featurizer` and a linear `.classifier`.
"""

from flatlab.dg.base import Algorithm
from flatlab.dg.head import head_gradients
from flatlab.dg.measures import domain_inconsistency, domain_sharpness, head_curvature
from flatlab.dg.registry import ALGORITHMS, default_hparams, get_algorithm
from flatlab.dg.udim import UDIM, inconsistency_penalty, perturb_inputs

__all__ = [
    "ALGORITHMS",
    "UDIM",
    "Algorithm",
    "default_hparams",
    "domain_inconsistency",
    "domain_sharpness",
    "get_algorithm",
    "head_curvature",
    "head_gradients",
    "inconsistency_penalty",
    "perturb_inputs",
]
