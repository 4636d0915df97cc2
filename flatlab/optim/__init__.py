"""Optimizers with a memory, others that look for flat minima or go by direction alone: torch.optim's contract, exactly.

    from flatlab.optim import SAM, AdamCM, NormalizedSGD, StackedAdam, make_optimizer
    optimizer = AdamCM(model.parameters(), lr=1e-3)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)
    optimizer = NormalizedSGD(model.parameters(), lr=1e-2)
    optimizer = StackedAdam(stacked.parameters(), lr=[1e-4, 1e-3, 1e-2])
    optimizer = make_optimizer("adam_cm", model.parameters(), lr=1e-3, capacity=20)

All of them pass the laws in tests/laws, as torch's own do. With `networks=S` they treat S networks, stacked along the
first dimension of every parameter, as if each were alone.
"""

from flatlab.optim.adam_cm import AdamCG, AdamCM
from flatlab.optim.normalized_sgd import NormalizedSGD
from flatlab.optim.registry import OptimizerInfo, info, list_optimizers, make_optimizer
from flatlab.optim.sam import ASAM, GSAM, SAGM, SAM
from flatlab.optim.sgd_cm import SGDCG, SGDCM
from flatlab.optim.stacked_adam import StackedAdam

__all__ = [
    "ASAM",
    "GSAM",
    "SAGM",
    "SAM",
    "SGDCG",
    "SGDCM",
    "AdamCG",
    "AdamCM",
    "NormalizedSGD",
    "OptimizerInfo",
    "StackedAdam",
    "info",
    "list_optimizers",
    "make_optimizer",
]
