"""Protocols: checkpoints that continue exactly, the two protocols over all domains, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flatlab import dg, optim
from flatlab.models import FeatureNet, mlp
from flatlab.train import crop_flip


def toy(n: int = 30) -> dict[str, dg.Domain]:
    g = torch.Generator().manual_seed(3)
    images = [torch.randint(0, 255, (n, 1, 4, 4), generator=g).byte() for _ in range(4)]
    return {name: dg.Domain(x, torch.arange(n) % 3, name) for name, x in zip("abcd", images, strict=True)}


def net(seed: int) -> nn.Module:
    return FeatureNet(mlp((1, 4, 4), 3, widths=(8,)))


def dropping(seed: int) -> nn.Module:
    return FeatureNet(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.5), nn.Linear(8, 3)))


def started(weight: float) -> nn.Module:
    """A network of the same `repr` whose first weights are others."""
    model = dropping(0)
    nn.init.constant_(model.classifier.weight, weight)
    return model


def averaging(seed: int, **options: Any) -> nn.Module:
    return FeatureNet(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8, **options), nn.Linear(8, 3)))


USUAL: dict[str, Any] = {"make_model": net, "steps": 6, "batch_size": 12, "eval_every": 2, "lr": 0.03}


def train(name: str = "ERM", domains: Any = None, sources: Any = "ab", targets: Any = "c", **changed: Any) -> Any:
    return dg.train_domains(name, domains or toy(), list(sources), list(targets), **{**USUAL, **changed})


def assert_same(a: dg.RunResult, b: dg.RunResult) -> None:
    assert (a.history, a.diverged, list(a.selected)) == (b.history, b.diverged, list(b.selected))
    for rule, chosen in a.selected.items():
        other = b.selected[rule]
        assert (chosen[:3], chosen.targets) == (other[:3], other.targets)
        states = chosen.model.state_dict(), other.model.state_dict()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def stop_after(evaluations: int) -> Callable[[Any], None]:
    def progress(row: dict[str, float]) -> None:
        if row["step"] == 2 * evaluations:
            raise KeyboardInterrupt

    return progress


def no_step(*args: Any) -> None:
    raise AssertionError("a step was made")


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ERM": ("ERM", {"schedule": "cosine"}),
    "SAM with BatchNorm": ("SAM", {"make_model": averaging}),
    "UDIM that warms up": ("UDIM", {"hparams": {"warmup": 0.5}}),
    "SWAD": ("SWAD", {"steps": 7}),
    "Mixup": ("Mixup", {}),
    "Fishr": ("Fishr", {"hparams": {"anneal": 3}}),
    "dropout and augmentation": ("ERM", {"make_model": dropping, "augment": crop_flip}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("evaluations", [1, 2])
def test_an_interrupted_run_continues_exactly(
    case: str, evaluations: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, changed = CASES[case]
    path = tmp_path / "run.safetensors"
    whole = train(name, **changed)
    with pytest.raises(KeyboardInterrupt):
        train(name, **changed, checkpoint=path, progress=stop_after(evaluations))
    torch.manual_seed(9)
    rows: list[dict[str, float]] = []
    resumed = train(name, **changed, checkpoint=path, progress=rows.append)
    assert rows == whole.history[evaluations:]
    assert_same(resumed, whole)
    assert resumed.ms_per_step > 0

    monkeypatch.setattr(dg.Algorithm, "update", no_step)
    read = train(name, **changed, checkpoint=path, progress=no_step)
    assert_same(read, whole)
    assert read.ms_per_step is None


CHANGED: dict[str, dict[str, Any]] = {
    "algorithm": {"name": "Mixup"},
    "options": {"hparams": {"rho": 0.1}},
    "sources": {"sources": "ba"},
    "targets": {"targets": "cd"},
    "steps": {"steps": 8},
    "batch_size": {"batch_size": 13},
    "eval_every": {"eval_every": 3},
    "lr": {"lr": 0.02},
    "schedule": {"schedule": "cosine"},
    "batch_norm": {"batch_norm": "frozen"},
    "selection": {"selection": ("iid", "last")},
    "holdout": {"holdout": 0.3},
    "seed": {"seed": 1},
    "network": {"make_model": dropping},
    "optimizer": {"optimizer": torch.optim.NAdam},
    "augment": {"augment": crop_flip},
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_checkpoint_of_other_settings_is_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    train("SAM", steps=2, checkpoint=path)
    with pytest.raises(ValueError, match=rf"made with other settings \(.*\b{what}\b.*delete it or name another"):
        train(**{"name": "SAM", "steps": 2, **CHANGED[what]}, checkpoint=path)


@pytest.mark.parametrize("what", ["augment", "optimizer", "options", "network"])
def test_a_checkpoint_knows_functions_by_content(what: str, tmp_path: Path) -> None:
    def settings(number: float) -> dict[str, Any]:
        return {
            "augment": {"augment": lambda x, rng: x + number},
            "optimizer": {"optimizer": lambda p, lr: torch.optim.Adam(p, lr=lr, weight_decay=number)},
            "options": {"hparams": {"rho": number}},
            "network": {"make_model": lambda seed: started(number)},
        }[what]

    for _ in range(2):
        train("SAM", steps=2, checkpoint=tmp_path / "run", **settings(0.125))
    with pytest.raises(ValueError, match=rf"run was made with other settings \({what}\)"):
        train("SAM", steps=2, checkpoint=tmp_path / "run", **settings(0.25))


@pytest.mark.parametrize("part", ["x", "y"])
@pytest.mark.parametrize("name", ["a", "c", "d"])
def test_a_checkpoint_of_other_data_is_refused(name: str, part: str, tmp_path: Path) -> None:
    path, domains = tmp_path / "run", toy()
    train(steps=2, checkpoint=path)
    changed = getattr(domains[name], part).clone()
    changed.view(-1)[3] = 1  # one pixel, or one label, which was 0
    other = domains | {name: replace(domains[name], **{part: changed})}
    if name == "d":  # neither source nor target
        train(domains=other, steps=2, checkpoint=path)
    else:
        with pytest.raises(ValueError, match=r"other settings \(data\)"):
            train(domains=other, steps=2, checkpoint=path)


def test_leaving_one_out_trains_on_all_others(tmp_path: Path) -> None:
    domains = list(toy().values())
    runs = dg.leave_one_domain_out("SAM", iter(domains), **USUAL, checkpoint=tmp_path / "run", seed=3)
    assert list(runs) == list("abcd")
    for name, run in runs.items():
        assert (run.sources, run.targets) == (tuple(n for n in "abcd" if n != name), (name,))
        assert (run.algorithm, run.seed) == ("SAM", 3)
        assert_same(run, train("SAM", domains, run.sources, run.targets, seed=3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.a", "run.b", "run.c", "run.d"]


def test_a_single_source_is_tested_on_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**USUAL, "checkpoint": tmp_path / "run"}
    runs = dg.single_source("ERM", toy(), **settings)
    for name, run in runs.items():
        assert (run.sources, run.targets) == ((name,), tuple(n for n in "abcd" if n != name))
        assert_same(run, train("ERM", sources=run.sources, targets=run.targets))
    assert list(runs) == list("abcd")
    assert [row["target"] for row in runs["b"].rows()] == ["a", "c", "d"] * 3
    monkeypatch.setattr(dg.Algorithm, "update", no_step)
    for name, run in dg.single_source("ERM", toy(), **settings).items():
        assert_same(run, runs[name])


def test_domains_go_by_the_names_of_their_mapping_or_their_own_and_rules_may_be_few() -> None:
    domains = {name.upper(): domain for name, domain in toy().items()}
    assert_same(train(domains=domains, sources="AB", targets="C"), renamed(train()))
    few = train(selection=["last"])
    assert list(few.selected) == ["last"]


def renamed(run: dg.RunResult) -> dg.RunResult:
    """As if the domains had had capital names."""
    history = [{key[:-1] + key[-1].upper() if "/" in key else key: row[key] for key in row} for row in run.history]
    selected = {
        rule: chosen._replace(targets={name.upper(): value for name, value in chosen.targets.items()})
        for rule, chosen in run.selected.items()
    }
    return replace(run, history=history, selected=selected)


def with_labels(y: torch.Tensor, name: str = "a", **changed: Any) -> dict[str, dg.Domain]:
    """Domains of which one has only so many images, with these labels."""
    domains = toy()
    return domains | {name: replace(domains[name], x=domains[name].x[: len(y)], y=y, **changed)}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "algorithm": ({"name": "UDMI"}, "unknown algorithm 'UDMI': choose one of ERM, .*; did you mean 'UDIM'"),
    "source": ({"sources": ["a", "bb"]}, "unknown source 'bb': choose one of a, b, c, d"),
    "target": ({"targets": ["cc"]}, "unknown target 'cc': choose one of a, b, c, d"),
    "rule": ({"selection": ["oracel"]}, "unknown rule 'oracel': .* did you mean 'oracle'"),
    "batch_norm": ({"batch_norm": "runing"}, "unknown batch_norm 'runing': .* did you mean 'running'"),
    "schedule": ({"schedule": "cosin"}, "unknown schedule 'cosin': .* did you mean 'cosine'"),
    "no source": ({"sources": []}, r"^sources must name at least one domain in a list, got \[\]; .*'d'"),
    "no target": ({"targets": []}, r"^targets must name at least one domain in a list, got \[\]; .*'d'"),
    "a source twice": ({"sources": "aba"}, "^sources name a domain twice: a, b, a"),
    "a target twice": ({"targets": "cc"}, "^targets name a domain twice: c, c"),
    "a target that is a source": ({"targets": "cb"}, "a target must not be a source, and b is: nothing of a target"),
    "classes": (
        {"domains": {n: replace(d, classes=("x", "y", n)) for n, d in toy().items()}},
        r"domain 'a' and domain 'b' must have the same classes, got \('x', 'y', 'a'\) and \('x', 'y', 'b'\)",
    ),
    "shapes": (
        {"domains": toy() | {"c": replace(toy()["c"], x=toy()["c"].x[..., 1:])}},
        r"domain 'a' and domain 'c' must have images of one shape, got \(1, 4, 4\) and \(1, 4, 3\): resize",
    ),
    "equal names": ({"domains": [*toy().values(), toy()["a"]]}, "different names, got .'a', 'b', 'c', 'd', 'a'."),
    "few images": ({"domains": with_labels(torch.arange(4) // 2, "c")}, "domain 'c' has 4 sample.* at least 5"),
    "rare class": ({"domains": with_labels(torch.tensor([0, 0, 0, 1, 1, 2]))}, "class 2 of domain 'a' has 1 sample"),
    "holdout": ({"holdout": 1.0}, "holdout must be a fraction in .0, 1., got 1.0"),
    "batch_size": ({"batch_size": 1}, "batch_size must be at least the number of sources, 2, got 1"),
    "no batch": ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
    "rows of a domain": ({"name": "Fishr", "batch_size": 2}, "has 1 rows, and Fishr needs at least 2 of each domain"),
    "steps": ({"steps": 0}, "steps must be an integer >= 1, got 0"),
    "eval_every": ({"eval_every": 0}, "eval_every must be an integer >= 1, got 0"),
    "lr": ({"lr": 0.0}, "lr must be a finite number > 0, got 0.0"),
    "labels of a source": ({"domains": with_labels(torch.arange(20) % 4)}, r"labels must lie in 0..2, got 0..3"),
    "labels of a target": ({"domains": with_labels(torch.arange(20) % 4, "c")}, r"labels must lie in 0..2, got 0..3"),
    "two passes": ({"optimizer": optim.SAM}, "optimizer is SAM, .* give its base optimizer, and take the algorithm"),
    "statistics of the batch": (
        {"make_model": lambda seed: averaging(seed, track_running_stats=False)},
        "BatchNorm of the network has no running statistics, .* or use GroupNorm",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_refused_before_a_step_is_reported(what: str) -> None:
    changed, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        train(**changed, progress=no_step)


def test_a_name_in_the_place_of_a_list_is_refused() -> None:
    for names in ({"sources": "ab"}, {"targets": "c"}):
        role, name = next(iter(names.items()))
        with pytest.raises(ValueError, match=rf"^{role} must name at least one domain in a list, got '{name}'"):
            dg.train_domains("ERM", toy(), **{"sources": ["a"], "targets": ["c"], **names}, **USUAL)


def test_a_network_without_the_two_parts_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^model must have a \.featurizer"):
        train(make_model=lambda seed: mlp((1, 4, 4), 3))


@pytest.mark.parametrize("protocol", [dg.leave_one_domain_out, dg.single_source])
def test_protocols_over_all_domains_need_two(protocol: Any) -> None:
    for domains, found in (([toy()["a"]], "1: a"), ({}, "0: none")):
        with pytest.raises(ValueError, match=f"^this protocol needs at least 2 domains, got {found}$"):
            protocol("ERM", domains, **USUAL)
    with pytest.raises(ValueError, match="different names"):
        protocol("ERM", [toy()["a"], toy()["a"]], **USUAL)
