"""Inception score: its limits, the formula by hand, splits, zeros, errors."""

import math

import numpy as np
import pytest
import torch

from flatlab.metrics import inception_score


def by_hand(p: np.ndarray) -> float:
    marginal = p.mean(0)
    return math.exp(sum(a * math.log(a / b) for row in p for a, b in zip(row, marginal, strict=True) if a) / len(p))


@pytest.mark.parametrize("classes", [1, 3, 10])
def test_limits(classes: int) -> None:
    assert inception_score(torch.eye(classes).repeat(4, 1)) == pytest.approx(classes, rel=1e-12)
    assert inception_score(np.full((7, classes), 1 / classes)) == pytest.approx(1, rel=1e-12)
    assert inception_score(torch.eye(classes)[:1].repeat(5, 1)) == 1, "sure, but of one class"


def test_the_formula() -> None:
    p = np.random.default_rng(0).dirichlet([0.3] * 4, size=23)
    p[5] = [1, 0, 0, 0]
    assert 1.5 < inception_score(p) < 4
    assert inception_score(p) == pytest.approx(by_hand(p), rel=1e-12)
    assert inception_score(p[::-1]) == pytest.approx(by_hand(p), rel=1e-12)


def test_splits_are_parts_in_the_order_of_the_rows() -> None:
    p = np.random.default_rng(1).dirichlet([0.3] * 4, size=23)
    parts = [p[:8], p[8:16], p[16:]]
    assert inception_score(p, splits=3) == pytest.approx(sum(map(by_hand, parts)) / 3, rel=1e-12)
    assert inception_score(p, splits=23) == pytest.approx(1)


def test_errors() -> None:
    p = torch.full((4, 2), 0.5)
    assert inception_score(p.half() * 1.0005) == pytest.approx(1, abs=1e-2), "rounding of half precision passes"
    with pytest.raises(ValueError, match="sums off by up to 1; use softmax on logits"):
        inception_score(2 * p)
    with pytest.raises(ValueError, match="sums off by up to 0.002"):
        inception_score(0.998 * p)
    with pytest.raises(ValueError, match="a least value -0.5"):
        inception_score(torch.tensor([[1.5, -0.5]]))
    with pytest.raises(ValueError, match="^probs holds NaN"):
        inception_score(p * math.nan)
    with pytest.raises(ValueError, match="splits must be at most the number of rows, 4, got 5"):
        inception_score(p, splits=5)
    with pytest.raises(ValueError, match="splits must be an integer >= 1, got 0"):
        inception_score(p, splits=0)
    with pytest.raises(ValueError, match=r"probs must be features \(N, D\)"):
        inception_score(p[0])
