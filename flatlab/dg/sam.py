"""Sharpness-aware minimisation of the pooled risk (Foret et al. 2021).

    g0 = grad L(w)      w' = w + rho g0 / |g0|      the optimizer steps from w with grad L(w')

L is that of ERM. The passes are those of `flatlab.optim`, over the optimizer that is given; BatchNorm statistics come
from the first.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from flatlab import optim
from flatlab.dg.base import Algorithm, Batch
from flatlab.optim.two_pass import TwoPass


@dataclass(eq=False, repr=False, kw_only=True)
class SAM(Algorithm):
    """Descend at the worst point, to first order, within rho. Two gradients a step.

    Args:
        rho: length of the perturbation, >= 0.
    """

    rho: float = 0.05

    neutral: ClassVar = {"rho": 0.0}
    perturbs: ClassVar[type[TwoPass]] = optim.SAM

    def _wrapped(self, optimizer: Optimizer) -> Optimizer:
        counting = next(self.trained.buffers(), None) is not None  # looking for statistics costs a walk a step
        model = self.trained if counting else None
        return self._perturbing()(optimizer.param_groups, optimizer, model=model, **self._perturbing_options())

    def _perturbing(self) -> type[TwoPass]:
        return self.perturbs

    def _perturbing_options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.own_options()}

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        def closure() -> Tensor:
            self._optimizer.zero_grad()
            loss = F.cross_entropy(self.trained(batch.x), batch.y)
            loss.backward()
            return loss

        loss = self._optimizer.step(closure)  # type: ignore[arg-type]
        assert isinstance(loss, Tensor)
        return {"loss": loss}
