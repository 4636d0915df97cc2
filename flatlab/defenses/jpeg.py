"""JPEG compression of the input (Guo et al. 2018): L = CE(f(t(x)), y), t compresses and decompresses."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.defenses.base import Defense
from flatlab.defenses.transforms import Jpeg


@dataclass(kw_only=True, eq=False)
class JpegCompression(Defense):
    """Train and evaluate on compressed images with 1 or 3 channels. Ignores `eps`.

    Args:
        quality: 1 to 100.
        bpda: whether `wrap` gives straight-through gradients, to be attacked in earnest.
    """

    quality: int = 75
    bpda: bool = True

    name = "jpeg"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.wrap(nn.Identity())  # its constructor checks the hyperparameters

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        return F.cross_entropy(self.wrap(model)(x), y)

    def wrap(self, model: nn.Module) -> nn.Module:
        return Jpeg(model, quality=self.quality, bpda=self.bpda)
