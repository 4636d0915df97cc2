"""Free adversarial training (Shafahi et al. 2019): one backward pass moves the weights and the perturbation.

Each batch is trained on m times in a row. In replay j

    L = CE(f(x + delta_j), y),    delta_(j+1) = clip(delta_j + alpha eps sign dL/d delta),    delta_1 = 0

where dL/d delta comes out of the backward pass that the optimizer needs anyway. To see as many samples as another
method, divide the number of epochs by m.

The official code starts a batch from the perturbation of the batch before it; here it starts from zero, so that a
sample's perturbation depends on that sample alone.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.defenses._inner import per_sample
from flatlab.defenses.base import Defense


@dataclass(kw_only=True, eq=False)
class Free(Defense):
    """Cross-entropy at a perturbation that grows over the replays of a batch.

    The perturbation moves when `.backward()` runs on the objective. A row of the batch keeps it for as long as the
    same input is in that row, and starts from zero when another comes.

    Args:
        m: replays of each batch.
        alpha: step size in units of eps.
    """

    m: int = 8
    alpha: float = 1.0

    name = "free"
    neutral: ClassVar = {"eps": 0.0}
    memory = ("delta", "seen")

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least("m", self.m, 1)
        checks.positive("alpha", self.alpha)
        self.delta: Tensor | None = None
        self.seen: Tensor | None = None

    @property
    def replays(self) -> int:
        return self.m

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        delta = self._carried(x).clamp_(-eps, eps)
        self.delta, self.seen = delta.clone(), x.detach().clone()
        delta.requires_grad_()

        def advance(gradient: Tensor) -> None:
            moved = delta.detach().add(gradient.sign(), alpha=self.alpha * eps).clamp_(-eps, eps)
            self.delta = (x + moved).clamp_(0, 1).sub_(x)

        delta.register_hook(advance)
        return F.cross_entropy(model(x + delta), y)

    def _carried(self, x: Tensor) -> Tensor:
        """The perturbation of each row that shows the input of the last call, and zero for the others."""
        if self.delta is None or self.seen is None or self.seen.shape != x.shape:
            return torch.zeros_like(x)
        # Compared on the device: asking whether the batch is new would halt a GPU at every step.
        same = (self.seen == x).flatten(1).all(dim=1)
        return torch.where(per_sample(same, x), self.delta, 0.0)
