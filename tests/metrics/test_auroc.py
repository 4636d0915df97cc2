"""AUROC: by counting pairs, against scikit-learn, with ties and infinities."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from flatlab.metrics import auroc


def scores(n: int, seed: int, values: int | None = None) -> Tensor:
    """Normal numbers, or whole ones below `values`, which have ties."""
    g = torch.Generator().manual_seed(seed)
    if values is None:
        return torch.randn(n, generator=g, dtype=torch.float64)
    return torch.randint(values, (n,), generator=g).double()


def by_pairs(inside: Tensor, outside: Tensor) -> float:
    s, t = inside[:, None], outside[None]
    return (int((s > t).sum()) + int((s == t).sum()) / 2) / (len(inside) * len(outside))


def test_known_answer() -> None:
    inside, outside = -torch.tensor([0.1, 0.4, 0.35]), -torch.tensor([0.8, 0.3, 0.9])
    assert auroc(inside, outside) == pytest.approx(0.7777778, abs=1e-7)
    assert auroc(inside, outside) == 7 / 9


@pytest.mark.parametrize("values", [None, 2, 7])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (40, 25), (200, 301)])
def test_counts_pairs_exactly_and_agrees_with_scikit_learn(n: int, m: int, values: int | None) -> None:
    inside, outside = scores(n, 1, values), scores(m, 2, values)
    found = auroc(inside, outside)
    assert found == by_pairs(inside, outside)
    truth = torch.cat([torch.ones(n), torch.zeros(m)])
    assert found == pytest.approx(roc_auc_score(truth.numpy(), torch.cat([inside, outside]).numpy()), abs=1e-12)


def test_limits() -> None:
    low, high = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0, 4.0])
    assert (auroc(high, low), auroc(low, high), auroc(low, low), auroc(high[:1], high[:1])) == (1.0, 0.0, 0.5, 0.5)


def test_order_is_all_that_counts() -> None:
    inside, outside = scores(30, 1), scores(20, 2)
    found = auroc(inside, outside)
    assert 0.2 < found < 0.8
    assert auroc(inside.flip(0), outside.sort().values) == found
    assert auroc(inside.exp(), outside.exp()) == found
    assert auroc(-outside, -inside) == found
    assert auroc(outside, inside) == pytest.approx(1 - found, abs=1e-15)


def test_infinite_scores_have_a_rank() -> None:
    inside, outside = torch.tensor([math.inf, 0.0, -math.inf]), torch.tensor([math.inf, 1.0, -math.inf, -math.inf])
    assert auroc(inside, outside) == by_pairs(inside, outside) == (3.5 + 2 + 1) / 12


def test_any_number_type() -> None:
    inside, outside = scores(30, 1, 5), scores(20, 2, 5)
    found = auroc(inside, outside)
    assert auroc(inside.float().requires_grad_(), outside.int()) == found


@pytest.mark.parametrize("swapped", [False, True], ids=["inside", "outside"])
def test_bad_scores_are_refused(swapped: bool) -> None:
    def measure(bad: Tensor) -> float:
        return auroc(torch.zeros(3), bad) if swapped else auroc(bad, torch.zeros(3))

    name = "outside" if swapped else "inside"
    with pytest.raises(ValueError, match=f"^{name} holds 2 NaN"):
        measure(torch.tensor([1.0, math.nan, math.nan]))
    for bad in (torch.zeros(0), torch.zeros(3, 1), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=f"^{name} must hold one score a sample"):
            measure(bad)
