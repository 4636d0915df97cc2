"""Frechet distance of Gaussians: closed forms, scipy's root, all methods, invariances, singular covariances, errors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from torch import Tensor

from flatlab.metrics import frechet_distance

METHODS = ["auto", "eigh", "cholesky", "eigvals", "newton"]
every_method = pytest.mark.parametrize("method", METHODS)


def draws(n: int, d: int, seed: int = 0) -> Tensor:
    """Correlated features (n, d) with another mean and covariance for each seed."""
    g = torch.Generator().manual_seed(seed)
    mix, shift = torch.randn(d, d, generator=g, dtype=torch.float64), torch.randn(d, generator=g, dtype=torch.float64)
    return torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + shift


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), x.T.cov()


@every_method
def test_known_answers(method: str) -> None:
    zero, first, second = [0.0, 0.0], [[2, 0.5], [0.5, 1]], [[1, -0.3], [-0.3, 2]]
    assert frechet_distance(zero, first, zero, second, method=method) == pytest.approx(0.575425893305, abs=1e-12)
    diagonal = [np.diag([1.0, 4.0, 9.0]), np.diag([4.0, 0.25, 16.0])]
    found = frechet_distance(np.zeros(3), diagonal[0], np.array([0, 2, 0]), diagonal[1], method=method)
    assert found == pytest.approx(4 + 1 + 1.5**2 + 1, rel=1e-12)
    ones = torch.ones(300)
    assert frechet_distance(0 * ones, torch.eye(300), ones, torch.eye(300), method=method) == pytest.approx(300)


@every_method
def test_one_dimension_is_a_difference_of_deviations(method: str) -> None:
    """Numbers, arrays of one number, and matrices, as `numpy.mean` and `numpy.cov` return them."""
    assert frechet_distance(1, 4, 3, 9, method=method) == pytest.approx(5, rel=1e-14)
    assert frechet_distance([1], [4], [3], [9], method=method) == pytest.approx(5, rel=1e-14)
    x = np.array([1.0, 5.0, 6.0])
    found = frechet_distance(x.mean(), np.cov(x), torch.tensor([3.0]), torch.tensor([[9.0]]), method=method)
    assert found == pytest.approx(1 + (3 - 7**0.5) ** 2, rel=1e-14)
    assert frechet_distance(0, 0, 2, 9, method="auto") == pytest.approx(13, rel=1e-14)


@every_method
def test_full_rank_agrees_with_scipy_and_with_the_rows_themselves(method: str) -> None:
    a, b = draws(200, 30, 1), draws(150, 30, 2)
    (mean_a, cov_a), (mean_b, cov_b) = moments(a), moments(b)
    rest = float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace())
    trace = linalg.sqrtm((cov_a @ cov_b).numpy()).real.trace()
    centred = (a - mean_a) @ (b - mean_b).T / (199 * 149) ** 0.5
    exact = rest - 2 * float(torch.linalg.svdvals(centred).sum())
    found = frechet_distance(mean_a, cov_a, mean_b, cov_b, method=method)
    assert found == pytest.approx(rest - 2 * trace, rel=1e-9)
    assert found == pytest.approx(exact, rel=1e-10)


def test_the_default_keeps_small_directions_that_other_methods_lose() -> None:
    """Two covariances with eigenvalues down to 1e-14 of the largest, which differ in the small ones alone."""
    small = torch.tensor([1.0, 1e-14], dtype=torch.float64)
    turn, zero = torch.linalg.qr(draws(2, 2)).Q, torch.zeros(2)
    a, b = (turn @ torch.diag(values) @ turn.T for values in (small, small * torch.tensor([1, 4.0])))
    found = frechet_distance(zero, a, zero, b)
    assert found == pytest.approx(1e-14, abs=3e-15)


@pytest.mark.parametrize("method", ["auto", "eigh", "eigvals", "newton"])
@pytest.mark.parametrize(("n", "m", "d"), [(40, 60, 64), (2, 2, 30), (100, 100, 120)])
def test_singular_covariances(method: str, n: int, m: int, d: int) -> None:
    a, b = draws(n, d, 1), draws(m, d, 2)
    a[:, 3] = b[:, 3] = 0  # a dead feature
    (mean_a, cov_a), (mean_b, cov_b) = moments(a), moments(b)
    scale = float(cov_a.trace() + cov_b.trace())
    trace = torch.linalg.svdvals((a - mean_a) @ (b - mean_b).T).sum() / ((n - 1) * (m - 1)) ** 0.5
    exact = float((mean_a - mean_b).square().sum()) + scale - 2 * float(trace)
    found = frechet_distance(mean_a, cov_a, mean_b, cov_b, method=method)
    assert found == pytest.approx(exact, abs=1e-5 * scale)
    same = frechet_distance(mean_a, cov_a, mean_a, cov_a, method=method)
    assert 0 <= same <= 1e-5 * scale
    zero = torch.zeros(d, d)
    assert frechet_distance(mean_a, zero, mean_b, zero, method=method) == float((mean_a - mean_b).square().sum())


def test_newton_is_right_for_eigenvalues_far_apart() -> None:
    values = torch.logspace(0, -6, 20, dtype=torch.float64)
    zero, found = torch.zeros(20), torch.diag(values)
    expected = float(values.sum())  # of deviations twice as large
    assert frechet_distance(zero, found, zero, 4 * found, method="newton") == pytest.approx(expected, rel=1e-11)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10**6), st.floats(0.1, 10))
def test_a_distance_that_moves_along(d: int, seed: int, scale: float) -> None:
    """Symmetric, invariant under a common rotation and shift, quadratic in a common scale, and a metric's square."""
    (ma, a), (mb, b), (mc, c) = (
        (m, cov.reshape(d, d)) for m, cov in (moments(draws(d + 3, d, seed + k)) for k in range(3))
    )
    turn = torch.linalg.qr(draws(d, d, seed + 9)).Q
    found = frechet_distance(ma, a, mb, b)
    assert found == pytest.approx(frechet_distance(mb, b, ma, a), rel=1e-9, abs=1e-9)
    moved = frechet_distance(ma @ turn + 7, turn.T @ a @ turn, mb @ turn + 7, turn.T @ b @ turn)
    assert moved == pytest.approx(found, rel=1e-9, abs=1e-9)
    scaled = frechet_distance(scale * ma, scale**2 * a, scale * mb, scale**2 * b)
    assert scaled == pytest.approx(scale**2 * found, rel=1e-9, abs=1e-9)
    around = frechet_distance(ma, a, mc, c) ** 0.5 + frechet_distance(mc, c, mb, b) ** 0.5
    assert found**0.5 <= around + 1e-6


def test_rounding_errors_of_a_covariance_are_taken_as_zero() -> None:
    zero, matrix = torch.zeros(2), torch.diag(torch.tensor([1.0, -1e-9]))
    assert frechet_distance(zero, matrix, zero, torch.diag(torch.tensor([4.0, 0.0]))) == pytest.approx(1, abs=1e-8)
    lopsided = torch.tensor([[1.0, 0.5 + 4e-6], [0.5, 1.0]], dtype=torch.float64)
    around, other = (lopsided + lopsided.T) / 2, torch.diag(torch.tensor([3.0, 1.0]))
    for method in METHODS:
        found = frechet_distance(zero, lopsided, zero, other, method=method)
        assert found == pytest.approx(frechet_distance(zero, around, zero, other), rel=1e-12)


@every_method
def test_no_number_is_made_up_where_double_precision_ends(method: str) -> None:
    with pytest.raises(ValueError, match="the distance is inf in double precision: scale the features down"):
        frechet_distance([1e200], [1.0], [0.0], [1.0], method=method)


def test_arrays_of_any_layout_and_numbers_of_any_type() -> None:
    mean, matrix = np.arange(3)[::-1], np.diag([1, 4, 9])[::-1, ::-1]
    expected = 12 + (3 - 2) ** 2 + (2 - 2) ** 2 + (1 - 2) ** 2
    assert frechet_distance(mean, matrix, mean + 2, 4 * np.eye(3, dtype=">f4")) == pytest.approx(expected, rel=1e-14)
    graph = torch.eye(3, requires_grad=True)
    assert frechet_distance(torch.zeros(3).half(), graph, torch.zeros(3).bfloat16(), 4 * graph) == pytest.approx(3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", range(4))
def test_what_is_not_finite_is_refused(place: int, bad: float) -> None:
    arguments = [torch.zeros(3), torch.eye(3), torch.zeros(3), torch.eye(3)]
    arguments[place] = arguments[place] + bad
    with pytest.raises(ValueError, match=f"^{('mu1', 'cov1', 'mu2', 'cov2')[place]} holds NaN or infinity"):
        frechet_distance(*arguments)


@every_method
def test_what_is_no_covariance_is_refused(method: str) -> None:
    mean, eye = torch.zeros(3), torch.eye(3)
    for matrix, name, problem in (
        (-eye, "cov", "negative eigenvalue -1|singular"),
        (torch.diag(torch.tensor([1.0, 1.0, -1e-3])), "cov", "negative eigenvalue -0.001|singular"),
        (eye + torch.ones(3, 3).triu(1), "cov", "symmetric"),
    ):
        with pytest.raises(ValueError, match=rf"{name}1 (is|has).*({problem})"):
            frechet_distance(mean, matrix, mean, eye, method=method)
        with pytest.raises(ValueError, match=rf"{name}2 (is|has).*({problem})"):
            frechet_distance(mean, eye, mean, matrix, method=method)


def test_misfits_are_refused() -> None:
    mean, eye = torch.zeros(3), torch.eye(3)
    with pytest.raises(ValueError, match=r"means must both be \(D,\)"):
        frechet_distance(mean, eye, mean[:2], eye)
    with pytest.raises(ValueError, match=r"means must both be \(D,\)"):
        frechet_distance(mean[None], eye, mean[None], eye)
    with pytest.raises(ValueError, match=r"cov2 must be \(3, 3\), a covariance, got shape \(2, 3\)"):
        frechet_distance(mean, eye, mean, eye[:2])
    with pytest.raises(ValueError, match=r"cov1 must be \(3, 3\), a covariance, got shape \(1, 1\)"):
        frechet_distance(mean, 1.0, mean, eye)
    with pytest.raises(ValueError, match="method"):
        frechet_distance(mean, eye, mean, eye, method="sqrtm")
    with pytest.raises(ValueError, match='cov2 is singular.*use method="auto"'):
        frechet_distance(mean, eye, mean, torch.zeros(3, 3), method="cholesky")
    for bad in (None, "features", np.zeros(3) + 1j, torch.zeros(3) * 1j, [[1], [2, 3]]):
        with pytest.raises(TypeError, match="mu1 must be an array or a tensor of real numbers"):
            frechet_distance(bad, eye, mean, eye)
