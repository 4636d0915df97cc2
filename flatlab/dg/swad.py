"""Stochastic weight averaging, densely, SWAD (Cha et al. 2021): the mean of the weights after every step of a window.

    w_bar = mean of w_t over the steps t > start        each w_t of ERM

The authors choose the window by losses of held-out source data; here it starts at a fraction of the training and ends
with it, so that nothing is looked at. The averages are torch's own. Buffers are those of the last step: a network with
BatchNorm in train mode needs torch.optim.swa_utils.update_bn before it predicts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from flatlab import checks
from flatlab.dg.base import Batch
from flatlab.dg.erm import ERM


@dataclass(eq=False, repr=False, kw_only=True)
class SWAD(ERM):
    """ERM whose `.model` is the average of the weights; `.trained` is the network that is stepped.

    Args:
        start: fraction of `total_steps` after which averaging begins, in [0, 1]; until then `.model` is the last one.
        total_steps: of the whole training; None: averaging begins at once.
    """

    start: float = 0.5
    total_steps: int | None = None

    neutral: ClassVar = {"start": 1.0, "total_steps": 10**9}

    def __post_init__(self) -> None:
        if checks.nonnegative("start", self.start) > 1:
            raise ValueError(f"start is a fraction of total_steps and must lie in [0, 1], got {self.start!r}")
        total = 0 if self.total_steps is None else checks.at_least("total_steps", self.total_steps, 0)
        self._first = self.start * total
        super().__post_init__()
        self.average = AveragedModel(self.trained)
        self.model = self.average.module

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        values = super()._step(batch)
        if self.steps < self._first + 1:
            self.average.n_averaged.zero_()  # the update is then a copy, the first of the window too
        self.average.update_parameters(self.trained)
        return values

    def state_dict(self) -> dict[str, Any]:
        """That of `Algorithm`, and the average."""
        average = {name: value.clone() for name, value in self.average.state_dict().items()}
        return super().state_dict() | {"average": average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        super().load_state_dict(state)
        self.average.load_state_dict(state["average"])
