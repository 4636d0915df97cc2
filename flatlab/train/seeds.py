"""Training several seeds of one method.

Measured on two cores with 64-128-128-10 networks and batches of 64 (tests/bench prints the ratios): five seeds stacked
into one module take about a third of the time of five seeds one after another when training is adversarial, and about
half when it is plain. Vectorising the same networks with torch.func.vmap saved a third at most. Hence "auto" stacks
whenever the architecture, the optimizer and the objective allow it.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import nn

from flatlab import checks
from flatlab.models.stacked import stack_models, stackable, unstack
from flatlab.train.callbacks import Callback, TrainingState
from flatlab.train.loop import Dataset, Recipe, fit
from flatlab.train.objective import LossFunction, Objective, as_objective
from flatlab.train.stacking import keeps_apart


def fit_seeds(
    build: Callable[[int], nn.Module],
    data: Dataset,
    objective: Objective | LossFunction,
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    strategy: str = "auto",
    callbacks: Iterable[Callback] = (),
    checkpoint: str | Path | None = None,
    progress: Callable[[TrainingState], None] | None = None,
) -> list[nn.Module]:
    """Train one network per seed, each with its own initial weights, batch order and noise.

    Args:
        build: makes the untrained network of a seed.
        data, objective, recipe, callbacks, progress: as in `fit`.
        seeds: at least one.
        device: where to train.
        strategy: "stacked" trains all seeds side by side in one module, "sequential" one after another; "auto" stacks
            where the network's layers, the optimizer and the objective (`stacks`) allow it. Both give the same networks
            up to rounding.
        checkpoint: a file (stacked), or its stem with the seed appended (sequential).

    Returns:
        The trained networks in the order of `seeds`, in eval mode. Of stacked ones, those that diverged have NaN for
        weights, and a RuntimeWarning names them.

    Raises:
        ValueError: "stacked" is asked for and not possible, and everything that `fit` raises.
    """
    checks.one_of("strategy", strategy, ("auto", "stacked", "sequential"))
    seeds = list(seeds)
    if not seeds:
        raise ValueError("seeds is empty: name at least one seed")
    models = [build(seed) for seed in seeds]
    goal = as_objective(objective)
    possible = goal.stacks and keeps_apart(recipe.optimizer, recipe.options) and stackable(models[0])
    if strategy == "stacked" and not possible:
        raise ValueError("this network, optimizer or objective cannot be stacked; use strategy='auto' or 'sequential'")
    watchers = list(callbacks)
    if len(seeds) > 1 and strategy != "sequential" and possible:
        stacked = stack_models(models).to(device)
        fit(stacked, data, goal, recipe, seeds=seeds, callbacks=watchers, checkpoint=checkpoint, progress=progress)
        return unstack(stacked, models[0])
    for seed, model in zip(seeds, models, strict=True):
        file = None if checkpoint is None else Path(checkpoint).with_suffix(f".{seed}.safetensors")
        model.to(device)
        fit(model, data, goal, recipe, seeds=seed, callbacks=watchers, checkpoint=file, progress=progress)
    return models
