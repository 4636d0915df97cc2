"""The choice of each method's options, on domains that are neither sources nor targets of what is reported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from flatlab import train
from flatlab.studies.domain_generalization.settings import DomainGeneralization
from flatlab.studies.domain_generalization.worlds import Method, Task, train_all

_OF_THE_OPTIMIZER = ("lr", "weight_decay")


def with_options(method: Method, options: Mapping[str, Any]) -> Method:
    """The method with other options, of the optimizer or its own."""
    own = {name: value for name, value in options.items() if name not in _OF_THE_OPTIMIZER}
    return replace(method.but(**own), **{name: options[name] for name in _OF_THE_OPTIMIZER if name in options})


def tune(
    task: Task,
    methods: Mapping[str, Method],
    grids: Mapping[str, Mapping[str, Sequence[float]]],
    seeds: Sequence[int],
    *,
    root: str = "",
    device: torch.device | str = "cpu",
) -> train.Sweep:
    """Try every point of each method's grid, which grows where its end is best.

    The score is the accuracy on the task's targets, of the checkpoint that its sources select.

    Args:
        task: with domains of development.
        methods: by label, with the options that are not tried.
        grids: label -> option -> values.
        seeds: of tuning.
        root: folder of data that is not embedded.
        device: where to train.
    """

    def score(label: str, options: dict[str, Any], seeds: tuple[int, ...]) -> Sequence[float]:
        trained = train_all(task, {label: with_options(methods[label], options)}, seeds, root=root, device=device)
        return trained.accuracy(label).tolist()

    chosen = {label: {name: list(values) for name, values in grids[label].items()} for label in methods}
    return train.sweep(score, chosen, seeds=list(seeds), maximize=True, extend=2)


def retuned(cfg: DomainGeneralization, show: Callable[[Any], object], **where: Any) -> DomainGeneralization:
    """The settings, with `tune` after the options of all methods have been chosen again.

    Args:
        cfg: settings; without `tune` they are returned as they are.
        show: called with a table of what was tried: IPython's `display`.
        where: `root` and `device` of `tune`.

    Raises:
        ValueError: a reported seed is one of the tuning's, or there are no domains of development.
    """
    if not cfg.tune:
        return cfg
    if cfg.development is None or cfg.development_out is None:
        raise ValueError("tune=True needs domains of development, which this preset has not: use quick, cpu or real")
    train.Sweep((), cfg.tuning_seeds).fresh(cfg.seeds)
    found: list[dict[str, Method]] = []
    for task, methods in ((cfg.development, {**cfg.methods, **cfg.family}), (cfg.development_out, cfg.out_methods)):
        result = tune(task, methods, cfg.grids, cfg.tuning_seeds, **where)
        show(pd.DataFrame(result.table()).round(4))
        found.append({label: with_options(methods[label], options) for label, options in result.best.items()})
    single, out = found

    def again(methods: Mapping[str, Method]) -> dict[str, Method]:
        """Methods of other data have options of their own, unless they are those that were tuned."""
        return {
            label: single[label] if cfg.methods.get(label, cfg.family.get(label)) == method else method
            for label, method in methods.items()
        }

    return replace(
        cfg,
        methods=again(cfg.methods),
        family=again(cfg.family),
        out_methods=out,
        shift_methods=again(cfg.shift_methods),
        photo_methods=again(cfg.photo_methods),
    )
