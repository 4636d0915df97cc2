"""What a training loop tells those who watch it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.models.stacked import unstack
from flatlab.modes import evaluating
from flatlab.train.stepper import Stepper


@dataclass
class TrainingState:
    """Where training stands. A callback may read everything, and set `stop` to end training after this epoch.

    Attributes:
        model: the module in training; a `Stacked` one where several seeds train side by side.
        stepper: takes its optimizer steps.
        seeds: of the networks in `model`.
        epoch: epochs finished.
        losses: mean loss of each finished epoch, averaged over the seeds.
    """

    model: nn.Module
    stepper: Stepper
    seeds: tuple[int, ...]
    epoch: int = 0
    losses: list[float] = field(default_factory=list)
    stop: bool = False

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer."""
        return self.stepper.optimizer

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.stepper.steps

    @property
    def fraction(self) -> float:
        """Part of training done, in [0, 1]."""
        return self.stepper.fraction

    @property
    def diverged(self) -> dict[int, int]:
        """Seed -> the step at which its network diverged, of those that did."""
        return {self.seeds[index]: step for index, step in sorted(self.stepper.diverged.items())}

    def state_dict(self) -> dict[str, Any]:
        """How far training has come."""
        return {"epoch": self.epoch, "losses": list(self.losses)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.epoch, self.losses = state["epoch"], list(state["losses"])


class Callback(Protocol):
    """Watches a training loop; each method may be left as it is."""

    def on_step(self, state: TrainingState, loss: Tensor) -> None:
        """After each optimizer step; `loss` is detached, on the device, averaged over the seeds."""

    def on_epoch(self, state: TrainingState) -> None:
        """After each epoch."""


class Recorder:
    """Keeps what a function of the training state returns after each epoch, in `values`."""

    def __init__(self, measure: Callable[[TrainingState], Any]) -> None:
        self.measure = measure
        self.values: list[Any] = []

    def on_step(self, state: TrainingState, loss: Tensor) -> None:
        """Nothing."""

    def on_epoch(self, state: TrainingState) -> None:
        """Measure."""
        self.values.append(self.measure(state))


class FirstBelow:
    """Keeps each network as it was after the first epoch in which its loss came down to a level.

    Networks of different methods can then be compared at one training loss: with the loss, the curvature of the
    cross-entropy falls by itself.

    Attributes:
        models: seed -> the network then, in eval mode; seeds that have not come down to the level are missing.
        epochs: seed -> that epoch, counted from 1.
    """

    def __init__(self, like: nn.Module, x: Tensor, y: Tensor, level: float, *, batch_size: int = 1024) -> None:
        """`like`: a network of the architecture; x (N, ...), y (N,): where the loss is taken; `level` in nats.

        `batch_size`: samples at once, of each network.
        """
        self.like, self.x, self.y, self.level = like, x, y, level
        self.batch_size = checks.at_least("batch_size", batch_size, 1)
        self.models: dict[int, nn.Module] = {}
        self.epochs: dict[int, int] = {}

    def on_step(self, state: TrainingState, loss: Tensor) -> None:
        """Nothing."""

    def on_epoch(self, state: TrainingState) -> None:
        """Look at the loss of the networks that are still above the level."""
        if all(seed in self.models for seed in state.seeds):
            return
        for index, (seed, loss) in enumerate(zip(state.seeds, self._losses(state), strict=True)):
            if seed not in self.models and loss <= self.level:
                self.models[seed] = unstack(state.model, self.like)[index].eval()
                self.epochs[seed] = state.epoch

    def _losses(self, state: TrainingState) -> list[float]:
        """The mean loss of each network in training."""
        count, sums = len(state.seeds), []
        with evaluating(state.model), torch.no_grad():
            for x, y in zip(self.x.split(self.batch_size), self.y.split(self.batch_size), strict=True):
                logits = state.model(x.repeat(count, *[1] * (x.ndim - 1)))
                losses = F.cross_entropy(logits, y.repeat(count), reduction="none")
                sums.append(losses.double().view(count, -1).sum(1))
        return (torch.stack(sums).sum(0) / len(self.y)).tolist()
