"""What is measured of trained networks around their weights: inconsistency, sharpness, and slices to look at."""

import copy
import functools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor, nn

from flatlab import dg, flatness
from flatlab.studies.domain_generalization.worlds import Trained
from flatlab.train.batches import as_float

MOST = 400
"""Images of a domain in a measure of the landscape."""

CONFIDENCE = 0.9
"""Mean largest probability on held-out images of the sources, to which networks are brought for a comparison."""


def temperature(logits: Tensor, confidence: float = CONFIDENCE) -> float:
    """What logits (N, C) are divided by so that their mean largest probability is `confidence`, between 1/100 and 100.

    The best cross-entropy would not do: where few images are separated by a wide margin it wants no temperature at all.
    """
    logits, ends = logits.double().cpu(), (-math.log(100), math.log(100))

    def surplus(log_t: float) -> float:
        return float((logits / math.exp(log_t)).softmax(1).amax(1).mean()) - confidence

    if surplus(ends[0]) <= 0 or surplus(ends[1]) >= 0:
        return math.exp(ends[0] if surplus(ends[0]) <= 0 else ends[1])
    return math.exp(brentq(surplus, *ends, xtol=1e-6))


def images(domain: dg.Domain, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """At most `MOST` images, as floats in [0, 1], and their labels."""
    part = domain.at_most(MOST)
    return as_float(part.x).to(device), part.y.to(device)


def measures(trained: Trained, labels: Sequence[str], *, rho: float = 0.05) -> pd.DataFrame:
    """One row per method and seed, means over runs and targets.

    Columns: "accuracy", "inconsistency" and "sharpness" of targets, "sharpness of sources", all but the first also "at
    matched confidence" (logits divided by the `temperature` of held-out source images), "temperature", and "confidence"
    (mean largest probability on targets). Losses of sources are those of their training parts.

    Args:
        trained: networks, selected by the sources.
        labels: of methods.
        rho: radius in weight space.
    """
    rows = []
    for label in labels:
        for seed in trained.seeds:
            found = [_of_run(trained, run, seed, rho) for run in trained.runs[label, seed]]
            rows.append({"method": label, "seed": seed, **pd.concat(found).mean().to_dict()})
    return pd.DataFrame(rows)


def _of_run(trained: Trained, run: dg.RunResult, seed: int, rho: float) -> pd.DataFrame:
    """The row of each target."""
    model = run.selected["iid"].model
    device = next(model.parameters()).device
    parts = {name: dg.split_domain(trained.domains[seed][name], seed=seed) for name in (*run.sources, *run.targets)}
    source = _together([images(parts[name][0], device) for name in run.sources])
    held = _together([images(parts[name][1], device) for name in run.sources])
    with torch.no_grad():
        t = temperature(model(held[0]))
    rows = []
    for name in run.targets:
        target = images(parts[name][0], device)
        row = {"accuracy": run.selected["iid"].targets[name], "temperature": t}
        with torch.no_grad():
            row["confidence"] = float(model(target[0]).softmax(1).amax(1).mean())
        for suffix, scale in (("", 1.0), (" at matched confidence", t)):
            gap = dg.domain_inconsistency(model, source, target, rho=rho, temperature=scale, seed=seed)
            rise = dg.domain_sharpness(model, {"source": source, "target": target}, rho=rho, temperature=scale)
            row |= {f"inconsistency{suffix}": gap, f"sharpness{suffix}": rise["target"]}
            row |= {f"sharpness of sources{suffix}": rise["source"]}
        rows.append(row)
    return pd.DataFrame(rows)


def _together(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def planes(
    trained: Trained, labels: Sequence[str], target: str, *, span: float, n: int = 15
) -> dict[str, flatness.Plane]:
    """Cross-entropy of the source's training part and of a target around weights of the first seed.

    They are those of the first run that has the target among its own. All methods are cut along the same two random
    directions of weight space, each of length 1.

    Args:
        trained: the networks.
        labels: of methods.
        target: name of a domain.
        span: half the width of the slice, in weight space.
        n: points on each axis.

    Returns:
        "ERM, source", "ERM, 45" and so on: sources first.
    """
    found = {}
    for name in ("source", target):
        for label in labels:
            seed = trained.seeds[0]
            run = next(run for run in trained.runs[label, seed] if target in run.targets)
            model = run.selected["iid"].model
            place = run.sources[0] if name == "source" else name
            data = images(dg.split_domain(trained.domains[seed][place], seed=seed)[0], next(model.parameters()).device)
            landscape = flatness.over_parameters(model, functools.partial(_loss, data=data))
            generator = torch.Generator().manual_seed(0)
            one, two = (_unit(flatness.gaussian(landscape.point, generator=generator)) for _ in range(2))
            found[f"{label}, {name}"] = flatness.loss_surface(landscape, one, two, span, n=n)
    return found


def _loss(model: nn.Module, *, data: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(data[0]), data[1])


def _unit(way: Sequence[Tensor]) -> tuple[Tensor, ...]:
    length = torch.stack([t.norm() for t in way]).norm()
    return tuple(t / length for t in way)


def bound_pieces(trained: Trained, label: str, *, points: int, rho: float = 0.05) -> NDArray[np.float64]:
    """By how much T3 and T5 fail, at random weights near each network: (trials, 2), never above rounding.

    T3: mean_e L_e - L_s <= (1 - 1/n) max_e |L_e - L_s| at any weights, of n domains with the source among them.
    T5: max L_e <= max L_s + max |L_e - L_s|, each maximum over the same weights.

    Args:
        trained: the networks.
        label: of a method.
        points: weights near each network, at distance rho.
        rho: the distance.
    """
    excess = []
    for seed in trained.seeds:
        run = trained.runs[label, seed][0]
        model = copy.deepcopy(run.selected["iid"].model).double()
        domains = [trained.domains[seed][name] for name in (*run.sources[:1], *run.targets)]
        data = [(x.double(), y) for x, y in (images(d, next(model.parameters()).device) for d in domains)]
        losses = [flatness.over_parameters(model, functools.partial(_loss, data=one)) for one in data]
        generator = torch.Generator().manual_seed(seed)
        ways = [_unit(flatness.gaussian(losses[0].point, generator=generator)) for _ in range(points)]
        values = np.array([[one.value(*one.displaced(way, rho)) for one in losses] for way in ways])  # (points, n)
        gaps = np.abs(values[:, 1:] - values[:, :1]).max(1)
        t3 = values.mean(1) - values[:, 0] - (1 - 1 / len(losses)) * gaps
        highest, parted = values.max(0), np.abs(values - values[:, :1]).max(0)
        t5 = (highest - highest[0] - parted)[1:].max()
        excess += [(value, t5) for value in t3]
    return np.array(excess)
