"""The one-dimensional Gaussian in closed form: known values, autograd, quadrature and simulation."""

import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from flatlab.ebm import ExpNCELoss, GaussianNoise, NCELoss
from flatlab.ebm.gaussian import (
    Population,
    best_width,
    chi2,
    ence_population,
    gradient_variance,
    mle_population,
    nce_population,
)

DOUBLE = torch.float64
POPULATIONS = [nce_population, ence_population, mle_population]
every_population = pytest.mark.parametrize("population", POPULATIONS, ids=lambda p: p.__name__)


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(found: Tensor, expected: object, atol: float = 1e-10) -> None:
    torch.testing.assert_close(found, tensor(expected), rtol=0, atol=atol)


def test_known_values_away_from_the_optimum() -> None:
    nce, ence = nce_population(1, 0.5, 2), ence_population(1, 0.5, 2)
    close(nce.value, 0.429008786013)
    close(nce.grad, [-0.047844994795, -0.088249730996])
    close(nce.hess, [[0.309188218430, -0.131178548160], [-0.131178548160, 0.173628410396]])
    close(ence.value, 0.708879165552)
    close(ence.grad, [-0.090410922872, -0.086808868516])
    close(nce_population(1, 0.3, 3).value, 0.382031043427)
    close(ence_population(1, 0.3, 3).value, 0.634533806176)


def test_known_values_at_the_optimum() -> None:
    nce, ence, mle = (population(2, 2, 2) for population in POPULATIONS)
    close(nce.value, 0.356316360213)
    close(ence.value, math.exp(-0.5), 1e-15)
    close(mle.value, math.log(2 * math.pi * math.e) / 2, 1e-15)
    for found in (nce, ence, mle):
        close(found.grad, [0.0, 0.0], 1e-14)


def test_known_values_where_the_model_is_the_noise() -> None:
    nce, ence = nce_population(0, 0, 2), ence_population(0, 0, 2)
    close(nce.value, math.log(2), 1e-13)
    close(ence.value, 1.0, 1e-15)
    for found in (nce, ence):
        close(found.grad, [-0.5, 0.0], 1e-13)
        close(found.hess, [[0.75, -0.25], [-0.25, 0.25]], 1e-13)


def test_curvature_at_the_optimum_vanishes_with_the_distance() -> None:
    R = tensor([1.0, 2, 4, 6, 8, 10])
    hess = nce_population(R, R.square() / 2, R).hess
    least = torch.linalg.eigvalsh(hess)[:, 0]
    known = tensor([1.067e-1, 2.844e-2, 1.030e-3, 1.908e-5, 1.733e-7, 7.142e-10])
    torch.testing.assert_close(least, known, rtol=1e-3, atol=0)
    shape = torch.stack([1 + R.square() / 4, -R / 2, -R / 2, torch.ones(6, dtype=DOUBLE)], -1).unflatten(-1, (2, 2))
    bound = (-R.square() / 8).exp()[:, None, None] / 4 * shape
    torch.testing.assert_close(ence_population(R, R.square() / 2, R).hess, bound)
    assert (torch.linalg.eigvalsh(bound - hess) > 0).all(), "eNCE is steeper in all directions"
    torch.testing.assert_close(mle_population(R, R, R).hess[:, 0, 0], torch.ones(6, dtype=DOUBLE))


@every_population
def test_gradient_and_hessian_are_those_of_the_value(population) -> None:
    def value(at: Tensor) -> Tensor:
        return population(at[0], at[1], 1.5).value

    def slope(at: Tensor) -> Tensor:
        return population(at[0], at[1], 1.5).grad

    for at in (tensor([0.4, -0.3]), tensor([2.5, 1.0]), tensor([-1.0, 2.0])):
        found = population(*at, 1.5)
        torch.testing.assert_close(found.grad, torch.autograd.functional.jacobian(value, at), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.hess, torch.autograd.functional.jacobian(slope, at), rtol=1e-9, atol=1e-12)


@every_population
def test_batches_of_places_are_the_places_one_by_one(population) -> None:
    b, c, R = tensor([[0.0], [1.0]]), 0.5, tensor([1.0, 2.0, 4.0])
    found = population(b, c, R)
    assert [tuple(part.shape) for part in found] == [(2, 3), (2, 3, 2), (2, 3, 2, 2)]
    assert {part.dtype for part in found} == {DOUBLE}
    assert isinstance(found, Population)
    for part, alone in zip(found, population(1.0, 0.5, 4), strict=True):
        torch.testing.assert_close(part[1, 2], alone, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("b", "c", "R", "s"), [(1.0, 0.5, 2.0, 1.5), (0.5, -1.0, 4.0, 3.0), (-1.0, 0.2, 1.0, 0.8)])
def test_other_widths_of_the_noise_against_quadrature(b: float, c: float, R: float, s: float) -> None:
    def normal(x: float, mean: float, sd: float) -> float:
        return math.exp(-(((x - mean) / sd) ** 2) / 2) / (sd * math.sqrt(2 * math.pi))

    def integrand(x: float) -> float:
        gap = b * x - c + math.log(normal(x, 0, 1)) - math.log(normal(x, 0, s))
        return (normal(x, R, 1) * math.log1p(math.exp(-gap)) + normal(x, 0, s) * math.log1p(math.exp(gap))) / 2

    expected, _ = quad(integrand, -25, 25, epsabs=1e-12, epsrel=1e-12, limit=500, points=[0, R])
    close(nce_population(b, c, R, s=s).value, expected, 1e-9)
    close(nce_population(b, c, R, s=s, spacing=0.1).value, expected, 1e-9)
    at = tensor([b, c])
    slope = torch.autograd.functional.jacobian(lambda p: nce_population(p[0], p[1], R, s=s).value, at)
    torch.testing.assert_close(nce_population(b, c, R, s=s).grad, slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("s", [1.0, 1.7])
def test_the_minimum_is_at_the_data_whatever_the_noise(s: float) -> None:
    found = nce_population(3, 4.5, 3, s=s)
    close(found.grad, [0.0, 0.0], 1e-13)
    assert (torch.linalg.eigvalsh(found.hess) > 0).all()


@pytest.mark.parametrize(
    ("loss", "population", "factor"),
    [(NCELoss, nce_population, 2), (ExpNCELoss, ence_population, 1)],
    ids=["nce", "ence"],
)
def test_losses_of_many_samples_are_those_of_the_population(loss, population, factor: int) -> None:
    """NCE's loss is a sum over data and noise, the population's their mean."""
    n, b, c, R = 40_000, 0.5, 0.2, 1.0
    params = tensor([b, c]).requires_grad_()

    def f(x: Tensor) -> Tensor:
        return params[0] * x[:, 0] - params[1] - x[:, 0].square() / 2 - math.log(2 * math.pi) / 2

    made = loss(GaussianNoise.standard(1).double(), n_noise=n, log_z=False)
    found, slopes = [], []
    for trial in range(20):
        x = R + torch.randn(n, 1, generator=seeded(trial), dtype=DOUBLE)
        out = made(f, x, generator=seeded(100 + trial))
        found.append(out.loss.detach() / factor)
        slopes.append(torch.autograd.grad(out.loss, params)[0] / factor)
    expected = population(b, c, R)
    for values, known in ((torch.stack(found), expected.value), (torch.stack(slopes), expected.grad)):
        assert ((values.mean(0) - known).abs() < 4 * values.std(0) / math.sqrt(20)).all()
        assert (values.std(0) < 0.01).all()


KNOWN = [(0, 1, 1.0), (1, 1, math.e), (2, 1, 54.5981500331), (2, 2, 2.67719032402), (4, 4, 4.81494273557)]


@pytest.mark.parametrize(("delta", "s", "known"), [*KNOWN, (1, 0.7, math.inf), (1, 0.72, 1.71088795986e12)])
def test_chi2_at_known_places(delta: float, s: float, known: float) -> None:
    assert float(chi2(delta, s)) + 1 == pytest.approx(known, rel=1e-9)


def test_no_variance_where_the_noise_is_too_narrow() -> None:
    for width in (0.5, 0.7, math.sqrt(0.5) - 1e-9):
        assert chi2(1, width) == math.inf
        assert gradient_variance(0, width) == math.inf
    assert chi2(tensor([1.0, 1.0]), tensor([0.7, 1.0])).isinf().tolist() == [True, False]


@pytest.mark.parametrize(("delta", "s", "known"), [(0.5, 1, 2.60503), (1, 1, 6.43656), (8, 8, 5.77439)])
def test_gradient_variance_at_known_places(delta: float, s: float, known: float) -> None:
    assert 1 + float(gradient_variance(delta, s)) == pytest.approx(known, abs=1e-5)


@pytest.mark.parametrize(("delta", "s"), [(0.5, 1.5), (1.0, 2.0), (4.0, 4.0)])
def test_variances_against_simulation(delta: float, s: float) -> None:
    t, n = 0.7, 400_000
    y = t - delta + s * torch.randn(n, generator=seeded(), dtype=DOUBLE)
    w = (-(y - t).square() / 2 + ((y - t + delta) / s).square() / 2).exp() * s
    for draws, known in ((w.square(), 1 + chi2(delta, s)), ((w * (y - t)).square(), gradient_variance(delta, s))):
        assert abs(float(draws.mean() - known)) < 4 * float(draws.std()) / math.sqrt(n)


def test_best_width_is_a_minimum_of_chi2() -> None:
    delta = tensor([0.0, 0.5, 1.0, 2.0, 4.0, 10.0])
    best = best_width(delta)
    assert float(best[0]) == pytest.approx(1.0, abs=1e-12)
    least = chi2(delta, best)
    for factor in (0.9, 0.99, 1.01, 1.1, 2.0):
        assert (chi2(delta, factor * best) > least).all()
    s = best.clone().requires_grad_()
    (slope,) = torch.autograd.grad(chi2(delta, s).sum(), s)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-9)


def test_spacing_must_be_positive() -> None:
    for spacing in (0.0, -0.1):
        with pytest.raises(ValueError, match="spacing must be a finite number > 0"):
            nce_population(1, 0.5, 2, spacing=spacing)
