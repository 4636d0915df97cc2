"""Optimizers with a memory, and optimizers that look for flat minima: torch.optim's contract, kept to the letter.

    from flatlab.optim import SAM, AdamCM, make_optimizer
    optimizer = AdamCM(model.parameters(), lr=1e-3)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)
    optimizer = make_optimizer("adam_cm", model.parameters(), lr=1e-3, capacity=20)

All of them pass the laws in tests/laws, as torch's own do. With `networks=S` they treat S networks, stacked along the
first dimension of every parameter, as if each were alone.
"""

from flatlab.optim.adam_cm import AdamCG, AdamCM
from flatlab.optim.registry import OptimizerInfo, info, list_optimizers, make_optimizer
from flatlab.optim.sam import ASAM, GSAM, SAGM, SAM
from flatlab.optim.sgd_cm import SGDCG, SGDCM

__all__ = [
    "ASAM",
    "GSAM",
    "SAGM",
    "SAM",
    "SGDCG",
    "SGDCM",
    "AdamCG",
    "AdamCM",
    "OptimizerInfo",
    "info",
    "list_optimizers",
    "make_optimizer",
]
