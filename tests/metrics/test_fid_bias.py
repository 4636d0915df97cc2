"""The bias of FID: closed forms, simulated FIDs of two samples of one Gaussian, degenerate covariances, errors."""

import numpy as np
import pytest
import torch

from flatlab.metrics import fid, fid_bias, frechet_distance


@pytest.mark.parametrize("d", [1, 16, 64])
def test_known_answers(d: int) -> None:
    expected = 2 * d + d * (d + 1) / 2
    assert 2000 * fid_bias(np.eye(d), 2000, 2000) == pytest.approx(expected, rel=1e-12)
    assert 2000 * fid_bias(torch.eye(d), 2000) == pytest.approx(expected / 2, rel=1e-12)
    assert fid_bias(np.eye(d), 100, 300) == pytest.approx(expected / 2 * (1 / 100 + 1 / 300), rel=1e-12)
    assert fid_bias(3 * np.eye(d), 100) == pytest.approx(3 * fid_bias(np.eye(d), 100), rel=1e-12)


def test_of_eigenvalues_far_apart() -> None:
    """N times the bias at two equal samples, summed by hand, whatever the eigenvectors are."""
    values = np.array([5, 1, 0.1, 0.01])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4))).Q
    pairs = sum(a * b * (1 + (i == j)) / (a + b) for i, a in enumerate(values) for j, b in enumerate(values))
    expected = 2 * values.sum() + pairs
    assert expected == pytest.approx(20.43, abs=0.005)
    assert 1000 * fid_bias(turn @ np.diag(values) @ turn.T, 1000, 1000) == pytest.approx(expected, rel=1e-10)


def test_directions_without_spread_add_nothing() -> None:
    some = np.diag([2.0, 0.0, 0.5, 0.0])
    assert fid_bias(some, 50) == pytest.approx(fid_bias(np.diag([2.0, 0.5]), 50), rel=1e-14)
    assert fid_bias(np.zeros((3, 3)), 50, 60) == 0
    assert fid_bias(4.0, 50) == pytest.approx(1.5 * 4 / 50, rel=1e-14)


@pytest.mark.parametrize("spread", [0.0, 2.0], ids=["one eigenvalue", "two decades"])
@pytest.mark.parametrize(("n", "m"), [(800, 800), (400, 1600)])
def test_simulated(spread: float, n: int, m: int) -> None:
    """Means of 120 FIDs: 5 % of the formula, and 3 standard errors of the mean."""
    g, values = torch.Generator().manual_seed(0), torch.logspace(0, -spread, 8, dtype=torch.float64)

    def sample(size: int) -> torch.Tensor:
        return torch.randn(size, 8, generator=g, dtype=torch.float64) * values.sqrt()

    two = torch.tensor([fid(sample(n), sample(m)) for _ in range(120)])
    exact = torch.zeros(8), torch.diag(values)
    rows = [sample(n) for _ in range(120)]
    one = torch.tensor([frechet_distance(x.mean(0), x.T.cov(), *exact) for x in rows])
    for found, expected in ((two, fid_bias(exact[1], n, m)), (one, fid_bias(exact[1], n))):
        error = 3 * float(found.std()) / 120**0.5
        assert error < 0.12 * expected, "the test can tell"
        assert float(found.mean()) == pytest.approx(expected, abs=0.05 * expected + error)


def test_errors() -> None:
    with pytest.raises(ValueError, match="n1 must be an integer >= 2, got 1"):
        fid_bias(np.eye(2), 1)
    with pytest.raises(ValueError, match="n2 must be an integer >= 2, got 0"):
        fid_bias(np.eye(2), 10, 0)
    with pytest.raises(ValueError, match="cov is no covariance: it has the negative eigenvalue -1"):
        fid_bias(-np.eye(2), 10)
    with pytest.raises(ValueError, match=r"cov must be \(D, D\), a covariance, got shape \(2, 3\)"):
        fid_bias(np.ones((2, 3)), 10)
