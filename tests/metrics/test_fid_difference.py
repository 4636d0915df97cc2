"""The difference of two FIDs: coverage, influences against derivatives, the jackknife, symmetry, errors."""

import math

import pytest
import torch
from torch import Tensor

from flatlab.metrics import FIDDifference, fid, fid_difference, frechet_distance

D = 6
SCALES = torch.logspace(0, -1.5, D, dtype=torch.float64).sqrt()
POPULATIONS = {"real": (0.0, 1.0), "shifted": (0.3, 1.0), "wide": (0.0, 1.5), "narrow": (0.2, 0.6)}


def sample(kind: str, n: int, g: torch.Generator) -> Tensor:
    shift, scale = POPULATIONS[kind]
    return shift + scale * SCALES * torch.randn(n, D, generator=g, dtype=torch.float64)


def true_fid(kind: str) -> float:
    shift, scale = POPULATIONS[kind]
    return D * shift**2 + float(SCALES.square().sum()) * (scale - 1) ** 2


@pytest.mark.parametrize(
    ("a", "b", "size"), [("shifted", "shifted", 200), ("wide", "narrow", 200), ("narrow", "shifted", 400)]
)
def test_covers_the_truth_without_bias(a: str, b: str, size: int) -> None:
    g, truth, runs = torch.Generator().manual_seed(0), true_fid(a) - true_fid(b), 100
    found = [
        fid_difference(sample("real", 200, g), sample(a, 200, g), sample(b, size, g), folds=3) for _ in range(runs)
    ]
    values = torch.tensor([one.value for one in found])
    assert abs(float(values.mean()) - truth) < 3 * float(values.std()) / runs**0.5
    assert 0.89 <= sum(one.low <= truth <= one.high for one in found) / runs <= 0.995
    width = sum(one.high - one.low for one in found) / runs / (2 * 1.95996)
    assert width == pytest.approx(float(values.std()), rel=0.2)


def test_the_jackknife_takes_a_bias_that_the_plain_difference_has() -> None:
    """Few rows of one kind, many of the other: the plain difference is far off."""
    g, runs = torch.Generator().manual_seed(1), 60
    triples = [(sample("real", 900, g), sample("wide", 40, g), sample("wide", 900, g)) for _ in range(runs)]
    plain = torch.tensor([fid(x, a, warn=False) - fid(x, b, warn=False) for x, a, b in triples])
    found = torch.tensor([fid_difference(*triple, folds=5).value for triple in triples])
    assert float(plain.mean()) > 4 * float(plain.std()) / runs**0.5
    assert abs(float(found.mean())) < 3 * float(found.std()) / runs**0.5


def test_the_interval_is_that_of_the_derivatives() -> None:
    """The influence of a row is how FID changes with its weight: by differences."""
    g, n = torch.Generator().manual_seed(2), 120
    rows = [sample(kind, n, g) for kind in ("real", "wide", "narrow")]

    def weighted(k: int, i: int, step: float) -> float:
        """FID(real, a) - FID(real, b) with row i of sample k having another weight."""
        moments = []
        for j, x in enumerate(rows):
            w = torch.ones(n, dtype=torch.float64)
            if j == k:
                w[i] += step
            moments.append((w @ x / w.sum(), x.T.cov(aweights=w, correction=0)))
        return frechet_distance(*moments[0], *moments[1]) - frechet_distance(*moments[0], *moments[2])

    variance = 0.0
    for k in range(3):
        slopes = torch.tensor(
            [(weighted(k, i, 1e-3) - weighted(k, i, -1e-3)) / 2e-3 * n for i in range(n)], dtype=torch.float64
        )
        variance += float(slopes.var()) / n
    found = fid_difference(*rows)
    assert (found.high - found.low) / 2 == pytest.approx(1.959963985 * variance**0.5, rel=1e-5)
    assert found.high - found.value == pytest.approx(found.value - found.low, rel=1e-12)


def test_leaving_out_folds_by_hand() -> None:
    """Halves: what is subtracted is how much farther they are than the whole, for one sample after the other."""
    g = torch.Generator().manual_seed(3)
    x, a, b = (sample(kind, 50, g) for kind in ("real", "wide", "narrow"))
    found = fid_difference(x, a, b, folds=2, seed=4)
    permutations = torch.Generator().manual_seed(4)
    halves = []
    for rows in (x, a, b):
        order = torch.randperm(50, generator=permutations) % 2
        halves.append([rows[order != j] for j in range(2)])

    def difference(x: Tensor, a: Tensor, b: Tensor) -> float:
        return fid(x, a, warn=False) - fid(x, b, warn=False)

    full = difference(x, a, b)
    bias = sum(difference(half, a, b) for half in halves[0]) / 2 - full
    bias += sum(difference(x, half, b) for half in halves[1]) / 2 - full
    bias += sum(difference(x, a, half) for half in halves[2]) / 2 - full
    assert found.value == pytest.approx(full - bias, rel=1e-10)


def test_swapping_levels_and_seeds() -> None:
    g = torch.Generator().manual_seed(5)
    x, a, b = (sample(kind, 90, g) for kind in ("real", "wide", "narrow"))
    state = torch.get_rng_state()
    found, other = fid_difference(x, a, b), fid_difference(x, a, b, seed=1)
    assert isinstance(found, FIDDifference)
    assert found == fid_difference(x.numpy(), a, b) != other
    assert other.high - other.low == pytest.approx(found.high - found.low, rel=1e-12)
    assert torch.equal(torch.get_rng_state(), state)
    swapped = fid_difference(x, b, a)
    assert swapped.high - swapped.low == pytest.approx(found.high - found.low, rel=1e-10)
    assert swapped.value == pytest.approx(-found.value, abs=0.2 * (found.high - found.low))
    narrow = fid_difference(x, a, b, level=0.6826894921)
    assert narrow.high - narrow.value == pytest.approx((found.high - found.value) / 1.959963985, rel=1e-6)
    far = fid_difference(7 + 2 * x, 7 + 2 * a, 7 + 2 * b)
    assert (far.value, far.low) == pytest.approx((4 * found.value, 4 * found.low), rel=1e-9)


def test_directions_without_spread() -> None:
    """A dead feature, and fewer rows than features: no infinite influence."""
    g = torch.Generator().manual_seed(6)
    x, a, b = (sample(kind, 60, g) for kind in ("real", "wide", "narrow"))
    found = fid_difference(x, a, b)
    wide = [torch.cat([rows, torch.zeros(60, 80, dtype=torch.float64)], 1) for rows in (x, a, b)]
    again = fid_difference(*wide)
    assert (again.value, again.low) == pytest.approx((found.value, found.low), rel=1e-8)
    assert fid_difference(*[torch.ones(20, 2)] * 3) == FIDDifference(0.0, 0.0, 0.0)


def test_errors() -> None:
    g = torch.Generator().manual_seed(0)
    x, a, b = (sample(kind, 30, g) for kind in ("real", "wide", "narrow"))
    with pytest.raises(ValueError, match="the number of rows of b must be an integer >= 20, got 19"):
        fid_difference(x, a, b[:19])
    with pytest.raises(ValueError, match="the number of rows of a must be an integer >= 6, got 5"):
        fid_difference(x, a[:5], b, folds=3)
    with pytest.raises(ValueError, match="folds must be an integer >= 2, got 1"):
        fid_difference(x, a, b, folds=1)
    for level in (0, 1, 95, math.nan):
        with pytest.raises(ValueError, match="level must lie in"):
            fid_difference(x, a, b, level=level)
    with pytest.raises(ValueError, match="real and b must have the same features, got 6 and 5 columns"):
        fid_difference(x, a, b[:, 1:])
    with pytest.raises(ValueError, match="^a holds NaN"):
        fid_difference(x, a * math.nan, b)
