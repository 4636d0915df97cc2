"""Group distributionally robust optimisation (Sagawa et al. 2020), with domains as groups.

q_e <- q_e exp(eta L_e), normalised to sum 1        L = sum_e q_e L_e,   q starts uniform
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flatlab import checks
from flatlab.dg.base import Batch
from flatlab.dg.erm import ERM
from flatlab.dg.fishr import same_domains
from flatlab.dg.penalised import domain_losses


@dataclass(eq=False, repr=False, kw_only=True)
class GroupDRO(ERM):
    """The domains with larger losses weigh more.

    Args:
        eta: step of the weights of domains, >= 0; 0 leaves them equal.
    """

    eta: float = 0.01

    neutral: ClassVar = {"eta": 0.0}
    memory: ClassVar[tuple[str, ...]] = ("weights",)

    def __post_init__(self) -> None:
        checks.nonnegative("eta", self.eta)
        super().__post_init__()
        self.weights: Tensor | None = None

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        losses = domain_losses(self.trained(batch.x), batch)
        before = torch.ones_like(losses) if self.weights is None else same_domains(self.weights, losses)
        self.weights = (before.log() + self.eta * losses.detach()).softmax(0)
        return {"loss": (self.weights * losses).sum(), "largest": losses.max()}
