"""Training on a data set: one network, or S stacked ones side by side. The loop knows nothing of what it optimises."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.models.stacked import Stacked
from flatlab.rng import SeedGenerators
from flatlab.train import stacking
from flatlab.train.batches import Targets, as_float, rows_of, targets_on
from flatlab.train.callbacks import Callback, TrainingState
from flatlab.train.checkpoint import Stateful, resume_training, save_training
from flatlab.train.content import fingerprint
from flatlab.train.objective import LossFunction, Objective, as_objective
from flatlab.train.schedules import schedule
from flatlab.train.stepper import OptimizerFactory, Stepper


class Dataset(Protocol):
    """Inputs x (N, ...), and what goes with each: int64 targets y, a tuple such as (label, domain), or None.

    Images are uint8 or float in [0, 1] with labels (N,); texts are int64 codes (N, T) with the next codes (N, T).
    """

    @property
    def x(self) -> Tensor: ...

    @property
    def y(self) -> Targets: ...


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
        augment: function of (batch, rng), which draws from one generator a seed, or None.
        amp: bfloat16 autocast on a GPU, unless the objective says `full_precision`.
    """

    epochs: int = 30
    batch_size: int = 64
    lr: float = 3e-3
    optimizer: OptimizerFactory = torch.optim.Adam
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "onecycle"
    grad_clip: float | None = 5.0
    augment: Callable[[Tensor, SeedGenerators], Tensor] | None = None
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
    """What became of a training.

    Attributes:
        losses: mean loss of each epoch, averaged over the seeds; NaN from the epoch on in which one of them diverged.
        steps: optimizer steps taken.
        diverged: seed -> the step at which its network diverged; of several stacked ones, the others trained on.
    """

    losses: tuple[float, ...]
    steps: int
    diverged: Mapping[int, int] = field(default_factory=dict)


def fit(
    model: nn.Module,
    data: Dataset,
    objective: Objective | LossFunction,
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
        data: inputs (N, ...) and labels (N,), a target for each position of a sample (N, ...), several or no targets.
        objective: maps (model, x, y, step_fraction) to the mean loss over the batch; a plain function, or an
            `Objective` with random numbers and a state of its own.
        recipe: how to train.
        seeds: one per network: each orders its batches and draws its noise by its own.
        callbacks: told of each step and epoch.
        checkpoint: a file that is rewritten after each epoch; if it is there, training continues from it exactly. It
            knows data, augmentation and objective by content (`flatlab.train.fingerprint`).
        progress: called with the state after each epoch.

    Returns:
        The losses. Of several networks, those that diverged have NaN for weights, and a RuntimeWarning names them.

    Raises:
        TrainingDiverged: the loss is not finite, of all networks; names the step and the last finite loss.
        ValueError: a checkpoint of other settings or other data, or a damaged one; seeds that do not match the model,
            or an objective that does not stack for a stacked model.
    """
    rng = SeedGenerators(seeds, next(model.parameters()).device)
    count = model.count if isinstance(model, Stacked) else 1
    if len(rng) != count:
        raise ValueError(f"the model holds {count} network(s), but {len(rng)} seed(s) were given: one for each")
    if len(data.x) == 0:
        raise ValueError("the training set is empty")
    # Weights, batch order and noise of one seed must not come from one generator: noise gets its own.
    goal = as_objective(objective).seeded([seed + 1_000_003 for seed in rng.seeds], rng.device)
    if count > 1 and not goal.stacks:
        raise ValueError(f"{goal!r} takes one network at a time; train the seeds with fit_seeds, one after another")
    x, y = data.x.to(rng.device), targets_on(data.y, len(data.x), rng.device)
    if len(x) * x[0].numel() <= 1e7:  # small sets once; large ones batch by batch, to spare memory
        x = as_float(x)
    stepper = Stepper(
        [*model.parameters(), *goal.parameters()],
        recipe.optimizer,
        lr=recipe.lr,
        options=recipe.options,
        schedule=recipe.schedule,
        total_steps=recipe.epochs * math.ceil(len(x) / recipe.batch_size) * goal.replays,
        grad_clip=recipe.grad_clip,
        amp=recipe.amp and not goal.full_precision,
        networks=count if count > 1 else None,
    )
    state = TrainingState(model, stepper, rng.seeds)
    parts: dict[str, Stateful] = {"model": model, "stepper": stepper, "rng": rng, "objective": goal, "state": state}
    settings: dict[str, Any] = {}
    if checkpoint is not None:
        settings = _settings(data, as_objective(objective), recipe, state)
        resume_training(checkpoint, parts, settings=settings)
    watchers = list(callbacks)
    model.train()
    while state.epoch < recipe.epochs and not state.stop:
        total, first = torch.zeros((), device=rng.device), stepper.steps
        for xb, yb in _batches(x, y, recipe, rng):
            for _ in range(goal.replays):
                loss = stepper.step(partial(goal, model, xb, yb, stepper.fraction))
                total += loss
                for watcher in watchers:
                    watcher.on_step(state, loss)
        stepper.check()
        state.epoch += 1
        state.losses.append(float(total) / (stepper.steps - first))
        for watcher in watchers:
            watcher.on_epoch(state)
        if checkpoint is not None:
            save_training(checkpoint, parts, settings=settings)
        if progress is not None:
            progress(state)
    model.eval()
    if state.diverged:
        steps = ", ".join(f"{seed} at step {step}" for seed, step in state.diverged.items())
        warnings.warn(f"seeds diverged, and their networks are NaN: {steps}; lower lr", RuntimeWarning, stacklevel=2)
    return History(tuple(state.losses), state.step, state.diverged)


def _batches(x: Tensor, y: Targets, recipe: Recipe, rng: SeedGenerators) -> Iterator[tuple[Tensor, Targets]]:
    """One pass over the data; every seed in its own order."""
    order = rng.permutations(len(x))
    for start in range(0, len(x), recipe.batch_size):
        index = order[:, start : start + recipe.batch_size].flatten()
        batch = as_float(x[index])
        yield batch if recipe.augment is None else recipe.augment(batch, rng), rows_of(y, index)


def _settings(data: Dataset, objective: Objective, recipe: Recipe, state: TrainingState) -> dict[str, Any]:
    """What must agree between a checkpoint and the training that continues from it."""
    optimizer, options = stacking.unwrapped(recipe.optimizer, recipe.options)
    return {
        "seeds": list(state.seeds),
        "total_steps": state.stepper.total_steps,
        "data": {"x": fingerprint(data.x), "y": fingerprint(data.y)},
        "objective": fingerprint(objective),
        "augment": fingerprint(recipe.augment),
        "recipe": {
            "batch_size": recipe.batch_size,
            "lr": recipe.lr,
            "schedule": recipe.schedule,
            "grad_clip": recipe.grad_clip,
            "amp": recipe.amp,
            "optimizer": fingerprint(partial(optimizer, **dict(sorted(options.items())))),
        },
    }
