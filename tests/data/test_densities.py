"""The densities of the plane: normalised, and what their samples come from."""

import math
import pickle
from functools import cache, partial

import numpy as np
import pytest
import torch
from torch import Tensor

from flatlab import data, train
from flatlab.data import DENSITIES, Density, Points, density

BOX, STEP = 5.0, 0.025  # the grid's midpoints; the edges of the checkerboard are multiples of 50 steps
COUNT = round(2 * BOX / STEP)

every_name = pytest.mark.parametrize("name", DENSITIES)


@cache
def grid_log_prob(name: str) -> Tensor:
    """(COUNT, COUNT), at the midpoints of [-BOX, BOX]^2."""
    axis = (torch.arange(COUNT, dtype=torch.float64) + 0.5) * STEP - BOX
    return density(name).log_prob(torch.cartesian_prod(axis, axis)).reshape(COUNT, COUNT)


@cache
def drawn(name: str) -> Tensor:
    return density(name).sample(20_000, generator=torch.Generator().manual_seed(5))


def log_prob(name: str, *points: tuple[float, float]) -> list[float]:
    return density(name).log_prob(torch.tensor(points, dtype=torch.float64)).tolist()


@every_name
def test_integrates_to_one(name: str) -> None:
    assert float(grid_log_prob(name).exp().sum()) * STEP**2 == pytest.approx(1, abs=1e-6)


@every_name
def test_the_stored_entropy_is_that_of_the_grid_and_of_samples(name: str) -> None:
    logs = grid_log_prob(name)
    on_grid = -float((logs.exp() * logs.clamp(min=-1e4)).sum()) * STEP**2
    assert density(name).entropy == pytest.approx(on_grid, abs=2e-6)  # the box leaves out 7e-8 of the pinwheel
    values = -density(name).log_prob(drawn(name).double())
    assert float(values.mean()) == pytest.approx(on_grid, abs=4 * float(values.std()) / len(values) ** 0.5 + 1e-12)


@every_name
def test_samples_fill_cells_as_the_density_says(name: str) -> None:
    """Pearson's chi-square over 20 x 20 cells; those that expect fewer than five points count as one."""
    cells, size, points = 20, COUNT // 20, drawn(name).double()
    mass = grid_log_prob(name).exp().reshape(cells, size, cells, size).sum((1, 3)).flatten() * STEP**2
    column, row = ((points + BOX) / (2 * BOX / cells)).floor().long().unbind(1)
    found = torch.bincount(column * cells + row, minlength=cells**2).double()
    expected, rare = mass * len(points), mass * len(points) < 5
    found, expected = (torch.cat([v[~rare], v[rare].sum()[None]]) for v in (found, expected))
    found, expected = found[expected > 0], expected[expected > 0]
    statistic, freedom = float(((found - expected).square() / expected).sum()), len(found) - 1
    assert freedom > 30
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)
    assert float(found[-1]) == pytest.approx(float(expected[-1]), abs=4 * float(expected[-1]) ** 0.5 + 4)


@every_name
def test_one_box_and_one_gaussian_cover_all(name: str) -> None:
    points = drawn(name)
    assert points.abs().max() < 7
    assert points.mean(0).abs().max() < 4 * 1.8 / len(points) ** 0.5
    assert ((points.std(0) > 0.97) & (points.std(0) < 1.8)).all()


@every_name
def test_a_generator_gives_the_same_points_again(name: str) -> None:
    one, two, other = (density(name).sample(9, generator=torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert (one.shape, one.dtype) == ((9, 2), torch.float32)
    state = torch.get_rng_state()
    density(name).sample(2, generator=torch.Generator())
    assert torch.equal(state, torch.get_rng_state())
    with torch.random.fork_rng(devices=[]):
        assert density(name).sample(2).shape == (2, 2)
        assert not torch.equal(state, torch.get_rng_state())


@every_name
def test_log_prob_keeps_the_dtype_and_has_the_gradient_of_differences(name: str) -> None:
    p, x = density(name), drawn(name)[:200].double().requires_grad_()
    assert p.log_prob(x.detach().float()).dtype == torch.float32
    torch.testing.assert_close(p.log_prob(x.detach().float()).double(), p.log_prob(x.detach()), rtol=1e-6, atol=1e-6)
    (slope,) = torch.autograd.grad(p.log_prob(x).sum(), x)
    for axis in torch.eye(2, dtype=torch.float64):
        difference = (p.log_prob(x.detach() + 1e-6 * axis) - p.log_prob(x.detach() - 1e-6 * axis)) / 2e-6
        torch.testing.assert_close(slope @ axis, difference, rtol=1e-6, atol=1e-6)


@every_name
def test_log_prob_at_the_origin_far_away_and_of_nan(name: str) -> None:
    x = torch.tensor([[0.0, 0.0], [60.0, -60.0], [math.inf, 0.0], [0.0, math.nan]], requires_grad=True)
    values = density(name).log_prob(x)
    (slope,) = torch.autograd.grad(values[:2].sum(), x)
    assert slope[:2].isfinite().all()
    assert values[0].isfinite()
    assert values[1] < -1000
    assert not values[2].isfinite()
    assert values[3].isnan()
    assert density(name).log_prob(torch.empty(0, 2)).shape == (0,)
    many = drawn(name)[torch.arange(33_000) % 50]
    torch.testing.assert_close(density(name).log_prob(many)[:50], density(name).log_prob(many[:50]))


def test_known_values() -> None:
    peak = -math.log(2 * math.pi * 0.1748**2)
    assert log_prob("8gaussians", (0, 1.3986), (1.3986, 0)) == pytest.approx([peak - math.log(8)] * 2, abs=1e-6)
    assert density("8gaussians").entropy == pytest.approx(1 + math.log(8) - peak, abs=0.01)
    ring = 1 / (4 * 0.08 * math.sqrt(2 * math.pi)) / (2 * math.pi * 2.4)
    assert log_prob("rings", (2.4, 0), (0, -2.4)) == pytest.approx([math.log(ring)] * 2, abs=1e-9)
    ring = 2 * math.exp(-0.5 * (0.6 / 0.08) ** 2) / (4 * 0.08 * math.sqrt(2 * math.pi)) / (2 * math.pi * 1e-4)
    assert log_prob("rings", (1e-4, 0)) == pytest.approx([math.log(ring)], abs=1e-3)
    full = -math.log(12.5)
    assert log_prob("checkerboard", (-2.4, -2.4), (-1, -2.4), (-1, -1), (2.4, 2.4), (2.4, 1)) == [
        full, -math.inf, full, full, -math.inf
    ]  # fmt: skip
    assert log_prob("checkerboard", (2.6, 3.8), (-2.6, -1), (3.8, 3.8), (-3.8, 1.0)) == [-math.inf] * 4
    assert density("checkerboard").entropy == -full


def test_no_sample_of_the_checkerboard_is_carried_over_an_edge() -> None:
    points = density("checkerboard").sample(4_000_000, generator=torch.Generator().manual_seed(0))
    places = points.double() / 1.25
    assert (places - places.round()).abs().min() > 3e-7
    assert density("checkerboard").log_prob(points).isfinite().all()


@pytest.mark.parametrize("point", [(-1.0, 1.5), (1.0, -0.5), (-3.2, -0.6), (0.0, 0.0), (6.0, 6.0), (-7.0, 7.0)])
def test_moons_are_the_integral_over_the_angle(point: tuple[float, float]) -> None:
    """Here in 40 pieces of 16 points each."""
    nodes, weights = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(16))
    angle = (torch.arange(40)[:, None] + (nodes + 1) / 2).flatten() * math.pi / 40
    terms = []
    for side in (1, -1):
        a, b = side * (2 * angle.cos() - 1), side * (2 * angle.sin() - 0.5)
        terms.append(-((point[0] - a).square() + (point[1] - b).square()) / (2 * 0.2**2) + weights.log().repeat(40))
    expected = torch.cat(terms).logsumexp(0) - math.log(160 * 2 * math.pi * 0.2**2)
    assert log_prob("moons", point) == pytest.approx([float(expected)], abs=1e-9)


def test_five_arms_of_the_pinwheel_look_alike_and_turn_left() -> None:
    points, (c, s) = drawn("pinwheel")[:100].double(), (math.cos(2 * math.pi / 5), math.sin(2 * math.pi / 5))
    turned = points @ torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
    found = density("pinwheel").log_prob
    torch.testing.assert_close(found(turned), found(points))
    ridge = [(r * math.cos(r / 2), r * math.sin(r / 2)) for r in (1.4, 2.0, 2.6)]
    top = -math.log(5 * 2 * math.pi * 0.6 * 0.2)
    assert log_prob("pinwheel", *ridge) == pytest.approx([top - 0.5, top, top - 0.5], abs=1e-3)


def test_the_pinwheel_turned_back_by_the_radius_lies_evenly_about_its_axis() -> None:
    """Turning by the coordinate along the arm instead would shift it by 0.01, seven standard errors."""
    points = drawn("pinwheel").double()
    radius, fifth = points.norm(dim=1), 2 * math.pi / 5
    angle = torch.atan2(points[:, 1], points[:, 0]) - radius / 2
    across = radius * (angle - fifth * (angle / fifth).round()).sin()
    assert float(across.mean()) == pytest.approx(0, abs=4 * float(across.std()) / len(points) ** 0.5)
    assert float(across.std()) == pytest.approx(0.2, rel=0.02)


def test_names_and_misfits() -> None:
    assert density("moons") == Density("moons") == pickle.loads(pickle.dumps(density("moons")))
    assert DENSITIES == ("8gaussians", "rings", "checkerboard", "moons", "pinwheel")
    for call in (density, Density):
        with pytest.raises(ValueError, match="unknown density 'moon'.*did you mean 'moons'"):
            call("moon")
    for n in (0, 1.5):
        with pytest.raises(ValueError, match=f"n must be an integer >= 1, got {n}"):
            density("rings").sample(n)
    with pytest.raises(ValueError, match=r"shape \(N, 2\), got \(4, 3\)"):
        density("rings").log_prob(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"shape \(N, 2\), got \(2,\)"):
        density("rings").log_prob(torch.zeros(2))
    with pytest.raises(TypeError, match="floating point, got torch.int64"):
        density("rings").log_prob(torch.zeros(4, 2, dtype=torch.int64))


def test_points_are_data_without_labels() -> None:
    points = Points(drawn("rings")[:64])
    assert len(points) == 64
    assert points.y is None

    def goal(model: torch.nn.Module, x: Tensor, y: None, fraction: float) -> Tensor:
        assert y is None
        return (model(x)[:, 0] - x.square().sum(1)).square().mean()

    recipe = train.Recipe(epochs=20, batch_size=32, lr=0.05)
    losses = train.fit(torch.nn.Linear(2, 1), points, goal, recipe).losses
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        pytest.param(partial(torch.zeros, 3, 2, dtype=torch.int64), TypeError, "floating point, got torch", id="int"),
        pytest.param(partial(torch.zeros, 0, 2), ValueError, r"non-empty batch .*\(0, 2\)", id="empty"),
        pytest.param(partial(torch.zeros, 3), ValueError, r"non-empty batch .*\(3,\)", id="flat"),
    ],
)
def test_points_refuse_what_is_no_batch(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Points(make())


def test_points_refuse_labels() -> None:
    with pytest.raises(TypeError, match="no labels, got y of type Tensor"):
        data.Points(torch.zeros(3, 2), torch.zeros(3))  # type: ignore[arg-type]
