"""Tasks, methods, and every network that the notebook trains: by method, seed and sources."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from flatlab import dg, models, stats, train
from flatlab.train.batches import as_float

Domains = dict[str, dg.Domain]

_MADE: Mapping[str, Callable[..., Domains]] = {
    "rotated": dg.rotated_digits,
    "coloured": dg.coloured_digits,
    "corrupted": dg.corrupted_digits,
}


@dataclass(frozen=True)
class Method:
    """An algorithm with the options that were chosen for it.

    Attributes:
        algorithm: one of `flatlab.dg.ALGORITHMS`.
        lr: learning rate.
        hparams: its own options; `rho_x` in standard deviations of the sources' pixels.
        length: steps, in those of the task.
        weight_decay: of the optimizer.
    """

    algorithm: str
    lr: float
    hparams: Mapping[str, Any] = field(default_factory=dict)
    length: float = 1.0
    weight_decay: float = 0.0

    def __str__(self) -> str:
        options = {"lr": self.lr, **self.hparams}
        options |= {"weight decay": self.weight_decay} if self.weight_decay else {}
        options |= {"steps": f"{self.length:g}x"} if self.length != 1 else {}
        return ", ".join([self.algorithm, *(f"{name} {value}" for name, value in options.items())])

    def but(self, **hparams: Any) -> "Method":
        """The same with other options of its own."""
        return replace(self, hparams={**self.hparams, **hparams})


@dataclass(frozen=True)
class Task:
    """Domains, which of them are trained on, and how.

    Attributes:
        domains: "rotated", "coloured" or "corrupted" digits, or a name that `flatlab.dg.load_domains` knows.
        sources: one training for each entry; its targets are the other domains.
        options: of the maker of the domains.
        network, network_options: of `flatlab.models.build`; or "timm/NAME" with options of `timm.create_model`, which
            fetches weights when it is told that they are pretrained.
        steps, batch_size, eval_every: of a training, see `flatlab.dg.train_domains`.
        optimizer: "adam", or "sgd" with a momentum of 0.9.
        schedule: of the learning rate.
        augment: whether images are cropped and flipped at random.
        batch_norm: "running" or "frozen".
    """

    domains: str
    sources: tuple[tuple[str, ...], ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    network: str = "mlp"
    network_options: Mapping[str, Any] = field(default_factory=lambda: {"widths": (64, 64)})
    steps: int = 200
    batch_size: int = 32
    eval_every: int = 50
    optimizer: str = "adam"
    schedule: str = "constant"
    augment: bool = False
    batch_norm: str = "running"

    def load(self, seed: int, root: str = "", **options: Any) -> Domains:
        """The domains of a seed; `options` replace those of the task."""
        given = {**self.options, **options, "seed": seed, "root": root or None}
        if self.domains in _MADE:
            return _MADE[self.domains](**given)
        return dg.load_domains(self.domains, **given)

    def network_of(self, seed: int, domains: Domains, sources: Sequence[str]) -> nn.Module:
        """The untrained network of a seed, which standardises by the pixels of its sources."""
        first = domains[sources[0]]
        mean, sd = pixels(domains, sources)
        shape, classes = tuple(first.x.shape[1:]), len(first.classes)
        if self.network.startswith("timm/"):
            return _of_timm(self.network.removeprefix("timm/"), classes, seed, self.network_options)
        plain = models.build(self.network, shape, classes, seed=seed, options=dict(self.network_options))
        channels = first.x.shape[1]
        return models.FeatureNet(nn.Sequential(models.Normalize([mean] * channels, [sd] * channels), plain))


@dataclass
class Trained:
    """All networks of one task.

    Attributes:
        task, seeds: what was trained.
        domains: seed -> its domains.
        runs: label and seed -> a run for each entry of the task's sources.
    """

    task: Task
    seeds: tuple[int, ...]
    domains: dict[int, Domains]
    runs: dict[tuple[str, int], list[dg.RunResult]]

    @property
    def labels(self) -> list[str]:
        """The methods, in the order in which they came."""
        return list(dict.fromkeys(label for label, _ in self.runs))

    def accuracy(self, label: str, rule: str = "iid", target: str | None = None) -> NDArray[np.float64]:
        """Mean accuracy over targets, or on one of them, for each seed (S,).

        Args:
            label: the method.
            rule: of selection.
            target: name of a domain.
        """

        def score(run: dg.RunResult) -> list[float]:
            chosen = run.selected[rule].targets
            return list(chosen.values()) if target is None else [chosen[target]] if target in chosen else []

        return np.array([np.mean([v for run in self.runs[label, s] for v in score(run)]) for s in self.seeds])

    def validation(self, label: str) -> NDArray[np.float64]:
        """Mean accuracy on held-out parts of the sources, for each seed (S,)."""
        return np.array([np.mean([run.selected["iid"].val for run in self.runs[label, s]]) for s in self.seeds])

    def rows(self) -> pd.DataFrame:
        """One row per method, seed, sources, target and rule."""
        frames = [
            pd.DataFrame([row for run in runs for row in run.rows()]).assign(method=label)
            for (label, _), runs in self.runs.items()
        ]
        return pd.concat(frames, ignore_index=True)

    def targets(self) -> list[str]:
        """Names of all domains that are a target of some run."""
        return list(dict.fromkeys(name for runs in self.runs.values() for run in runs for name in run.targets))


def _of_timm(name: str, classes: int, seed: int, options: Mapping[str, Any]) -> nn.Module:
    """A network of timm, for images in [0, 1], with a linear classifier of our own."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"the network timm/{name} needs timm: pip install timm") from error
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the body too: not all of its weights need be pretrained
        body = timm.create_model(name, num_classes=0, **options)
        head = nn.Linear(body.num_features, classes)
    statistics = body.pretrained_cfg
    net = nn.Module()
    net.featurizer = nn.Sequential(models.Normalize(statistics["mean"], statistics["std"]), body)
    net.classifier = head
    return models.FeatureNet(net)


def pixels(domains: Domains, sources: Sequence[str]) -> tuple[float, float]:
    """Mean and standard deviation of the sources' pixels, in [0, 1]."""
    together = torch.cat([domains[name].x.flatten() for name in sources]).double()
    scale = 255 if domains[sources[0]].x.dtype == torch.uint8 else 1
    return float(together.mean()) / scale, float(together.std()) / scale


def optimizer_of(task: Task, method: Method) -> Callable[..., torch.optim.Optimizer]:
    """What makes the optimizer of a method, called with parameters and lr."""
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adam": functools.partial(torch.optim.Adam, fused=True),
        "sgd": functools.partial(torch.optim.SGD, momentum=0.9),
    }
    return functools.partial(kinds[task.optimizer], weight_decay=method.weight_decay)


def hparams_of(method: Method, domains: Domains, sources: Sequence[str]) -> dict[str, Any]:
    """The options of a method's algorithm, with lengths in the units of the images."""
    found = dict(method.hparams)
    if "rho_x" in found:
        found["rho_x"] *= pixels(domains, sources)[1]
    return found


def train_all(
    task: Task,
    methods: Mapping[str, Method],
    seeds: Iterable[int],
    *,
    root: str = "",
    device: torch.device | str = "cpu",
) -> Trained:
    """Train every method on every seed and every entry of the task's sources.

    Args:
        task: domains and trainings.
        methods: by label.
        seeds: of domains, splits, networks and order.
        root: folder of data that is not embedded.
        device: where to train.
    """
    seeds = tuple(seeds)
    domains = {seed: task.load(seed, root) for seed in seeds}
    runs = {
        (label, seed): [_run(task, method, domains[seed], sources, seed, device) for sources in task.sources]
        for label, method in methods.items()
        for seed in seeds
    }
    return Trained(task, seeds, domains, runs)


def _run(
    task: Task, method: Method, domains: Domains, sources: Sequence[str], seed: int, device: torch.device | str
) -> dg.RunResult:
    return dg.train_domains(
        method.algorithm,
        domains,
        sources,
        [name for name in domains if name not in sources],
        make_model=lambda seed: task.network_of(seed, domains, sources),
        steps=round(method.length * task.steps),
        batch_size=task.batch_size,
        eval_every=task.eval_every,
        lr=method.lr,
        optimizer=optimizer_of(task, method),
        schedule=task.schedule,
        augment=train.crop_flip if task.augment else None,
        batch_norm=task.batch_norm,
        hparams=hparams_of(method, domains, sources),
        seed=seed,
        device=device,
    )


def differences(trained: Trained, base: str, *, rule: str = "iid") -> pd.DataFrame:
    """Every method's accuracy less that of `base`, paired over seeds: value, 95 % interval, and p after Holm.

    Args:
        trained: the networks.
        base: a method.
        rule: of selection.
    """
    others = [label for label in trained.labels if label != base]
    found = {
        label: stats.paired_difference(trained.accuracy(label, rule), trained.accuracy(base, rule)) for label in others
    }
    p = [stats.p_value(estimate, stats.greater(0)) for estimate in found.values()]
    frame = pd.DataFrame({label: {"value": e.value, "low": e.low, "high": e.high} for label, e in found.items()}).T
    frame["p, Holm"] = stats.holm([1.0 if one is None else one for one in p])
    return frame.rename_axis(f"less {base}")


def one_of_each(domains: Domains, *, each: int = 1) -> torch.Tensor:
    """Images in [0, 1], for every domain a row of the first images of each class.

    Args:
        domains: by name.
        each: images of a class.
    """
    rows = []
    for domain in domains.values():
        first = [place for label in domain.y.unique() for place in (domain.y == label).nonzero()[:each, 0].tolist()]
        rows.append(as_float(domain.x[first]))
    return torch.cat(rows)
