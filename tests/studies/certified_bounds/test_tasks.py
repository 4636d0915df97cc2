"""Networks of image tasks: what they are trained on, at which rate, and tables and comparisons of their reports."""

import dataclasses
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from flatlab import data, stats, studies, train
from flatlab.studies.certified_bounds import balls, tasks
from flatlab.studies.certified_bounds.settings import CertifiedBounds, Task

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cfg() -> CertifiedBounds:
    quick = studies.resolve("certified_bounds", "quick", seeds=4)
    recipe = dataclasses.replace(quick.tasks[0].recipe, epochs=3)
    changes: dict[str, Any] = {"recipe": recipe, "train_limit": 500, "test_limit": 30, "options": {"widths": (32, 32)}}
    task = dataclasses.replace(quick.tasks[0], eps=0.16, costly=10, halfway=20, curve=(0.0, 0.08), **changes)
    other = dataclasses.replace(task, costly=0, rates={"natural": 1e-12})
    kinds = ("natural", "pgd_at", "fused")
    return dataclasses.replace(
        quick, tasks=(task,), others=(other,), other_kinds=("natural",), kinds=kinds, held_out=400, proven=20
    )


@pytest.fixture(scope="module")
def study(cfg: CertifiedBounds) -> tasks.ImageTasks:
    return tasks.ImageTasks(cfg, device=CPU)


@pytest.fixture(scope="module")
def nets(cfg: CertifiedBounds, study: tasks.ImageTasks) -> dict[tasks.Key, balls.Trained]:
    rates = {"natural": {"lr": 0.02}, "pgd_at": {"lr": 0.01}, "fused": {"lr": 1e-12}}
    return study.train({cfg.tasks[0].name: rates})


def moved(net: balls.Trained, task: Task, study: tasks.ImageTasks) -> float:
    """How far the weights are from those of a network that was trained at next to no rate."""
    return train.distance(net.model, study.fit(task, "natural", 1e-15, (net.seed,))[0].model)


def test_networks_have_the_rates_that_were_chosen_and_others_their_own(cfg, study, nets) -> None:
    (task,), (other,) = cfg.tasks, cfg.others
    wanted = [(task, kind, seed) for kind in cfg.kinds for seed in range(4)]
    assert list(nets) == wanted + [(other, "natural", seed) for seed in range(3)]
    assert all(net.seed == key[2] for key, net in nets.items())
    assert moved(nets[task, "fused", 0], task, study) < 1e-6 < 0.1 < moved(nets[task, "natural", 0], task, study)
    assert moved(nets[other, "natural", 2], other, study) < 1e-6
    assert (len(study.images(task, "train")), len(study.images(task, "test"))) == (500, 30)


def test_rates_are_scored_on_images_that_are_not_trained_on(cfg, study) -> None:
    task = dataclasses.replace(cfg.tasks[0], eps=0.04)
    with mock.patch.object(study, "fit", wraps=study.fit) as fit:
        found = study.score(task, "natural", {"lr": 0.02}, (3,))
    rest, held = data.holdout(study.images(task, "train"), 400, seed=0)
    assert torch.equal(fit.call_args.args[4].x, rest.x)
    (net,) = study.fit(task, "natural", 0.02, (3,), rest)
    left = net.unproven(*held.subset(range(20)).float(), task.eps, balls.PLAIN)
    assert found == [float(left.double().mean())]
    assert 0 < found[0] < 1


def test_each_network_is_reported_on_with_the_images_of_its_task(cfg, study, nets) -> None:
    reports, (task,), (other,) = study.reports(nets), cfg.tasks, cfg.others
    assert list(reports) == list(nets)
    wanted = nets[task, "pgd_at", 1].report(*study.tested(task), task.eps, costly=10)
    assert all(torch.equal(reports[task, "pgd_at", 1][name], flags) for name, flags in wanted.items())
    assert "crown" not in reports[other, "natural", 0]
    table = tasks.rows(reports)
    assert [(row["task"], row["kind"]) for row in table] == [(key[0].name, key[1]) for key in reports]
    row = table[5]
    assert row["cheap"] == pytest.approx(100 * float(wanted["cheap"].double().mean()))
    assert (row["broken"], row["looser"]) == tuple(balls.contradictions(wanted).values())


def test_half_of_the_radius_is_asked_about_for_each_seed(cfg, study, nets) -> None:
    found, task = study.halfway(nets), cfg.tasks[0]
    assert list(found) == ["pgd_at, crown-ibp", "pgd_at, crown", "fused, crown-ibp", "fused, crown"]
    x, y = (part[:20] for part in study.tested(task))
    for seed in cfg.seeds:
        left = nets[task, "pgd_at", seed].unproven(x, y, 0.08, balls.PLAIN)
        assert torch.equal(found["pgd_at, crown"][seed], left)
    assert found["pgd_at, crown"].sum() < found["pgd_at, crown-ibp"].sum()
    without = dataclasses.replace(cfg, kinds=("natural", "fused"))
    assert tasks.ImageTasks(without, device=CPU).halfway(nets) == {}


def test_curves_hold_the_error_between_what_is_broken_and_what_is_unproven(cfg, study, nets) -> None:
    found = study.curves(nets)
    assert [(row["kind"], row["eps"]) for row in found] == [(kind, eps) for kind in cfg.kinds for eps in (0.0, 0.08)]
    names = list(found[0])[3:]
    for row in found:
        assert row["seed"] == 0
        assert row[names[0]] <= row[names[2]] <= row[names[1]]
    x, y = (part[:40] for part in study.tested(cfg.tasks[0]))
    assert found[0][names[0]] == pytest.approx(float(nets[cfg.tasks[0], "natural", 0].misread(x, y).double().mean()))
    assert any(row[names[2]] < row[names[1]] for row in found)


def test_errors_by_ibp_are_those_of_fused_training_at_its_own_rate(cfg, study) -> None:
    task = dataclasses.replace(cfg.tasks[0], rates={"fused": 0.05})
    found = study.ibp_errors(task)
    nets = study.fit(task, "fused", 0.05, cfg.seeds)
    left = [1 - float(net.proven(*study.tested(task), task.eps, "ibp").double().mean()) for net in nets]
    assert found == pytest.approx(left)
    assert len(set(found)) > 1


def reported(*counts: dict[str, int], name: str = "ibp") -> tuple[list[Task], dict[tasks.Key, dict[str, torch.Tensor]]]:
    """Made-up reports of three seeds and twenty images, of each task by the number of flags that are set."""
    made = [dataclasses.replace(studies.resolve("certified_bounds", "quick").tasks[0]) for _ in counts]
    reports = {}
    for task, kinds in zip(made, counts, strict=True):
        for kind, count in kinds.items():
            for seed in range(3):
                reports[task, kind, seed] = {name: (torch.arange(20) + 3 * seed) % 20 < count}
    return made, reports


def table(reports: dict[tasks.Key, dict[str, torch.Tensor]], task: Task, kind: str) -> np.ndarray:
    return np.stack([flags["ibp"].numpy() for key, flags in reports.items() if key[:2] == (task, kind)])


def test_one_task_is_compared_by_itself_and_several_by_the_worst() -> None:
    made, reports = reported({"fused": 4, "ibp": 9}, {"fused": 6, "ibp": 8}, {"fused": 3})
    each = [stats.crossed_difference(table(reports, task, "fused"), table(reports, task, "ibp")) for task in made[:2]]
    alone = tasks.compared(reports, made[:1], "ibp", "fused", "ibp")
    assert alone is not None
    assert (alone.value, alone.low, alone.high) == (pytest.approx(-0.25), each[0].low, each[0].high)
    both, worst = tasks.compared(reports, made, "ibp", "fused", "ibp"), stats.largest(each)
    assert both is not None
    assert (both.value, both.low, both.high) == (pytest.approx(-0.1), worst.low, worst.high)


def test_several_tasks_that_are_to_be_the_same_are_judged_by_their_hull() -> None:
    made, reports = reported({"fused": 4, "ibp": 9}, {"fused": 8, "ibp": 6})
    found = tasks.compared(reports, made, "ibp", "fused", "ibp", make=stats.equivalence)
    each = [stats.equivalence(table(reports, task, "fused"), table(reports, task, "ibp")) for task in made]
    hull = stats.hull(each)
    assert found is not None
    assert (found.value, found.low, found.high) == (hull.value, hull.low, hull.high)
    assert found.value == pytest.approx(-0.25)  # the farthest, not the largest
    assert found.level == 0.9


def test_what_no_task_has_is_not_compared() -> None:
    made, reports = reported({"fused": 4, "ibp": 9})
    assert tasks.compared(reports, made, "verified", "fused", "ibp") is None
    assert tasks.compared(reports, made, "ibp", "fused", "pgd_at") is None
    assert tasks.compared(reports, (), "ibp", "fused", "ibp") is None
