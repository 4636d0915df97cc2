"""One eigenvalue without its vector: how soon a run may end, and how far off the value is then."""

import itertools
import math
import statistics

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flatlab import flatness
from flatlab.flatness.lanczos import value_settled

SEEDS = range(8)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bulk_and(*top: float) -> flatness.Landscape:
    """A quadratic with these eigenvalues and 300 between -0.3 and 0.3."""
    spectrum = torch.cat([torch.linspace(-0.3, 0.3, 300, dtype=torch.float64), torch.tensor(top, dtype=torch.float64)])
    return flatness.over_tensors(lambda w: 0.5 * (spectrum * w * w).sum(), torch.zeros_like(spectrum))


@pytest.fixture(scope="module", params=["tanh", "convolutions"])
def landscape(request, points) -> flatness.Landscape:
    x, y = points
    torch.manual_seed(0)
    layers = [nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)]
    if request.param == "convolutions":
        layers = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
        layers += [nn.Flatten(), nn.Linear(64, 10)]
    model = nn.Sequential(*layers)
    return flatness.over_parameters(model, lambda m: F.cross_entropy(m(x), y))


def power_iteration(hessian: flatness.Hessian, start: Tensor) -> tuple[float, int]:
    """The usual one: until the value changes by less than a thousandth of itself; and the products spent."""
    before, vector = math.nan, start / start.norm()
    for products in range(1, 101):
        image = hessian @ vector
        value, vector = float(vector @ image), image / image.norm()
        if abs(value - before) < 1e-3 * abs(before):
            return value, products
        before = value
    return before, 100


def test_fewer_products_than_power_iteration_at_its_accuracy(landscape) -> None:
    exact = flatness.top_eigenvalues(landscape, vectors=True, tol=1e-6, max_steps=200, generator=gen(99)).values.item()
    hessian, ours, theirs = flatness.Hessian(landscape), [], []
    for seed in SEEDS:
        found = flatness.top_eigenvalues(landscape, tol=1e-2, generator=gen(seed))
        assert found.converged
        ours.append((abs(found.values.item() - exact), found.products))
        value, products = power_iteration(hessian, torch.randn(landscape.size, generator=gen(seed)))
        theirs.append((abs(value - exact), products))
    assert sum(n for _, n in ours) <= 0.65 * sum(n for _, n in theirs)
    assert statistics.median(error for error, _ in ours) <= statistics.median(error for error, _ in theirs)
    assert max(error for error, _ in ours) <= 1e-2 * exact


@pytest.mark.parametrize("top", [(1.0,), (1.0, 0.8), (1.0, 1.0)])
@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize(("end", "sign"), [("max", 1), ("min", -1)])
def test_the_error_is_below_the_tolerance(top, tol, end, sign) -> None:
    space = bulk_and(*(sign * value for value in top))
    for seed in SEEDS:
        found = flatness.top_eigenvalues(space, end=end, tol=tol, generator=gen(seed))
        assert found.converged
        assert found.vectors is None
        assert abs(found.values.item() - sign) <= tol


@pytest.mark.parametrize("gap", [0.03, 0.003])
def test_eigenvalues_that_a_run_does_not_tell_apart(gap) -> None:
    space = bulk_and(1.0, 1 - gap)
    spectrum = torch.tensor([0.3, 1 - gap, 1.0], dtype=torch.float64)
    for seed, tol in itertools.product(range(20), (1e-2, 1e-4, 1e-6)):
        found = flatness.top_eigenvalues(space, tol=tol, generator=gen(seed))
        assert (spectrum - found.values).abs().min() <= found.residuals[0] + 1e-12
        assert 0 <= 1 - found.values.item() <= gap + tol
    exact = [flatness.top_eigenvalues(space, tol=1e-10, generator=gen(seed)).values.item() for seed in SEEDS]
    assert exact == pytest.approx([1.0] * len(SEEDS), abs=1e-9)


def test_a_value_costs_less_than_its_vector(landscape) -> None:
    alone, pair = (flatness.top_eigenvalues(landscape, vectors=v, generator=gen()) for v in (False, True))
    assert alone.products < pair.products
    torch.testing.assert_close(alone.values, pair.values, rtol=1e-5, atol=0)
    early = flatness.top_eigenvalues(landscape, max_steps=3, generator=gen())
    assert not early.converged
    assert early.products == 3
    assert early.values <= alone.values


def test_when_a_value_counts_by_hand() -> None:
    # Ritz values 1 and 0.5; the first has the residual b / 100, the second nearly b.
    theta, share = torch.tensor([0.5, 1.0], dtype=torch.float64).diag(), 0.01
    turn = math.asin(share)
    rotation = torch.tensor([[math.sin(turn), math.cos(turn)], [math.cos(turn), -math.sin(turn)]], dtype=torch.float64)
    settled = rotation @ theta @ rotation.T  # its first entry is 1 - 5e-5: that is how much the last step added
    bound = 0.1**2 * share**2 / (0.5 - 0.1 * math.cos(turn))
    assert value_settled(settled, 0.1, 6e-5)
    assert not value_settled(settled, 0.1, 4e-5)  # the value has just risen by 5e-5
    assert bound < 4e-5
    assert not value_settled(settled, 10.0, 6e-5)  # no gap is left: the residual itself counts
    assert value_settled(settled, 10.0, 0.11)
    assert value_settled(settled, 0.0, 1e-12)
    assert not value_settled(settled[:1, :1], 0.1, 1.0)
