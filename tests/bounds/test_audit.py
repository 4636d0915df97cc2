"""The attack on bounds: it finds what is wrong with false ones, on every kind of set, and respects true ones."""

import math

import pytest
import torch
from torch import nn

from flatlab import bounds


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def regions(x: torch.Tensor) -> dict[str, bounds.Box]:
    candidates = x.reshape(4, 3, 2)[:, :, None] + 0.2 * torch.randn(
        4, 3, 2, 2, generator=torch.Generator().manual_seed(1)
    )
    return {
        "inf": bounds.LpBall(x, 0.1, clip=(0, 1)),
        "2": bounds.LpBall(x, 0.2, 2, clip=(0, 1)),
        "1": bounds.LpBall(x, 0.3, 1),
        "0": bounds.L0Ball(x, 2),
        "box": bounds.Box(x - 0.1, x + 0.2),
        "words": bounds.Synonyms(x.reshape(4, 3, 2), candidates, torch.ones(4, 3, 2, dtype=torch.bool), 2),
    }


KINDS = ("inf", "2", "1", "0", "box", "words")


@pytest.mark.parametrize("kind", KINDS)
def test_true_bounds_hold_and_false_ones_are_refuted(kind: str) -> None:
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    region = regions(x)[kind]
    net = nn.Sequential(nn.Flatten(), network()) if kind == "words" else network()
    with torch.no_grad():
        low, high = bounds.compute_bounds(net, region.center, region, "crown")
    found = bounds.audit(net, region, low, high, generator=torch.Generator().manual_seed(0))
    assert bounds.violation(low, high, *found) < 1e-6
    assert (found[1] - found[0]).mean() > 0.5 * (high - low).mean(), "an attack that finds nothing proves nothing"
    middle = (low + high) / 2
    assert bounds.violation(low, middle - 0.1 * (high - low), *found) > 1e-3
    assert net.training, "the model's mode is given back"


def test_an_affine_function_is_attained_exactly() -> None:
    x, net = torch.rand(2, 5), nn.Linear(5, 3)
    region = bounds.LpBall(x, 0.3, 2)
    with torch.no_grad():
        low, high = bounds.compute_bounds(net, x, region, "ibp")
    smallest, largest = bounds.audit(net, region, low, high, steps=2, starts=1)
    assert torch.allclose(smallest, low, atol=1e-5)
    assert torch.allclose(largest, high, atol=1e-5)


def test_numbers_out_of_range_are_refused() -> None:
    x, net = torch.rand(1, 5), nn.Linear(5, 3)
    with pytest.raises(ValueError, match="starts must be an integer >= 1"):
        bounds.audit(net, bounds.LpBall(x, 0.1, math.inf), net(x), net(x), starts=0)
