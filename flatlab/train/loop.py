"""The training loop. It trains one network, or S stacked ones side by side, and knows nothing of what it optimises."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.models.stacked import Stacked
from flatlab.streams import Streams
from flatlab.train import stacking
from flatlab.train.batches import as_float, targets
from flatlab.train.callbacks import Callback, TrainingState
from flatlab.train.checkpoint import load_checkpoint, save_checkpoint
from flatlab.train.schedules import schedule

Objective = Callable[[nn.Module, Tensor, Tensor, float], Tensor]
OptimizerFactory = Callable[..., torch.optim.Optimizer]
_CHECK_EVERY = 20  # steps between looks at the loss on a GPU, where each look waits for the device


class Labelled(Protocol):
    """A data set with inputs x (N, ...) and int64 targets y.

    Images are uint8 or float in [0, 1] with labels (N,); texts are int64 codes (N, T) with the next codes (N, T).
    """

    @property
    def x(self) -> Tensor: ...

    @property
    def y(self) -> Tensor: ...


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class Recipe:
    """How to train: everything but the data, the network and the objective.

    Attributes:
        epochs: passes over the data.
        batch_size: samples of each seed per step; the last, smaller batch of an epoch is used too.
        lr: the peak learning rate.
        optimizer: a torch optimizer class, called as optimizer(parameters, lr=lr, **options); one that says
            `stacks = True` is told of S stacked networks as well, with networks=S.
        options: its further options, such as {"momentum": 0.9}.
        schedule: name of a schedule in `flatlab.train.schedules`.
        grad_clip: largest norm of one network's gradient, or None.
        augment: function of (batch, streams), or None.
        amp: bfloat16 autocast on a GPU, unless the objective says `full_precision = True`.
    """

    epochs: int = 30
    batch_size: int = 64
    lr: float = 3e-3
    optimizer: OptimizerFactory = torch.optim.Adam
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "onecycle"
    grad_clip: float | None = 5.0
    augment: Callable[[Tensor, Streams], Tensor] | None = None
    amp: bool = False

    def __post_init__(self) -> None:
        checks.at_least("epochs", self.epochs, 0)
        checks.at_least("batch_size", self.batch_size, 1)
        checks.positive("lr", self.lr)
        schedule(self.schedule)
        if self.grad_clip is not None:
            checks.positive("grad_clip", self.grad_clip)


@dataclass(frozen=True)
class History:
    """Mean loss of each epoch, averaged over the seeds, and the number of optimizer steps."""

    losses: tuple[float, ...]
    steps: int


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor, step_fraction: float = 1.0) -> Tensor:
    """The plain objective: mean cross-entropy."""
    return F.cross_entropy(model(x), y)


def next_token(model: nn.Module, x: Tensor, y: Tensor, step_fraction: float = 1.0) -> Tensor:
    """The objective of a language model: mean cross-entropy over all positions of codes x and next codes y, (N, T)."""
    return F.cross_entropy(model(x).flatten(0, -2), y.flatten())


def fit(
    model: nn.Module,
    data: Labelled,
    objective: Objective,
    recipe: Recipe,
    *,
    seeds: int | Sequence[int] = 0,
    callbacks: Iterable[Callback] = (),
    checkpoint: str | Path | None = None,
    progress: Callable[[TrainingState], None] | None = None,
) -> History:
    """Train `model` in place on the device where it lies.

    Args:
        model: one network, or `stack_models` of S.
        data: inputs (N, ...) and labels (N,), or a target for each position of a sample (N, ...).
        objective: maps (model, x, y, step_fraction) to the mean loss over the batch. If it has a method
            `seeded(seeds, device)`, a copy with fresh random streams is used; if it has `state_dict` and
            `load_state_dict`, they are part of the checkpoint; `replays` repeats each batch.
        recipe: how to train.
        seeds: one per network: each orders its batches and draws its noise by its own.
        callbacks: told of each step and epoch.
        checkpoint: a file that is rewritten after each epoch; if it is there, training continues from it exactly.
        progress: called with the state after each epoch.

    Raises:
        TrainingDiverged: the loss is not finite; names the step and the last finite loss.
        ValueError: a checkpoint of other settings, or seeds that do not match the model.
    """
    run = _Run(model, data, objective, recipe, Streams(seeds, next(model.parameters()).device))
    if checkpoint is not None and Path(checkpoint).is_file():
        run.load(load_checkpoint(checkpoint, device=run.streams.device))
    watchers = list(callbacks)
    model.train()
    while run.state.epoch < recipe.epochs and not run.state.stop:
        run.epoch(watchers)
        for watcher in watchers:
            watcher.on_epoch(run.state)
        if checkpoint is not None:
            save_checkpoint(checkpoint, run.save())
        if progress is not None:
            progress(run.state)
    model.eval()
    return History(tuple(run.state.losses), run.state.step)


class _Run:
    """One training: its data on the device, its optimizer, and where it stands."""

    def __init__(
        self, model: nn.Module, data: Labelled, objective: Objective, recipe: Recipe, streams: Streams
    ) -> None:
        count = model.count if isinstance(model, Stacked) else 1
        if len(streams) != count:
            raise ValueError(f"the model holds {count} network(s), but {len(streams)} seed(s) were given: one for each")
        if len(data.x) == 0:
            raise ValueError("the training set is empty")
        self.model, self.recipe, self.streams, self.count = model, recipe, streams, count
        seeded = getattr(objective, "seeded", None)
        # Weights, batch order and noise of one seed must not come from one stream: noise gets its own.
        self.objective = seeded([seed + 1_000_003 for seed in streams.seeds], streams.device) if seeded else objective
        self.x, self.y = data.x.to(streams.device), targets(data.y, len(data.x)).to(streams.device)
        if len(self.x) * self.x[0].numel() <= 1e7:  # small sets once; large ones batch by batch, to spare memory
            self.x = as_float(self.x)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.replays = int(getattr(objective, "replays", 1))
        batches = math.ceil(len(self.x) / recipe.batch_size)
        optimizer = stacking.make(
            recipe.optimizer, self.parameters, lr=recipe.lr, options=recipe.options, networks=count
        )
        self.state = TrainingState(model, optimizer, streams.seeds, recipe.epochs * batches * self.replays)
        self.schedule = schedule(recipe.schedule)
        full_precision = bool(getattr(objective, "full_precision", False))
        self.amp = recipe.amp and streams.device.type == "cuda" and not full_precision
        self.recent: list[tuple[int, Tensor]] = []
        self.last_finite = math.nan

    def epoch(self, watchers: Sequence[Callback]) -> None:
        """One pass over the data; every seed in its own order."""
        state = self.state
        order = self.streams.permutations(len(self.x))
        total = torch.zeros((), device=self.streams.device)
        first = state.step
        for start in range(0, len(self.x), self.recipe.batch_size):
            index = order[:, start : start + self.recipe.batch_size].flatten()
            x, y = as_float(self.x[index]), self.y[index]
            if self.recipe.augment is not None:
                x = self.recipe.augment(x, self.streams)
            for _ in range(self.replays):
                loss = self.step(x, y)
                total += loss
                for watcher in watchers:
                    watcher.on_step(state, loss)
        self.check_finite()
        state.epoch += 1
        state.losses.append(float(total) / (state.step - first))

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One optimizer step; returns the loss averaged over the seeds, detached."""
        state = self.state
        rate = self.recipe.lr * self.schedule(state.fraction)
        for group in state.optimizer.param_groups:
            group["lr"] = rate

        def closure() -> Tensor:
            state.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.streams.device.type, torch.bfloat16, enabled=self.amp):
                loss = self.objective(self.model, x, y, state.fraction)
            (loss * self.count).backward()  # the sum over the seeds: each network gets its own gradient
            if self.recipe.grad_clip is not None:
                self.clip(self.recipe.grad_clip)
            return loss

        # Every torch optimizer takes a closure; those that need two gradients per step call it twice.
        loss = state.optimizer.step(closure)  # type: ignore[arg-type]
        assert isinstance(loss, Tensor)
        state.step += 1
        self.recent.append((state.step, loss.detach()))
        if self.streams.device.type == "cpu" or len(self.recent) >= _CHECK_EVERY:
            self.check_finite()
        return loss.detach()

    def clip(self, limit: float) -> None:
        """Scale each network's gradient down to norm `limit`."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        if self.count == 1:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, limit, torch.nn.utils.get_total_norm(grads))
            return
        norm = torch.stack([g.flatten(1).norm(dim=1) for g in grads]).norm(dim=0)
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        for g in grads:
            g.mul_(scale.view(-1, *[1] * (g.ndim - 1)))

    def check_finite(self) -> None:
        """Raise TrainingDiverged if a loss since the last look is not finite."""
        for step, loss in self.recent:
            value = float(loss)
            if not math.isfinite(value):
                bad = [seed for seed, ok in zip(self.state.seeds, self._finite_networks(), strict=True) if not ok]
                raise TrainingDiverged(
                    f"the loss became {value} at step {step} of {self.state.total_steps} (last finite loss "
                    f"{self.last_finite:.4g}; seeds with non-finite weights: {bad or 'none yet'}); "
                    "lower lr, or set grad_clip"
                )
            self.last_finite = value
        self.recent.clear()

    def _finite_networks(self) -> list[bool]:
        finite = [p.detach().reshape(self.count, -1).isfinite().all(dim=1) for p in self.parameters]
        return [bool(ok) for ok in torch.stack(finite).all(dim=0)]

    def settings(self) -> dict[str, Any]:
        """What must agree between a checkpoint and the training that continues from it."""
        recipe = self.recipe
        optimizer, options = stacking.unwrapped(recipe.optimizer, recipe.options)
        return {
            "seeds": list(self.state.seeds),
            "samples": len(self.x),
            "total_steps": self.state.total_steps,
            "objective": getattr(self.objective, "__name__", None) or repr(self.objective),
            "recipe": [
                recipe.batch_size,
                recipe.lr,
                recipe.schedule,
                recipe.grad_clip,
                getattr(optimizer, "__name__", None) or repr(optimizer),
                str(sorted(options.items())),
            ],
        }

    def save(self) -> dict[str, Any]:
        """All that a later run needs to continue as if it had never stopped."""
        objective_state = self.objective.state_dict() if hasattr(self.objective, "state_dict") else {}
        return {
            "settings": self.settings(),
            "model": dict(self.model.state_dict()),
            "optimizer": self.state.optimizer.state_dict(),
            "streams": self.streams.state_dict(),
            "objective": objective_state,
            "epoch": self.state.epoch,
            "step": self.state.step,
            "losses": list(self.state.losses),
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Continue from what `save` returned."""
        ours = self.settings()
        if saved["settings"] != ours:
            changed = [key for key in ours if saved["settings"].get(key) != ours[key]]
            raise ValueError(
                f"the checkpoint was made with other settings ({', '.join(changed)}); delete it or name another file"
            )
        self.model.load_state_dict(saved["model"])
        self.state.optimizer.load_state_dict(saved["optimizer"])
        self.streams.load_state_dict(saved["streams"])
        if hasattr(self.objective, "load_state_dict"):
            self.objective.load_state_dict(saved["objective"])
        self.state.epoch, self.state.step, self.state.losses = saved["epoch"], saved["step"], saved["losses"]
