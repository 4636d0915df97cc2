"""Running statistics of normalisation layers: keep those of one forward pass, forget those of the next.

A sharpness-aware step sees each batch twice, the second time at weights that nobody will use. Only the first pass
should count. Setting the momentum of the layers to zero and back does not undo a NaN (0 * NaN is NaN) nor the count of
batches, and done twice in a row it freezes the layers for ever. So the statistics themselves are copied and put back.
"""

import torch
from torch import Tensor, nn

_NAMES = ("running_mean", "running_var", "num_batches_tracked")


class RunningStats:
    """A copy of the running statistics of `model`, of layers in train mode: those of others do not change."""

    def __init__(self, model: nn.Module) -> None:
        layers = [module for module in model.modules() if module.training]
        found = [getattr(layer, name, None) for layer in layers for name in _NAMES]
        self.live: list[Tensor] = [value for value in found if isinstance(value, Tensor)]
        self.saved = [value.detach().clone() for value in self.live]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the copies back, in place."""
        for live, saved in zip(self.live, self.saved, strict=True):
            live.copy_(saved)
