"""What perturbed weights cost: functions of the layer's input instead of its largest value, and exact boxes."""

import itertools
import math
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from flatlab.bounds import Bounds, Box, LpBall, Program, compute_bounds, weight_balls, weights
from flatlab.bounds.weights import dual, linear_norm

NORMS = (1, 2, math.inf)
every_norm = pytest.mark.parametrize("p", NORMS)


def one_layer(weight: list[float], low: list[float], high: list[float], eps: float, p: float) -> tuple[float, float]:
    """Bounds by CROWN of w x, where x lies in a box behind a ReLU that changes nothing."""
    net = nn.Sequential(nn.ReLU(), nn.Linear(len(weight), 1, bias=False)).double()
    net[1].weight.data = torch.tensor([weight], dtype=torch.float64)
    box = Box(*(torch.tensor([end], dtype=torch.float64) for end in (low, high)))
    found = compute_bounds(net, box.center, box, weights={"1.weight": LpBall(net[1].weight.detach(), eps, p)})
    return float(found[0]), float(found[1])


def test_a_box_of_weights_on_inputs_of_one_sign_is_exact() -> None:
    """x in [1, 3]^2, w = (1, -1) -+ 1/2: the least value is 1 * 1/2 - 3 * 3/2, with x at two different ends."""
    assert one_layer([1.0, -1.0], [1.0, 1.0], [3.0, 3.0], 0.5, math.inf) == (-4.0, 4.0)
    assert one_layer([1.0, -1.0], [0.0, 0.0], [3.0, 3.0], 0.5, math.inf) == (-4.5, 4.5)


def test_a_round_ball_of_weights_costs_a_line_of_its_input() -> None:
    """x in [1, 3], w in [1/2, 3/2]: c = 2, r = 1 and s^2 = 5, so that |x| <= (2 x + 1) / sqrt(5)."""
    low, high = one_layer([1.0], [1.0], [3.0], 0.5, 2)
    assert low == pytest.approx(1 - 1.5 / math.sqrt(5))
    assert high == 4.5, "the interval, above which 3 + 3.5 / sqrt(5) lies"
    assert low > 1 - 0.5 * 3, "the largest |x| is not that of the least x"


def test_one_weight_in_an_l1_ball_is_exact() -> None:
    assert one_layer([1.0], [1.0], [3.0], 0.5, 1) == pytest.approx((0.5, 4.5))
    # at most 3 of x_2, and 5 of x_1 in [4, 5]: the line 3 + (x_1 - 3) is x_1
    assert one_layer([1.0, 0.0], [4.0, 0.0], [5.0, 3.0], 0.5, 1) == pytest.approx((2.0, 7.5))


@every_norm
def test_lines_lie_above_the_norm_on_the_box(p: float) -> None:
    """And, but for the round one, nowhere above its largest value there."""
    g, q = torch.Generator().manual_seed(0), dual(p)
    center = torch.randn(50, 4, 3, 2, generator=g, dtype=torch.float64) * torch.tensor([0.0, 1.0, 1.0, 1e3]).reshape(
        -1, 1, 1
    )
    radius = torch.rand(50, 4, 3, 2, generator=g, dtype=torch.float64) * torch.tensor([1.0, 0.0, 1.0, 1e-3]).reshape(
        -1, 1, 1
    )
    constant, slope = linear_norm(center, radius, q)
    largest = (center.abs() + radius).flatten(2).norm(p=q, dim=2)
    unit = 2 * torch.rand(200, *center.shape, generator=g, dtype=torch.float64) - 1
    unit[::2] = unit[::2].sign()
    m = center + radius * unit
    line = (slope * m).flatten(3).sum(3) + constant
    assert bool((line >= m.flatten(3).norm(p=q, dim=3) - 1e-9 * (1 + largest)).all())
    assert bool((line <= largest * (1 + (p == 2) * 0.07) + 1e-9 * (1 + largest)).all())  # 3 / sqrt(8) = 1.0607
    at = (slope * center).flatten(2).sum(2) + constant
    if p == 2:  # in the middle, the least that any such function has there
        torch.testing.assert_close(at, (center.square() + radius.square()).flatten(2).sum(2).sqrt())


@every_norm
@pytest.mark.parametrize("single", [False, True])
def test_a_line_of_one_number_is_its_chord_and_of_a_point_its_norm(p: float, single: bool) -> None:
    g = torch.Generator().manual_seed(1)
    center = torch.randn(3, 2, 1 if single else 5, generator=g, dtype=torch.float64)
    constant, slope = linear_norm(center, torch.zeros_like(center), dual(p))
    found = (slope * center).sum(2) + constant
    torch.testing.assert_close(found, center.norm(p=dual(p), dim=2))
    assert linear_norm(center, None, dual(p))[1] is None
    assert bool(linear_norm(0 * center, 0 * center, dual(p))[0].eq(0).all())


def largest_norm(center: Tensor, radius: Tensor | None, q: float) -> tuple[Tensor, None]:
    """A constant in place of a line."""
    size = center.abs() if radius is None else center.abs() + radius
    return (center if radius is None else size).flatten(2).norm(p=q, dim=2), None


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    dense = nn.Sequential(*[f for _ in range(3) for f in (nn.Linear(16, 16), nn.ReLU())], nn.Linear(16, 3))
    smooth = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
    head = nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    images = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1, groups=2), *head)
    x = torch.rand(2, 16, dtype=torch.float64)
    return {n: (m.double(), x) for n, m in {"dense": dense, "smooth": smooth}.items()} | {
        "images": (images.double(), x.reshape(2, 1, 4, 4))
    }


@every_norm
@pytest.mark.parametrize("name", ["dense", "smooth", "images"])
@pytest.mark.parametrize("moved", [0.0, 0.02], ids=["weights", "weights and inputs"])
def test_lines_make_bounds_narrower_than_the_largest_norm_does(name: str, p: float, moved: float) -> None:
    model, x = networks()[name]
    balls = weight_balls(model, {1: 0.1, 2: 0.05, math.inf: 0.01}[p], p=p)
    made = Program(model, x), x, LpBall(x, moved) if moved else None
    for method in ("crown-ibp", "crown", "alpha-crown"):
        with mock.patch.object(weights, "linear_norm", largest_norm):
            former = compute_bounds(*made, method, weights=balls)
        found = compute_bounds(*made, method, weights=balls)
        ratio = (found[1] - found[0]).mean() / (former[1] - former[0]).mean()
        most = 0.995 if method == "crown-ibp" else {1: 0.98, 2: 0.95, math.inf: 0.95}[p]
        assert float(ratio.detach()) < most, (method, float(ratio.detach()))


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_of_a_box_of_weights_are_those_of_its_corners(grouped: bool) -> None:
    """Each product w x takes its least value at a corner of [w] x [x]; entries smaller than eps may lose a little."""
    torch.manual_seed(2)
    weight = torch.randn(4, 3, dtype=torch.float64)
    weight = weight + weight.sign() * 0.3  # none is smaller than eps
    net = nn.Linear(3, 4, bias=False).double() if not grouped else nn.Conv2d(3, 4, 1, bias=False).double()
    net.weight.data = weight.reshape(net.weight.shape)
    low = torch.randn(5, 3, dtype=torch.float64)
    high = low + torch.rand(5, 3, dtype=torch.float64)
    box = Box(*(end.reshape(5, 3, 1, 1) if grouped else end for end in (low, high)))
    found = compute_bounds(net, box.center, box, "ibp", weights={"weight": LpBall(net.weight.detach(), 0.3)})
    corners = torch.stack([(weight + d) * end[:, None] for d, end in itertools.product((-0.3, 0.3), (low, high))])
    torch.testing.assert_close(found[0].flatten(1), corners.amin(0).sum(2))
    torch.testing.assert_close(found[1].flatten(1), corners.amax(0).sum(2))


def test_a_box_around_small_weights_holds_and_is_no_wider_than_by_the_largest_input() -> None:
    torch.manual_seed(3)
    layer, low = nn.Linear(3, 4).double(), torch.randn(5, 3, dtype=torch.float64)
    box, balls = (
        Box(low, low + 1),
        {"weight": LpBall(layer.weight.detach(), 1.0), "bias": LpBall(layer.bias.detach(), 0.1)},
    )
    bounds = Bounds(Program(layer, low), box.center, box, weights=balls)
    found = bounds.compute("ibp")
    middle = layer(box.center)
    reach = 0.5 * layer.weight.abs().sum(1) + torch.maximum(low.abs(), box.high.abs()).sum(1, keepdim=True) + 0.1
    assert bool((found[0] >= middle - reach - 1e-12).all() & (found[1] <= middle + reach + 1e-12).all())
    for _ in range(200):
        d = torch.rand(4, 3, dtype=torch.float64).round() * 2 - 1
        x = low + torch.rand(5, 3, dtype=torch.float64).round()
        z = x @ (layer.weight + d).T + layer.bias
        assert bool((found[0] - 1e-12 <= z - 0.1).all() & (z + 0.1 <= found[1] + 1e-12).all())
