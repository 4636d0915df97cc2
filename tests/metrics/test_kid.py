"""KID: torchmetrics' numbers, all pairs by hand, unbiased, blocks of rows, options, errors."""

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from flatlab.metrics import kid


def legacy(seed: int, n: int, d: int) -> np.ndarray:
    return np.random.RandomState(seed).randn(n, d)  # what the peers' numbers were made with


def by_pairs(x: Tensor, y: Tensor, degree: int, gamma: float, coef: float) -> float:
    def mean(a: Tensor, b: Tensor, same: bool) -> float:
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (same and i == j)]
        return sum((gamma * float(a[i] @ b[j]) + coef) ** degree for i, j in pairs) / len(pairs)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def test_numbers_of_torchmetrics() -> None:
    real, fake = legacy(4, 60, 16), 1.2 * legacy(5, 80, 16) + 0.1
    assert kid(real, fake[:60]) == pytest.approx(0.0348839245, abs=1e-10)
    assert kid(real, torch.tensor(fake)) == pytest.approx(0.0219250898, abs=1e-10)


def test_known_answer_and_options() -> None:
    x, y = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    assert kid(x, y, degree=1, gamma=1, coef=5) == pytest.approx(0 + 1 / 3 - 2 * 5 / 6, rel=1e-14)
    assert kid(x, y) == pytest.approx(by_pairs(x.double(), y.double(), 3, 0.5, 1.0), rel=1e-12)
    found = kid(x, y, degree=2, gamma=0.3, coef=0.0)
    assert found == pytest.approx(by_pairs(x.double(), y.double(), 2, 0.3, 0.0), rel=1e-12)
    assert kid(y, x, degree=2, gamma=0.3, coef=0.0) == pytest.approx(found, rel=1e-12)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 4, generator=g, dtype=torch.float64) for n in (25, 17))
    whole = kid(x, y)
    monkeypatch.setattr(sys.modules["flatlab.metrics.kid"], "_ROWS", 7)
    assert kid(x, y) == pytest.approx(whole, rel=1e-12)


def test_unbiased_of_equal_distributions_and_above_0_of_others() -> None:
    g = torch.Generator().manual_seed(0)
    draws = torch.randn(400, 25, 5, generator=g, dtype=torch.float64)
    same = torch.tensor([kid(x[:10], x[10:]) for x in draws])
    assert abs(float(same.mean())) < 3 * float(same.std()) / 20
    assert float(same.min()) < 0 < float(same.max())
    other = torch.tensor([kid(x[:10], 1.5 * x[10:] + 0.5) for x in draws])
    assert float(other.mean()) > 5 * float(other.std()) / 20


def test_errors() -> None:
    x = torch.randn(5, 3)
    with pytest.raises(ValueError, match="the number of rows of fake must be an integer >= 2, got 1"):
        kid(x, x[:1])
    with pytest.raises(ValueError, match="real and fake must have the same features, got 3 and 2 columns"):
        kid(x, x[:, :2])
    with pytest.raises(ValueError, match="^real holds NaN or infinity"):
        kid(x / 0, x)
    with pytest.raises(ValueError, match="degree must be an integer >= 1, got 0"):
        kid(x, x, degree=0)
    with pytest.raises(ValueError, match="gamma must be a finite number > 0, got 0"):
        kid(x, x, gamma=0)
    with pytest.raises(ValueError, match="coef must be a finite number >= 0, got -1"):
        kid(x, x, coef=-1)
