"""Empirical risk minimisation (Vapnik 1998): the domains pooled, the baseline of every table.

L = mean over all rows of CE(f(x), y)
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from flatlab.dg.base import Algorithm, Batch


@dataclass(eq=False, repr=False, kw_only=True)
class ERM(Algorithm):
    """Cross-entropy of the pooled minibatches. Methods with another loss of one gradient are subclasses of it."""

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        self._optimizer.zero_grad()
        values = self.objective(batch)
        values["loss"].backward()
        self._optimizer.step()
        return values

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars, of which "loss" is differentiable and descended."""
        return {"loss": F.cross_entropy(self.trained(batch.x), batch.y)}
