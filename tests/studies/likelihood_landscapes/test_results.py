"""Tables over methods and seeds: rows are measures of single networks, and comparisons are made of rows."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch

from flatlab import flatness, stats
from flatlab.studies.likelihood_landscapes import experiments, results


@pytest.fixture(scope="module")
def found(split, networks) -> results.Results:
    return results.Results.of(split, networks, split.cfg.seeds, curvature_points=30)


def made(values: dict[str, list[float]], robust: dict[str, list[float]], kinds: dict[str, str]) -> results.Results:
    """Results of networks with these numbers; PGD-20 leaves one more of ten images right, of b two."""
    rows = [
        {"method": name, "kind": kinds[name], "seed": seed, "phi": phi, "robust": hits}
        for name in values
        for seed, (phi, hits) in enumerate(zip(values[name], robust[name], strict=True))
    ]
    under = {n: np.stack([np.arange(10) < round(10 * share) for share in robust[n]]) for n in robust}
    right = {n: {"robust": hits, "pgd20": hits | (np.arange(10) >= 9 - (n == "b"))} for n, hits in under.items()}
    return results.Results(pd.DataFrame(rows), right)


@pytest.fixture(scope="module")
def invented() -> results.Results:
    phi = {"std": [4.0, 5.0], "a": [2.0, 4.0], "b": [1.0, 2.5], "c": [3.0, 1.0]}
    robust = {"std": [0.1, 0.2], "a": [0.5, 0.4], "b": [0.6, 0.8], "c": [0.3, 0.7]}
    return made(phi, robust, {"std": "plain", "a": "one", "b": "two", "c": "three"})


def test_a_row_is_what_was_measured_of_its_network(split, networks, found) -> None:
    cfg, (x, y) = split.cfg, split.images
    assert list(found.frame["method"]) == ["std", "std", "pgd_at", "pgd_at", "flat_rand", "flat_rand"]
    assert list(found.frame["seed"]) == [20, 21] * 3
    row, hits = experiments.measure_network(
        networks["pgd_at"][1],
        x,
        y,
        cfg.eps,
        suite=cfg.suite,
        seed=21,
        directions=2,
        radii=2,
        weights_at=split.train_set.subset(range(30)).float(),
    )
    assert found.frame.loc[3, list(row)].to_dict() == row
    assert found.frame.loc[3, "gap"] == row["pgd20"] - row["robust"]
    assert np.array_equal(found.hits("clean")["pgd_at"][1], hits["clean"])
    assert found.hits()["pgd_at"].shape == (2, 40)
    assert found.per_seed("phi").loc[21, "pgd_at"] == row["phi"]
    assert list(found.per_seed("phi")) == list(split.cfg.names)
    assert list(found.frame["kind"].cat.categories) == ["baseline", "adversarial", "flat"]


def test_curvature_is_left_out_unless_points_are_named(split, networks) -> None:
    one = dataclasses.replace(split.cfg, methods=split.cfg.methods[:1])
    plain = results.Results.of(dataclasses.replace(split, cfg=one), networks, one.seeds)
    assert "trace" not in plain.frame
    assert plain.rank_correlation("trace") is None


def test_a_network_that_diverged_counts_as_the_steepest(split, networks) -> None:
    lost = split.network(1).eval()
    with torch.no_grad():
        next(lost.parameters()).fill_(math.nan)
    found = results.Results.of(split, networks | {"std": [networks["std"][0], lost]}, split.cfg.seeds)
    assert found.frame.loc[1, "phi"] == found.frame["phi"].drop(1).max()
    assert not found.hits("clean")["std"][1].any()


def test_the_method_that_speaks_most_against_a_claim_decides(invented) -> None:
    assert invented.above_std("phi", ["b", "a"]).value == pytest.approx(-1.5)
    assert invented.above_std("phi", ["b"]).value == pytest.approx(-2.75)
    assert invented.gain(["b", "a", "c"]).value == pytest.approx(0.3)
    assert invented.gain(["b"], "pgd20").value == pytest.approx(0.65)
    assert invented.gap(["a", "b"]).value == pytest.approx(0.2)


def test_correlations_over_methods(invented) -> None:
    found = invented.rank_correlation("phi")
    assert found is not None
    assert found.value == pytest.approx(-1)
    assert found.n == 4
    part = invented.rank_correlation("phi", ["std", "absent", "a", "c"])
    assert part is not None
    assert part.n == 3
    logs = np.log([[4, 2, 1, 3], [5, 4, 2.5, 1]])
    robust = [[0.1, 0.5, 0.6, 0.3], [0.2, 0.4, 0.8, 0.7]]
    linear = [np.corrcoef(a, b)[0, 1] for a, b in zip(logs, robust, strict=True)]
    assert invented.correlation_per_seed("phi", method="pearson").value == pytest.approx(np.mean(linear))
    assert invented.correlation_per_seed("phi").value == pytest.approx((-1 - 0.8) / 2)
    assert invented.correlation_per_seed("phi", ["std", "c", "absent"]).value == pytest.approx(-1)


def test_kinds_are_the_units_of_a_correlation() -> None:
    names = "abcdef"
    phi, robust = ({n: [float((i * step) % 7)] * 2 for i, n in enumerate(names)} for step in (3, 5))
    shares = {n: [value[0] / 10] * 2 for n, value in robust.items()}
    found = made(phi, shares, dict(zip(names, "xxyyzz", strict=True))).rank_correlation("phi")
    assert found is not None
    expected = stats.spearman([phi[n][0] for n in names], [shares[n][0] for n in names], groups=list("xxyyzz"))
    assert (found.value, found.n) == (expected.value, 3)


def test_planes_of_further_seeds_are_compared_with_the_first() -> None:
    axis = torch.linspace(-1, 1, 3)
    planes = {
        name: [flatness.Plane(torch.full((3, 3), level + shift), axis, axis) for shift in (0.0, 0.1, 1.2)]
        for name, level in (("a", 0.0), ("b", 1.0), ("c", 3.0))
    }
    found = results.plane_agreements(planes)
    assert list(found["named"]) == pytest.approx([1, 1 / 3])
    assert found["ratio"][0] > found["ratio"][1]
    assert results.plane_agreements({name: made[:1] for name, made in planes.items()}).empty


def test_energies_are_followed_over_the_radii(split, networks) -> None:
    found = results.energies(split, networks, ["std", "pgd_at"])
    assert list(found["eps"]) == [0.05, 0.05, 0.3, 0.3] * 2
    assert list(found["seed"]) == [20, 21] * 4
    net, (x, y) = networks["pgd_at"][1], split.images
    shift = experiments.log_likelihood_shift(net, x, y, 0.3, steps=40, seed=21)
    assert found["delta"].iloc[-1] == float(shift.mean())
