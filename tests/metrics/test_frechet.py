"""Frechet distance: closed forms, scipy's matrix root, invariances, singular covariances, bad input."""

import math

import pytest
import torch
from scipy import linalg
from torch import Tensor

from flatlab.metrics import fid, frechet_distance


def draws(n: int, d: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Correlated features (n, d) with another mean and covariance for each seed."""
    g = torch.Generator().manual_seed(seed)
    mix, shift = torch.randn(d, d, generator=g, dtype=torch.float64), torch.randn(d, generator=g, dtype=torch.float64)
    return scale * (torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + shift)


def rotation(d: int) -> Tensor:
    return torch.linalg.qr(draws(d, d, seed=9)).Q


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), x.T.cov()


def test_known_answer() -> None:
    """Means (.5, 1) and (2, 3); the covariances diag(1/3, 4/3) and four times that: 6.25 + 5/3."""
    a = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [1.0, 2.0]])
    assert fid(a, 2 * a + 1) == pytest.approx(7.9166667, abs=1e-7)
    assert fid(a, 2 * a + 1) == pytest.approx(6.25 + 5 / 3, rel=1e-14)


def test_one_dimension_is_a_difference_of_deviations() -> None:
    found = frechet_distance(*(torch.tensor(v) for v in ([1.0], [[4.0]], [-2.0], [[0.25]])))
    assert found == pytest.approx(9 + 1.5**2, rel=1e-14)


@pytest.mark.parametrize(("n", "m", "d"), [(50, 60, 1), (30, 80, 5), (200, 40, 20)])
def test_agrees_with_the_root_of_the_product(n: int, m: int, d: int) -> None:
    a, b = draws(n, d, 1), draws(m, d, 2, 0.7)
    (mean_a, cov_a), (mean_b, cov_b) = moments(a), moments(b)
    cov_a, cov_b = cov_a.reshape(d, d), cov_b.reshape(d, d)
    trace = linalg.sqrtm((cov_a @ cov_b).numpy()).real.trace()
    expected = float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace()) - 2 * trace
    assert fid(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(mean_a, cov_a, mean_b, cov_b) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("n", "m", "d"), [(3, 40, 8), (4, 5, 12), (2, 2, 30), (8, 8, 8)])
def test_fewer_rows_than_features(n: int, m: int, d: int) -> None:
    """Against the commuting case in closed form, and against the covariances by themselves."""
    a, b = draws(n, d, 1), draws(m, d, 2)
    found = fid(a, b)
    assert found == pytest.approx(frechet_distance(*moments(a), *moments(b)), rel=1e-5)
    mean, covariance = moments(a)
    expected = float(mean.square().sum() + (3 - 1) ** 2 * covariance.trace())
    assert fid(a, 3 * (a - mean)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (5, 20), (2, 2)])
def test_no_distance_between_a_sample_and_itself(n: int, d: int) -> None:
    a = draws(n, d)
    assert 0 <= fid(a, a) < 1e-9
    assert 0 <= fid(a, a.flip(0)) < 1e-9
    assert 0 <= frechet_distance(*moments(a), *moments(a)) < 1e-9
    assert fid(torch.ones(3, 2), torch.ones(4, 2)) == 0


@pytest.mark.parametrize(("n", "d"), [(40, 6), (5, 20)])
def test_symmetric_and_invariant(n: int, d: int) -> None:
    a, b, turn = draws(n, d, 1), draws(n + 3, d, 2), rotation(d)
    found = fid(a, b)
    assert found > 0.1
    assert fid(b, a) == pytest.approx(found, rel=1e-10)
    assert fid(a @ turn + 7, b @ turn + 7) == pytest.approx(found, rel=1e-10)
    assert fid(-3 * a, -3 * b) == pytest.approx(9 * found, rel=1e-10)
    assert fid(a.flip(0), b) == pytest.approx(found, rel=1e-10)


def test_computes_in_double_precision() -> None:
    """A mean far from 0 would drown the covariance in float32, and whole numbers are features as well."""
    a = torch.arange(12).reshape(6, 2) % 5 + 10_000
    expected = fid((a - 10_000).double(), (2 * (a - 10_000)).double())
    assert fid(a.float(), (2 * a - 10_000).float()) == pytest.approx(expected, rel=1e-9)
    assert fid(a, 2 * a - 10_000) == pytest.approx(expected, rel=1e-9)


def test_rounding_errors_of_a_covariance_are_taken_as_zero() -> None:
    mean, covariance = torch.zeros(2), torch.diag(torch.tensor([1.0, -1e-9]))
    assert frechet_distance(mean, covariance, mean, torch.diag(torch.tensor([4.0, 0.0]))) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_features_are_refused(bad: float) -> None:
    a, broken = draws(5, 3), draws(5, 3)
    broken[2, 1] = bad
    with pytest.raises(ValueError, match="b holds NaN or infinity"):
        fid(a, broken)
    with pytest.raises(ValueError, match="a holds NaN or infinity"):
        fid(broken, a)
    mean, covariance = moments(a)
    with pytest.raises(ValueError, match="mean_b holds NaN"):
        frechet_distance(mean, covariance, mean * bad, covariance)
    with pytest.raises(ValueError, match="cov_a holds NaN"):
        frechet_distance(mean, covariance * bad, mean, covariance)


def test_misfits_are_refused() -> None:
    a = draws(5, 3)
    mean, covariance = moments(a)
    with pytest.raises(ValueError, match="the number of rows of b must be an integer >= 2, got 1"):
        fid(a, a[:1])
    with pytest.raises(ValueError, match="same features, got 3 and 2"):
        fid(a, a[:, :2])
    with pytest.raises(ValueError, match=r"a must be features \(N, D\)"):
        fid(a[0], a)
    with pytest.raises(ValueError, match=r"means must both be \(D,\)"):
        frechet_distance(mean, covariance, mean[:2], covariance)
    with pytest.raises(ValueError, match=r"cov_b must be \(3, 3\)"):
        frechet_distance(mean, covariance, mean, covariance[:2, :2])
    with pytest.raises(ValueError, match="cov_b is no covariance"):
        frechet_distance(mean, covariance, mean, -covariance)
    with pytest.raises(ValueError, match="cov_a is no covariance"):
        frechet_distance(mean, covariance + torch.ones(3, 3).triu(1), mean, covariance)
