"""Known values, minima and derivatives of the test functions."""

import math
import pickle

import pytest
import torch

from flatlab import test_functions

EVERY = {
    "ackley": test_functions.ackley(),
    "ackley-5": test_functions.ackley(5),
    "levy": test_functions.levy(),
    "levy-1": test_functions.levy(1),
    "levy-4": test_functions.levy(4),
    "goldstein_price": test_functions.goldstein_price(),
    "goldstein_price-raw": test_functions.goldstein_price(log=False),
    "two_basins": test_functions.two_basins(),
    "two_basins-3": test_functions.two_basins(10, 3),
    "two_basins-1000": test_functions.two_basins(4, 1000.0),
}
every = pytest.mark.parametrize("surface", EVERY.values(), ids=EVERY.keys())
smooth = pytest.mark.parametrize(
    "surface", [s for s in EVERY.values() if s.name != "ackley"], ids=[n for n in EVERY if "ackley" not in n]
)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


class TestKnownAnswers:
    def test_goldstein_price(self):
        raw, log = test_functions.goldstein_price(log=False), test_functions.goldstein_price()
        assert raw.values.tolist() == pytest.approx([3, 30, 84, 840], rel=1e-12)
        assert log.values.tolist() == pytest.approx([-3.1291, -2.1804, -1.7562, -0.8074], abs=6e-5)
        assert log.top_curvature(log.minima).tolist() == pytest.approx([132.6, 59.6, 128.6, 6.5], abs=0.06)
        assert log.optimum == pytest.approx((math.log(3) - 8.693) / 2.427)
        assert raw(double([1.0, 1.0])).item() == 1876
        assert raw(double([0.0, 0.0])).item() == 600

    def test_levy(self):
        levy = test_functions.levy()
        assert levy.optimum == pytest.approx(0, abs=1e-15)
        assert levy.top_curvature(levy.minima).item() == pytest.approx(2.2438, abs=6e-5)
        # w = (2, 2): 0 + 1 * (1 + 10 sin(2 pi + 1)^2) + 1
        assert levy(double([5.0, 5.0])).item() == pytest.approx(2 + 10 * math.sin(1) ** 2)
        assert test_functions.levy(1)(double([3.0])).item() == pytest.approx(1 + 0.25)  # w = 3/2

    @pytest.mark.parametrize("dims", [1, 2, 7])
    def test_ackley(self, dims):
        ackley = test_functions.ackley(dims)
        assert ackley.optimum == pytest.approx(4e-8, rel=1e-6)
        assert ackley.gradient(ackley.minima).tolist() == [[0.0] * dims]
        ones = torch.ones(dims, dtype=torch.float64)
        assert ackley(ones).item() == pytest.approx(20 * (1 - math.exp(-0.2)))
        assert ackley(ones / 2).item() == pytest.approx(20 * (1 - math.exp(-0.1)) + math.e - 1 / math.e)

    @pytest.mark.parametrize("sharpness", [100.0, 700.0])
    def test_two_basins(self, sharpness):
        surface = test_functions.two_basins(3, sharpness)
        far = 4 * sharpness / 2  # |x - 1|^2 / D = 4 at x = -1
        assert surface(double([-1.0] * 3)).item() == pytest.approx(-1 - math.exp(-far) + 0.02)
        assert surface(double([1.0] * 3)).item() == pytest.approx(-1 - math.exp(-2) + 0.02)
        assert surface.minima[0].mean() == pytest.approx(-1, abs=0.05)
        assert surface.minima[1].mean() == pytest.approx(1, abs=0.01)
        flat, sharp = surface.top_curvature(surface.minima).tolist()
        assert flat == pytest.approx(1 / 3, rel=0.05)
        assert sharp == pytest.approx(sharpness / 3, rel=0.05)
        assert (surface.values[0] - surface.values[1]).item() == pytest.approx(math.exp(-2), abs=1e-3)


class TestEverySurface:
    @every
    def test_no_point_of_the_box_lies_below_the_optimum(self, surface):
        values = surface(surface.uniform_starts(2000, generator=gen()))
        assert values.isfinite().all()
        assert values.min() > surface.optimum - 1e-12
        assert surface.optimum == surface.values.min()

    @every
    def test_values_are_independent_and_any_leading_shape_will_do(self, surface):
        x = surface.uniform_starts(6, generator=gen()).reshape(2, 3, -1)
        assert surface(x).shape == (2, 3)
        torch.testing.assert_close(surface(x)[1, 2], surface(x[1, 2]), rtol=1e-13, atol=1e-13)
        assert surface.gradient(x).shape == x.shape
        assert surface.hessian(x).shape == (*x.shape, surface.dims)
        assert surface.top_curvature(x).shape == (2, 3)
        assert surface(x.float()).dtype == torch.float32

    @every
    def test_gradient_is_that_of_finite_differences(self, surface):
        x = surface.uniform_starts(20, generator=gen(1))
        h = 1e-5 * torch.eye(surface.dims, dtype=torch.float64)
        central = (surface(x[:, None] + h) - surface(x[:, None] - h)) / 2e-5
        scale = central.abs().max().item() + 1e-3
        torch.testing.assert_close(surface.gradient(x), central, rtol=1e-6, atol=1e-7 * scale)

    @every
    def test_hessian_is_that_of_autograd_and_symmetric(self, surface):
        x = surface.uniform_starts(5, generator=gen(2))
        found = surface.hessian(x)
        twice = torch.stack([torch.autograd.functional.hessian(surface.function, row) for row in x])
        torch.testing.assert_close(found, twice, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found, found.mT, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(surface.top_curvature(x), torch.linalg.eigvalsh(twice)[:, -1], rtol=1e-9, atol=1e-9)

    @smooth
    def test_minima_are_stationary_and_strict(self, surface):
        assert surface.minima.dtype == torch.float64
        hessian = torch.linalg.eigvalsh(surface.hessian(surface.minima))
        assert (hessian > 0).all()
        assert (surface.gradient(surface.minima).abs().amax(dim=1) <= 1e-11 * hessian[:, -1].clamp(min=1)).all()

    @every
    def test_starts_fill_the_box_and_depend_on_the_generator_alone(self, surface):
        before = torch.get_rng_state()
        starts = surface.uniform_starts(400, generator=gen(3))
        assert torch.equal(starts, surface.uniform_starts(400, generator=gen(3)))
        assert torch.equal(before, torch.get_rng_state())
        assert starts.dtype == torch.float64
        low, high = surface.box
        assert starts.min() >= low
        assert starts.max() <= high
        assert starts.max() - starts.min() > 0.95 * (high - low)

    @every
    def test_survives_a_trip_to_another_process(self, surface):
        again = pickle.loads(pickle.dumps(surface))
        assert torch.equal(again.values, surface.values)


class TestSharpStarts:
    def test_are_half_a_width_around_the_sharp_well(self):
        surface = test_functions.two_basins(2, 400.0)
        z = (surface.sharp_starts(4000, generator=gen()) - 1) * 400**0.5
        assert z.mean().item() == pytest.approx(0, abs=0.03)
        assert z.std().item() == pytest.approx(0.5, rel=0.03)
        assert not surface.escaped(1 + z / 20).any()

    def test_escape_is_the_sign_of_the_mean_and_finite(self):
        surface = test_functions.two_basins(2)
        x = double([[-1, -1], [1, -2], [2, -1], [-math.inf, -1], [math.nan, -1]])
        assert surface.escaped(x).tolist() == [True, True, False, False, False]


def test_curvature_is_nan_where_the_point_is_not_finite():
    levy = test_functions.levy()
    found = levy.top_curvature(double([[1.0, 1.0], [math.nan, 0.0], [math.inf, 0.0]]))
    assert found.isfinite().tolist() == [True, False, False]


def test_registry_makes_each_by_name_with_its_options():
    assert {surface.name for surface in EVERY.values()} == set(test_functions.available()), "all are tested above"
    assert [test_functions.make(name).name for name in test_functions.available()] == list(test_functions.available())
    assert test_functions.make("levy", dims=5).dims == 5
    assert test_functions.make("two_basins", sharpness=30.0).sharpness == 30
    assert test_functions.make("goldstein_price", log=False).optimum == pytest.approx(3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: test_functions.make("levi"), ValueError, "unknown surface 'levi'.*did you mean 'levy'"),
        (lambda: test_functions.make("levy", dim=3), ValueError, "unknown option of levy 'dim'.*dims"),
        (lambda: test_functions.levy(0), ValueError, "dims must be an integer >= 1, got 0"),
        (lambda: test_functions.two_basins(0), ValueError, "dims"),
        (lambda: test_functions.two_basins(1, 2.0), ValueError, "sharpness must be >= 3, got 2.0"),
        (lambda: test_functions.levy()(torch.zeros(3, 3)), ValueError, r"must have shape \(\.\.\., 2\), got \(3, 3\)"),
        (lambda: test_functions.levy()(torch.tensor(1.0)), ValueError, "shape"),
        (lambda: test_functions.levy().gradient(torch.zeros(2, dtype=torch.int64)), TypeError, "floating point"),
        (lambda: test_functions.levy().uniform_starts(0, generator=gen()), ValueError, "count"),
    ],
)
def test_errors_name_the_value_and_the_bound(call, error, message):
    with pytest.raises(error, match=message):
        call()
