"""What a training loop tells those who watch it."""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass
class TrainingState:
    """Where training stands. A callback may read everything, and set `stop` to end training after this epoch.

    Attributes:
        model: the module in training; a `Stacked` one where several seeds train side by side.
        optimizer: its optimizer.
        seeds: of the networks in `model`.
        epoch: epochs finished.
        step: optimizer steps taken.
        total_steps: optimizer steps of the whole training.
        losses: mean loss of each finished epoch, averaged over the seeds.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    seeds: tuple[int, ...]
    total_steps: int
    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    stop: bool = False

    @property
    def fraction(self) -> float:
        """Part of training done, in [0, 1]."""
        return self.step / self.total_steps if self.total_steps else 1.0


class Callback(Protocol):
    """Watches a training loop; each method may be left as it is."""

    def on_step(self, state: TrainingState, loss: Tensor) -> None:
        """After each optimizer step; `loss` is detached, on the device, averaged over the seeds."""

    def on_epoch(self, state: TrainingState) -> None:
        """After each epoch."""
