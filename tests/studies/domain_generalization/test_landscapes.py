"""Inconsistency, sharpness, slices, and the bound's pieces of 06, each against what it says computed by hand."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flatlab import dg
from flatlab.studies.domain_generalization import landscapes
from flatlab.studies.domain_generalization.worlds import Method, Task, train_all


def loss_at(model, way: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> float:
    """Cross-entropy of a copy of the model whose weights moved by `way`."""
    moved = copy.deepcopy(model).to(x.dtype)
    with torch.no_grad():
        for p, step in zip(moved.parameters(), way, strict=True):
            p += step
        return float(F.cross_entropy(moved(x), y))


def seen(domain: dg.Domain) -> tuple[torch.Tensor, torch.Tensor]:
    part = domain.at_most(400)
    return part.x.float() / 255, part.y


def unit_ways(model, seed: int, count: int) -> list[list[torch.Tensor]]:
    """Gaussian directions of length 1, drawn one after the other."""
    g = torch.Generator().manual_seed(seed)
    ways = []
    for _ in range(count):
        way = [torch.randn(p.shape, generator=g).to(p.dtype) for p in model.parameters()]
        length = math.sqrt(sum(float(t.square().sum()) for t in way))
        ways.append([t / length for t in way])
    return ways


def test_the_temperature_brings_confidence_to_its_level_and_goes_with_the_logits() -> None:
    logits = 5 * torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    found = landscapes.temperature(logits, 0.8)
    assert float((logits / found).softmax(1).amax(1).mean()) == pytest.approx(0.8, abs=1e-5)
    for k in (0.3, 4.0):
        assert landscapes.temperature(k * logits, 0.8) == pytest.approx(k * found, rel=1e-4)
    assert landscapes.temperature(logits) == landscapes.temperature(logits, 0.9) < found


def test_temperatures_stay_between_a_hundredth_and_a_hundred() -> None:
    assert landscapes.temperature(torch.zeros(3, 4)) == pytest.approx(0.01), "equal logits are never confident"
    assert landscapes.temperature(1e6 * torch.eye(4), 0.5) == pytest.approx(100)


def test_a_measure_sees_at_most_400_images_as_floats() -> None:
    many = dg.Domain(torch.full((900, 1, 2, 2), 51, dtype=torch.uint8), torch.arange(900) % 3, "many")
    x, y = landscapes.images(many)
    assert len(x) == len(y) == landscapes.MOST == 400
    assert x.unique().tolist() == pytest.approx([0.2])
    assert len(landscapes.images(many.at_most(30))[0]) == 30


def test_measures_are_those_of_dg_averaged_over_runs_and_targets(trained) -> None:
    frame = landscapes.measures(trained, ["UDIM", "ERM"], rho=0.1)
    kinds = ("inconsistency", "sharpness", "sharpness of sources")
    matched = [f"{kind} at matched confidence" for kind in kinds]
    assert set(frame.columns) == {"method", "seed", "accuracy", "temperature", "confidence", *kinds, *matched}
    assert list(zip(frame.method, frame.seed, strict=True)) == [("UDIM", 3), ("UDIM", 1), ("ERM", 3), ("ERM", 1)]

    found = []
    for run in trained.runs["UDIM", 1]:
        model = run.selected["iid"].model
        parts = {
            name: [seen(part) for part in dg.split_domain(domain, seed=1)]
            for name, domain in trained.domains[1].items()
        }
        source, held = (
            tuple(torch.cat(both) for both in zip(*(parts[n][i] for n in run.sources), strict=True)) for i in (0, 1)
        )
        t = landscapes.temperature(model(held[0]).detach())
        for name in run.targets:
            target = parts[name][0]
            row = {"accuracy": run.selected["iid"].targets[name], "temperature": t}
            row["confidence"] = model(target[0]).softmax(1).max(1).values.mean().item()
            for scale, suffix in ((1.0, ""), (t, " at matched confidence")):
                gap = dg.domain_inconsistency(model, source, target, rho=0.1, temperature=scale, seed=1)
                sharp = dg.domain_sharpness(model, {"s": source, "t": target}, rho=0.1, temperature=scale)
                row |= {f"inconsistency{suffix}": gap, f"sharpness{suffix}": sharp["t"]}
                row[f"sharpness of sources{suffix}"] = sharp["s"]
            found.append(row)
    assert len(found) == 3
    for name in found[0]:
        assert frame.loc[1, name] == pytest.approx(np.mean([row[name] for row in found]), rel=1e-5), name
    assert frame.accuracy[2:].tolist() == pytest.approx(trained.accuracy("ERM").tolist())


def test_planes_cut_all_methods_along_the_same_two_directions(trained) -> None:
    found = landscapes.planes(trained, ["SAM", "ERM"], "45", span=0.6, n=3)
    assert list(found) == ["SAM, source", "ERM, source", "SAM, 45", "ERM, 45"]
    for label in ("SAM", "ERM"):
        model = trained.runs[label, 3][0].selected["iid"].model
        one, two = unit_ways(model, 0, 2)
        for name, place in (("source", "0"), ("45", "45")):
            part, _ = dg.split_domain(trained.domains[3][place], seed=3)
            for i, j in ((1, 1), (0, 1), (2, 0)):
                way = [0.6 * ((i - 1) * a + (j - 1) * b) for a, b in zip(one, two, strict=True)]
                assert found[f"{label}, {name}"].values[i, j] == pytest.approx(
                    loss_at(model, way, *seen(part)), rel=1e-5
                )


def test_the_plane_of_a_target_is_around_weights_that_did_not_see_it(trained) -> None:
    (source, target) = landscapes.planes(trained, ["ERM"], "0", span=0.1, n=3).values()
    run = trained.runs["ERM", 3][1]
    assert run.targets == ("0",)
    for plane, place in ((source, run.sources[0]), (target, "0")):
        part, _ = dg.split_domain(trained.domains[3][place], seed=3)
        x, y = seen(part)
        here = F.cross_entropy(run.selected["iid"].model(x), y).item()
        assert plane.values[1, 1] == pytest.approx(here, rel=1e-5)


def by_hand(values: np.ndarray) -> tuple[np.ndarray, float]:
    """What T3 and T5 are exceeded by at weights x domains, the source first."""
    gaps, n = values - values[:, :1], values.shape[1]
    t3 = values.mean(1) - values[:, 0] - (n - 1) / n * np.abs(gaps).max(1)
    t5 = max(values[:, e].max() - values[:, 0].max() - np.abs(gaps[:, e]).max() for e in range(1, n))
    return t3, t5


def test_the_inequalities_of_the_bound_hold_near_trained_weights(trained) -> None:
    found = landscapes.bound_pieces(trained, "UDIM", points=4, rho=0.5)
    assert found.shape == (8, 2)
    assert found.max() < 1e-12
    run = trained.runs["UDIM", 1][0]
    model = copy.deepcopy(run.selected["iid"].model).double()
    data = [seen(trained.domains[1][name]) for name in ("0", "15", "45")]
    ways = unit_ways(model, 1, 4)
    values = [[loss_at(model, [0.5 * t for t in way], x.double(), y) for x, y in data] for way in ways]
    t3, t5 = by_hand(np.array(values))
    assert found[4:, 0] == pytest.approx(t3, abs=1e-9)
    assert found[4:, 1] == pytest.approx(t5, abs=1e-9)
    assert not np.allclose(found[:4], found[4:]), "each network has its own"


def test_of_two_domains_the_first_inequality_is_an_equality() -> None:
    """So that any smaller factor than (1 - 1/n) would be found to fail."""
    task = Task("rotated", (("0",),), {"angles": (0, 90)}, network_options={"widths": (8,)}, steps=20, eval_every=10)
    found = landscapes.bound_pieces(train_all(task, {"ERM": Method("ERM", 1e-2)}, (0,)), "ERM", points=5)
    assert np.abs(found[:, 0]).max() < 1e-12
    assert found[:, 1].max() < 1e-12
