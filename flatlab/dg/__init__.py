"""Domain generalisation: train on some domains, and do well on one that nobody has seen.

    domains = dg.load_domains("rotated_digits", seed=0)       # {"0": Domain, "15": Domain, ...}
    train, held_out = dg.split_domain(domains["0"], seed=0)

    algorithm = dg.UDIM(model, functools.partial(torch.optim.Adam, lr=1e-3), rho=0.05, rho_x=1.0)
    for _ in range(steps):
        algorithm.update([(x1, y1), (x2, y2)])          # one (x, y) for each source domain
    algorithm.predict(x)

A `Domain` is labelled images in [0, 1], or bytes. `ALGORITHMS` names all algorithms; one is added as a file of its own
and a line in `registry.py`, and tests/laws then puts it through the laws that all of them obey. Models have a
`.featurizer` and a linear `.classifier` (`flatlab.models.FeatureNet`).
"""

from flatlab.data import CORRUPTIONS, corrupt
from flatlab.dg.base import Algorithm
from flatlab.dg.digits import coloured_digits, corrupted_digits, rotated_digits
from flatlab.dg.domains import Domain, split_domain
from flatlab.dg.head import head_gradients
from flatlab.dg.load import DATASETS, load_domains
from flatlab.dg.measures import domain_accuracy, domain_inconsistency, domain_sharpness, head_curvature
from flatlab.dg.protocol import leave_one_domain_out, single_source, train_domains
from flatlab.dg.registry import ALGORITHMS, default_hparams, get_algorithm
from flatlab.dg.selection import RULES, RunResult, Selection, select
from flatlab.dg.udim import UDIM, inconsistency_penalty, perturb_inputs

__all__ = [
    "ALGORITHMS",
    "CORRUPTIONS",
    "DATASETS",
    "RULES",
    "UDIM",
    "Algorithm",
    "Domain",
    "RunResult",
    "Selection",
    "coloured_digits",
    "corrupt",
    "corrupted_digits",
    "default_hparams",
    "domain_accuracy",
    "domain_inconsistency",
    "domain_sharpness",
    "get_algorithm",
    "head_curvature",
    "head_gradients",
    "inconsistency_penalty",
    "leave_one_domain_out",
    "load_domains",
    "perturb_inputs",
    "rotated_digits",
    "select",
    "single_source",
    "split_domain",
    "train_domains",
]
