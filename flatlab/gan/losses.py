"""Losses of the two players, by name: each is one number a sample, lower is better for the player it belongs to.

With d the critic's number for an image and f that for a generated one:

    ns        critic  softplus(-d) + softplus(f)          generator  softplus(-f)         Goodfellow et al. 2014
    wgan-gp   critic  f - d                               generator  -f                   Gulrajani et al. 2017
    hinge     critic  max(0, 1 - d) + max(0, 1 + f)       generator  -f                   Lim and Ye 2017
    rpgan     critic  softplus(f - d)                     generator  softplus(d - f)      Jolicoeur-Martineau 2019

"ns" is the non-saturating loss, binary cross-entropy on logits: 2 log 2 and log 2 where the critic knows nothing.
"rpgan" pairs an image with a generated one; with penalties r1 and r2 it is the loss of R3GAN (Huang et al. 2024).
"wgan-gp" comes with a penalty on slopes (`flatlab.gan.penalties`).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class GanLoss(NamedTuple):
    """The losses of both players as functions of the critic's numbers d and f, each (N,): (d, f) -> (N,)."""

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]


LOSSES: dict[str, GanLoss] = {
    "ns": GanLoss(lambda d, f: F.softplus(-d) + F.softplus(f), lambda d, f: F.softplus(-f)),
    "wgan-gp": GanLoss(lambda d, f: f - d, lambda d, f: -f),
    "hinge": GanLoss(lambda d, f: F.relu(1 - d) + F.relu(1 + f), lambda d, f: -f),
    "rpgan": GanLoss(lambda d, f: F.softplus(f - d), lambda d, f: F.softplus(d - f)),
}
