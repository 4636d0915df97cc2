"""The image tasks of the settings: networks trained on them, and tables and comparisons of what is verified."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatlab import bounds, data, models, stats, train
from flatlab.studies.certified_bounds.balls import CHEAP, PLAIN, Trained, contradictions, goal
from flatlab.studies.certified_bounds.settings import CertifiedBounds, Task

Key = tuple[Task, str, int]
"""Task, kind of training, seed."""
Reports = Mapping[Key, Mapping[str, Tensor]]
"""A `Trained.report` for each network."""


class ImageTasks:
    """All tasks of a run.

    Args:
        cfg: names them.
        root: folder of image sets, as in `flatlab.data.load_images`, or empty.
        device: where to train and verify.
    """

    def __init__(self, cfg: CertifiedBounds, *, root: str = "", device: torch.device) -> None:
        self.cfg, self.root, self.device = cfg, root, device

    def images(self, task: Task, split: str) -> data.ImageSet:
        """The images of a task: split "train" or "test"."""
        limit = task.train_limit if split == "train" else task.test_limit
        return data.load_images(task.dataset, split, root=self.root or None, limit=limit)

    def tested(self, task: Task) -> tuple[Tensor, Tensor]:
        """Test images (N, ...) in [0, 1] and labels (N,), on the device."""
        return self.images(task, "test").float(self.device)

    def fit(
        self, task: Task, kind: str, lr: float, seeds: Sequence[int], training_set: data.ImageSet | None = None
    ) -> list[Trained]:
        """Train a network of a task for each seed.

        Args:
            task, kind: which network, how long, on what; see `balls.goal`.
            lr: peak learning rate.
            seeds: of the networks.
            training_set: other images than the task's.
        """
        shown = self.images(task, "train") if training_set is None else training_set
        shape, classes = tuple(shown.x.shape[1:]), len(shown.classes)
        recipe = dataclasses.replace(task.recipe, lr=lr)
        build = lambda s: models.build(task.model, shape, classes, seed=s, options=task.options)  # noqa: E731
        nets = train.fit_seeds(build, shown, goal(task, kind), recipe, seeds=seeds, device=self.device)
        example = shown.subset(range(3)).float(self.device)[0]
        return [Trained(net, s, bounds.Program(net, example)) for net, s in zip(nets, seeds, strict=True)]

    def score(self, task: Task, kind: str, options: dict[str, Any], seeds: Sequence[int]) -> list[float]:
        """For `flatlab.train.sweep`, with the task put in: errors left by IBP, CROWN-IBP and CROWN on held-out images.

        Args:
            task: whose training images are split.
            kind, options, seeds: of training; the options are {"lr": ...}.
        """
        shown, held = data.holdout(self.images(task, "train"), self.cfg.held_out, seed=0)
        x, y = held.subset(range(self.cfg.proven)).float(self.device)
        nets = self.fit(task, kind, options["lr"], seeds, shown)
        return [net.unproven(x, y, task.eps, PLAIN).double().mean().item() for net in nets]

    def train(self, chosen: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[Key, Trained]:
        """Networks of all tasks, and of the first three seeds for `cfg.others`, which keep their own rates.

        Args:
            chosen: name of a task -> kind of training -> {"lr": ...}.
        """
        cfg = self.cfg
        plan = [(task, kind, found["lr"], cfg.seeds) for task in cfg.tasks for kind, found in chosen[task.name].items()]
        plan += [(task, kind, task.rate(kind), cfg.seeds[:3]) for task in cfg.others for kind in cfg.other_kinds]
        return {(task, kind, net.seed): net for task, kind, lr, s in plan for net in self.fit(task, kind, lr, s)}

    def reports(self, nets: Mapping[Key, Trained]) -> dict[Key, dict[str, Tensor]]:
        """What is verified of each network on the test images of its task."""
        tested = {task: self.tested(task) for task in dict.fromkeys(key[0] for key in nets)}
        return {key: net.report(*tested[key[0]], key[0].eps, costly=key[0].costly) for key, net in nets.items()}

    def halfway(self, nets: Mapping[Key, Trained]) -> dict[str, Tensor]:
        """What is left unproven of the last task at half of the radius.

        Args:
            nets: of all seeds.

        Returns:
            "KIND, METHOD" -> bool (seeds, N) on the CPU, for adversarial ("pgd_at") and "fused" training, where METHOD
            is the last of `CHEAP` or of `PLAIN`; nothing where the settings leave this out.
        """
        task, found = self.cfg.tasks[-1], {}
        if "pgd_at" not in self.cfg.kinds or not task.halfway:
            return {}
        x, y = (part[: task.halfway] for part in self.tested(task))
        for kind in ("pgd_at", "fused"):
            for methods in (CHEAP, PLAIN):
                left = [nets[task, kind, seed].unproven(x, y, task.eps / 2, methods) for seed in self.cfg.seeds]
                found[f"{kind}, {methods[-1]}"] = torch.stack(left).cpu()
        return found

    def curves(self, nets: Mapping[Key, Trained]) -> list[dict[str, Any]]:
        """Errors of the last task on 40 test images by radius: a row for each kind, first seed, and radius of `curve`.

        Args:
            nets: at least those of the first seed.

        Returns:
            Rows of "kind", "seed", "eps", and lower and upper limits of the error in [0, 1], named as in the figure.
        """
        task, rows = self.cfg.tasks[-1], []
        x, y = (part[:40] for part in self.tested(task))
        for kind in self.cfg.kinds:
            net = nets[task, kind, self.cfg.seeds[0]]
            for eps in task.curve:
                steps = {"at least (PGD)": net.misread(net.attacked(x, y, eps), y)}
                steps["at most (IBP, CROWN-IBP)"] = net.unproven(x, y, eps, CHEAP)
                steps["at most (CROWN as well)"] = net.unproven(x, y, eps, PLAIN if task.costly else CHEAP)
                rows.append({"kind": kind, "seed": net.seed, "eps": eps} | _shares(steps))
        return rows

    def ibp_errors(self, task: Task) -> list[float]:
        """The error in [0, 1] as verified by IBP of a network of fused training for each seed."""
        nets, at = self.fit(task, "fused", task.rate("fused"), self.cfg.seeds), self.tested(task)
        return [1 - net.proven(*at, task.eps, "ibp").double().mean().item() for net in nets]


def rows(reports: Reports) -> list[dict[str, Any]]:
    """A row of a table for each report: "task", "kind", `contradictions`, and the report's shares in percent."""
    return [
        {"task": task.name, "kind": kind, **contradictions(found)}
        | {name: 100 * share for name, share in _shares(found).items()}
        for (task, kind, _), found in reports.items()
    ]


def compared(
    reports: Reports,
    tasks: Sequence[Task],
    name: str,
    a: str,
    b: str,
    *,
    make: Callable[..., stats.Estimate] = stats.crossed_difference,
) -> stats.Estimate | None:
    """By how much two kinds of training differ in one column of their reports, over seeds crossed with images.

    Args:
        reports: of all networks.
        tasks: that are compared; those without the column, or without one of the kinds, are left out.
        name: the column.
        a, b: kinds of training.
        make: `stats.crossed_difference`, or `stats.equivalence`.

    Returns:
        Of several tasks the largest difference, or the hull of all where they are to be the same; None if no task has
        both.
    """
    parts = [stats.crossed_columns(_column(reports, task, name), a, b, make=make) for task in tasks]
    known = [part for part in parts if part is not None]
    pick = stats.hull if make is stats.equivalence else stats.largest
    return known[0] if len(known) == 1 else pick(known) if known else None


def _column(reports: Reports, task: Task, name: str) -> dict[str, NDArray[np.bool_]]:
    """Kind of training -> one column of its reports, (seeds, N)."""
    found: dict[str, list[NDArray[np.bool_]]] = {}
    for (of, kind, _), report in reports.items():
        if of is task and name in report:
            found.setdefault(kind, []).append(report[name].cpu().numpy())
    return {kind: np.stack(flags) for kind, flags in found.items()}


def _shares(flags: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: each.double().mean().item() for name, each in flags.items()}
