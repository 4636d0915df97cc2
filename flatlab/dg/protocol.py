"""Protocols: train on some domains, select by held-out parts of them, and test on domains that were never seen.

    run = train_domains("UDIM", domains, ["0"], ["15", "30"], make_model=network, steps=200, batch_size=32,
                        eval_every=50)
    run.selected["iid"].test                      # accuracy on the targets
    runs = leave_one_domain_out("SAM", domains, make_model=network, steps=200, batch_size=32, eval_every=50)

Every domain is split by the seed: 80 % of a source are trained on and 20 % select; 80 % of a target are the test, and
20 % serve the oracle rule alone. All methods of one seed start from one network and see the same splits and the same
rows in the same order. Layers of BatchNorm are treated alike under all methods: their running statistics follow the
batches once a step, or they stay as they are (`batch_norm="frozen"`), and no prediction depends on the rest of its
batch. `domain_accuracy(..., statistics="batch")` is the control: what statistics of test batches alone would give.
"""

import copy
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Required, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flatlab import checks
from flatlab.dg.base import Algorithm, batch_norms, classes
from flatlab.dg.domains import Domain, split_domain
from flatlab.dg.measures import domain_accuracy
from flatlab.dg.registry import default_hparams, get_algorithm
from flatlab.dg.selection import RULES, Row, RunResult, Selection, select
from flatlab.rng import SeedGenerators
from flatlab.train import fingerprint, resume_training, save_training
from flatlab.train import schedule as schedule_called
from flatlab.train.batches import as_float
from flatlab.train.checkpoint import Stateful

BATCH_NORM = ("running", "frozen")

Domains = Mapping[str, Domain] | Iterable[Domain]
Augment = Callable[[Tensor, SeedGenerators], Tensor]


class Settings(TypedDict, total=False):
    """The keyword arguments of `train_domains`, which the protocols take as well."""

    make_model: Required[Callable[[int], nn.Module]]
    steps: Required[int]
    batch_size: Required[int]
    eval_every: Required[int]
    lr: float
    optimizer: Callable[..., Optimizer]
    schedule: str
    augment: Augment | None
    batch_norm: str
    selection: Sequence[str]
    hparams: Mapping[str, Any] | None
    holdout: float
    seed: int
    device: torch.device | str
    checkpoint: str | Path | None
    progress: Callable[[Row], None] | None


def train_domains(
    algorithm: str,
    domains: Domains,
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    make_model: Callable[[int], nn.Module],
    steps: int,
    batch_size: int,
    eval_every: int,
    lr: float = 1e-3,
    optimizer: Callable[..., Optimizer] = torch.optim.Adam,
    schedule: str = "constant",
    augment: Augment | None = None,
    batch_norm: str = "running",
    selection: Sequence[str] = RULES,
    hparams: Mapping[str, Any] | None = None,
    holdout: float = 0.2,
    seed: int = 0,
    device: torch.device | str = "cpu",
    checkpoint: str | Path | None = None,
    progress: Callable[[Row], None] | None = None,
) -> RunResult:
    """Train on `sources` with one algorithm, and report on `targets` what each rule of selection takes.

    A run whose loss is no finite number is stopped and recorded, not raised: the rules take what was there before, and
    predictions of a network that is not finite count as wrong.

    Args:
        algorithm: one of `ALGORITHMS`.
        domains: by name, or a list of domains with different names; images of one shape, one list of classes.
        sources, targets: names; no domain is both.
        make_model: makes the untrained network of a seed, with `.featurizer` and `.classifier`; torch's own generator
            is seeded when it is called.
        steps: of the optimizer.
        batch_size: rows a step of all sources together; each gives as many, batch_size // len(sources).
        eval_every: steps between evaluations; the last step is always evaluated.
        lr: peak learning rate.
        optimizer: called with parameters and lr.
        schedule: of the learning rate, a name of `flatlab.train.schedule`.
        augment: function of (batch (N, C, H, W) in [0, 1], rng), such as `flatlab.train.crop_flip`, or None.
        batch_norm: "running" or "frozen", see the head of this file. SWAD needs "frozen" where there are such layers.
        selection: rules, of "iid", "oracle" and "last".
        hparams: options of the algorithm; `total_steps`, where it has one, is `steps` unless given.
        holdout: fraction of each domain that is not trained on, or not tested on.
        seed: of splits, order, network and method.
        device: where images and network are kept.
        checkpoint: a file: a run that was interrupted continues exactly; one that is done is read.
        progress: called with each new row of the history.

    Raises:
        ValueError: unknown names (the nearest is given), no source or no target, a target among the sources, domains
            that do not match each other or the network, a batch smaller than the number of sources, BatchNorm without
            running statistics, a checkpoint of other settings, and whatever splits and algorithms refuse.
        TypeError: a network without the two parts.
    """
    sources, targets, named = _named(domains, sources, targets)
    for name, value in (("steps", steps), ("eval_every", eval_every)):
        checks.at_least(name, value, 1)
    share = checks.at_least("batch_size", batch_size, 1) // len(sources)
    if share == 0:
        raise ValueError(f"batch_size must be at least the number of sources, {len(sources)}, got {batch_size}")
    checks.one_of("batch_norm", batch_norm, BATCH_NORM)
    for rule in selection:
        checks.one_of("rule", rule, RULES)
    rate = schedule_called(schedule)
    options = dict(hparams or {})
    if "total_steps" in default_hparams(algorithm):
        options.setdefault("total_steps", steps)
    parts = {name: split_domain(_on(named[name], device), holdout, seed=seed) for name in (*sources, *targets)}
    with _own_draws(device):
        _reseed(seed, device)  # one network for all methods, also if the function does not look at its seed
        model = make_model(seed).to(device)
    method = get_algorithm(algorithm)(model, lambda p: optimizer(p, lr=checks.positive("lr", lr)), seed=seed, **options)
    for name in parts:
        checks.labels(named[name].y, len(named[name]), classes(model))
    if not all(layer.track_running_stats for layer in batch_norms(model)):
        raise ValueError(
            "a BatchNorm of the network has no running statistics, so that predictions would depend on their batch: "
            "make it with track_running_stats=True, or use GroupNorm"
        )
    if batch_norm == "running" and method.model is not method.trained and batch_norms(model):
        raise ValueError(
            f"{algorithm} averages weights, and running statistics are not those of the average: use "
            'batch_norm="frozen", or a network with GroupNorm'
        )

    run = _Run(selection)
    states: dict[str, Stateful] = {"algorithm": method, "run": run}
    facts: dict[str, Any] = {
        "algorithm": algorithm, "options": fingerprint(dict(sorted(options.items()))), "sources": sources,
        "targets": targets, "optimizer": fingerprint(optimizer), "augment": fingerprint(augment),
        "steps": steps, "batch_size": batch_size, "eval_every": eval_every, "lr": lr, "schedule": schedule,
        "batch_norm": batch_norm, "selection": list(selection), "holdout": holdout, "seed": seed,
    }  # fmt: skip
    if checkpoint is not None:
        facts["network"] = fingerprint(model)
        facts["data"] = {name: [fingerprint(named[name].x), fingerprint(named[name].y)] for name in parts}
        resume_training(checkpoint, states, settings=facts)

    looked_at = {
        score: {name: parts[name][part] for name in names}
        for score, names, part in (("val", sources, 1), ("oracle", targets, 1), ("test", targets, 0))
    }
    spent, first = 0.0, method.steps
    _train_mode(method.trained, frozen=batch_norm == "frozen")
    with _own_draws(device):
        while method.steps < steps and run.diverged is None:
            began, step = time.perf_counter(), method.steps
            for group in method.param_groups:
                group["lr"] = lr * rate(step / steps)
            batch = [_batch(parts[name][0], share, step, seed, number) for number, name in enumerate(sources)]
            draws = 2 * (seed * 1_000_003 + step)
            _reseed(draws, device)  # for dropout; so that a step depends on its number, not on those before
            if augment is not None:
                rng = SeedGenerators(draws + 1, device)
                batch = [(augment(x, rng), y) for x, y in batch]
            finite = run.saw(method.update(batch))
            spent += time.perf_counter() - began
            if not finite or method.steps % eval_every == 0 or method.steps == steps:
                run.diverged = None if finite else method.steps
                run.look(method, looked_at)
                if checkpoint is not None:
                    save_training(checkpoint, states, settings=facts)
                if progress is not None:
                    progress(run.history[-1])
    made = method.steps - first
    return RunResult(
        algorithm, seed, tuple(sources), tuple(targets), run.selections(method.model, targets), run.history,
        run.diverged, 1000 * spent / made if made else None,
    )  # fmt: skip


def leave_one_domain_out(algorithm: str, domains: Domains, **settings: Unpack[Settings]) -> dict[str, RunResult]:
    """For every domain, train on all others and test on it.

    Args:
        algorithm, domains: as in `train_domains`, of at least two domains.
        settings: the keyword arguments of `train_domains`; the target's name is put into that of a checkpoint.

    Returns:
        The run of each target, by its name.
    """
    names = _several(domains)
    return {
        name: train_domains(algorithm, names, [n for n in names if n != name], [name], **_apart(settings, name))
        for name in names
    }


def single_source(algorithm: str, domains: Domains, **settings: Unpack[Settings]) -> dict[str, RunResult]:
    """For every domain, train on it alone and test on all others.

    Args:
        algorithm, domains: as in `train_domains`, of at least two domains.
        settings: the keyword arguments of `train_domains`; the source's name is put into that of a checkpoint.

    Returns:
        The run of each source, by its name.
    """
    names = _several(domains)
    return {
        name: train_domains(algorithm, names, [name], [n for n in names if n != name], **_apart(settings, name))
        for name in names
    }


class _Run:
    """The history of a training and the weights that each rule takes, both kept in checkpoints."""

    def __init__(self, rules: Sequence[str]) -> None:
        self.rules = tuple(rules)
        self.history: list[Row] = []
        self.kept: dict[str, tuple[int, dict[str, Tensor]]] = {}
        self.diverged: int | None = None
        self._since: list[dict[str, float]] = []

    def saw(self, values: dict[str, float]) -> bool:
        """Note what a step reports; whether its loss is a finite number."""
        self._since.append(values)
        return bool(np.isfinite(values["loss"]))

    def look(self, method: Algorithm, parts: Mapping[str, Mapping[str, Domain]]) -> None:
        """Evaluate on the parts of each score, by name, and keep the weights for those rules that now take them."""
        reported = {name for values in self._since for name in values}
        row: Row = {"step": method.steps}
        for name in sorted(reported, key=lambda name: (name != "loss", name)):
            row[name] = float(np.mean([values[name] for values in self._since if name in values]))
        for score, domains in parts.items():
            found = {f"{score}/{name}": domain_accuracy(method.model, part) for name, part in domains.items()}
            row |= {score: float(np.mean(list(found.values()))), **found}
        self.history.append(row)
        self._since = []
        now = len(self.history) - 1
        for rule in self.rules:
            if select(self.history, rule) == now:
                self.kept[rule] = now, {key: value.clone() for key, value in method.model.state_dict().items()}

    def selections(self, model: nn.Module, targets: Sequence[str]) -> dict[str, Selection]:
        """What the rules take, each with a network of its own."""
        found = {}
        for rule, (index, state) in self.kept.items():
            row, chosen = self.history[index], copy.deepcopy(model).eval()
            chosen.load_state_dict(state)
            tests = {name: row[f"test/{name}"] for name in targets}
            found[rule] = Selection(int(row["step"]), row["val"], row["test"], chosen, tests)
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "kept": self.kept, "diverged": self.diverged}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.history, self.kept, self.diverged = state["history"], state["kept"], state["diverged"]


def _train_mode(model: nn.Module, *, frozen: bool) -> None:
    """Train mode, but for layers of BatchNorm that are frozen."""
    model.train()
    for layer in batch_norms(model) if frozen else ():
        layer.eval()


def _own_draws(device: torch.device | str) -> AbstractContextManager[None]:
    """The global generators are given back as they were."""
    kind = torch.device(device).type
    return torch.random.fork_rng([] if kind == "cpu" else None, device_type="cuda" if kind == "cpu" else kind)


def _reseed(seed: int, device: torch.device | str) -> None:
    """The global generators that layers draw from; torch.manual_seed also notes who called it, which takes longer."""
    torch.default_generator.manual_seed(seed)
    if torch.device(device).type == "cuda":
        torch.cuda.manual_seed(seed)


@functools.lru_cache(maxsize=64)
def _shuffled(size: int, key: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(key).permutation(size)


def _batch(domain: Domain, share: int, step: int, seed: int, number: int) -> tuple[Tensor, Tensor]:
    """The rows that a domain gives to a step, in shuffled passes one after the other; they depend on the step alone."""
    size, begin = len(domain), step * share
    turns = range(begin // size, (begin + share - 1) // size + 1)
    order = np.concatenate([_shuffled(size, (seed, number, turn)) for turn in turns])
    begin -= turns[0] * size
    rows = torch.from_numpy(order[begin : begin + share]).to(domain.x.device)
    return as_float(domain.x[rows]), domain.y[rows]


def _named(
    domains: Domains, sources: Sequence[str], targets: Sequence[str]
) -> tuple[list[str], list[str], dict[str, Domain]]:
    """Names and domains, checked: all there, none in both lists, all of one kind."""
    named = _by_name(domains)
    for role, names in (("source", sources), ("target", targets)):
        if isinstance(names, str) or len(names) == 0:
            raise ValueError(f"{role}s must name at least one domain in a list, got {names!r}; there are {list(named)}")
        for name in names:
            checks.one_of(role, name, named)
        if len(set(names)) < len(names):
            raise ValueError(f"{role}s name a domain twice: {', '.join(names)}")
    if both := [name for name in targets if name in sources]:
        raise ValueError(
            f"a target must not be a source, and {', '.join(both)} is: nothing of a target may be trained on"
        )
    first, *others = (named[name] for name in (*sources, *targets))
    for other in others:
        if other.classes != first.classes:
            raise ValueError(f"{first} and {other} must have the same classes, got {first.classes} and {other.classes}")
        if other.x.shape[1:] != first.x.shape[1:]:
            shapes = f"{tuple(first.x.shape[1:])} and {tuple(other.x.shape[1:])}"
            raise ValueError(f"{first} and {other} must have images of one shape, got {shapes}: resize them")
    return list(sources), list(targets), named


def _by_name(domains: Domains) -> dict[str, Domain]:
    if isinstance(domains, Mapping):
        return dict(domains)
    listed = list(domains)
    named = {domain.name: domain for domain in listed}
    if len(named) < len(listed):
        raise ValueError(f"domains in a list must have different names, got {[domain.name for domain in listed]}")
    return named


def _several(domains: Domains) -> dict[str, Domain]:
    named = _by_name(domains)
    if len(named) < 2:
        raise ValueError(f"this protocol needs at least 2 domains, got {len(named)}: {', '.join(named) or 'none'}")
    return named


def _apart(settings: Settings, name: str) -> Settings:
    """The settings, with a checkpoint of its own for one of several runs."""
    path = settings.get("checkpoint")
    return settings if path is None else {**settings, "checkpoint": f"{path}.{name}"}


def _on(domain: Domain, device: torch.device | str) -> Domain:
    return replace(domain, x=domain.x.to(device), y=domain.y.to(device))
