"""Bit-depth reduction (feature squeezing; Xu, Evans, Qi 2018): L = CE(f(t(x)), y), t rounds pixels to 2^bits levels."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.defenses.base import Defense
from flatlab.defenses.transforms import BitDepth


@dataclass(kw_only=True, eq=False)
class BitDepthReduction(Defense):
    """Train and evaluate on coarsely rounded inputs. Ignores `eps`.

    Args:
        bits: per pixel and channel; the literature uses 3 to 5.
        bpda: whether `wrap` gives straight-through gradients, to be attacked in earnest.
    """

    bits: int = 3
    bpda: bool = True

    name = "bitdepth"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.wrap(nn.Identity())  # its constructor checks the hyperparameters

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        return F.cross_entropy(self.wrap(model)(x), y)

    def wrap(self, model: nn.Module) -> nn.Module:
        return BitDepth(model, bits=self.bits, bpda=self.bpda)
