"""Controls: corruptions by severity, statistics of test batches alone, and what a step costs."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from flatlab import dg, train
from flatlab.studies.domain_generalization.worlds import Method, Task, Trained, hparams_of, optimizer_of
from flatlab.train.batches import as_float


def by_severity(
    trained: Trained, labels: Sequence[str], severities: Sequence[int], *, root: str = ""
) -> dict[str, NDArray[np.float64]]:
    """Accuracy of each method's networks on every target, (S, severities, targets).

    Args:
        trained: networks of a task with corruptions, selected by the sources.
        labels: of methods.
        severities: 1 to 5.
        root: folder of data that is not embedded.
    """
    found = {label: np.zeros((len(trained.seeds), len(severities), len(trained.targets()))) for label in labels}
    for i, seed in enumerate(trained.seeds):
        for j, severity in enumerate(severities):
            domains = trained.task.load(seed, root, severity=severity)
            for label in labels:
                model = trained.runs[label, seed][0].selected["iid"].model
                found[label][i, j] = [dg.domain_accuracy(model, domains[name]) for name in trained.targets()]
    return found


def batch_statistics(trained: Trained, label: str) -> dict[str, NDArray[np.float64]]:
    """Accuracy on targets of networks with BatchNorm, by whose statistics they predict: "running" and "batch", (S,)."""
    found: dict[str, list[float]] = {"running": [], "batch": []}
    for seed in trained.seeds:
        run = trained.runs[label, seed][0]
        parts = [dg.split_domain(trained.domains[seed][name], seed=seed)[0] for name in run.targets]
        for statistics, values in found.items():
            model = run.selected["iid"].model
            values.append(float(np.mean([dg.domain_accuracy(model, part, statistics=statistics) for part in parts])))
    return {name: np.array(values) for name, values in found.items()}


def costs(
    task: Task,
    methods: Mapping[str, Method],
    seed: int,
    *,
    repeats: int,
    root: str = "",
    device: torch.device | str = "cpu",
) -> tuple[pd.DataFrame, dict[str, NDArray[np.float64]]]:
    """What a step costs, after warm-up: a table by method, and milliseconds of each repetition (repeats,).

    Args:
        task: its network, batches and sources.
        methods: by label.
        seed: of network and data.
        repeats: medians of ten steps each; methods take turns, so that a busy moment of the machine meets all of them.
        root: folder of data that is not embedded.
        device: where.
    """
    domains, sources = task.load(seed, root), task.sources[0]
    share = task.batch_size // len(sources)
    batch = [(as_float(domains[n].x[:share]).to(device), domains[n].y[:share].to(device)) for n in sources]
    steps = {}
    for label, method in methods.items():
        model = task.network_of(seed, domains, sources).to(device)
        optimizer = functools.partial(optimizer_of(task, method), lr=method.lr)
        hparams = hparams_of(method, domains, sources)
        steps[label] = functools.partial(dg.get_algorithm(method.algorithm)(model, optimizer, **hparams).update, batch)
    flops = {label: train.operations(step) for label, step in steps.items()}
    times: dict[str, list[float]] = {label: [] for label in steps}
    for _ in range(repeats):
        for label, step in steps.items():
            times[label].append(1000 * float(np.median(train.seconds(step, torch.device(device), repeats=10))))
    frame = pd.DataFrame({"ms a step": {label: np.median(values) for label, values in times.items()}})
    frame["time, ERM = 1"] = frame["ms a step"] / frame["ms a step"].iloc[0]
    frame["operations, ERM = 1"] = pd.Series(flops) / next(iter(flops.values()))
    return frame, {label: np.array(values) for label, values in times.items()}
