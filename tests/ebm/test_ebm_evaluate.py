"""Normalizing constants and likelihoods of models that are known, and refusals where nothing can be said."""

import math

import pytest
import torch
from torch import Tensor

from flatlab import ebm, flatness
from flatlab.ebm import BoxNoise, GaussianNoise, StudentNoise, TooFewDraws
from flatlab.ebm.gaussian import chi2

DOUBLE = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(dim: int, sd: float, mean: float = 0.0, constant: float = 0.0):
    """N(mean, sd^2 I) times exp(constant), without its own constant: log Z is constant + dim/2 log(2 pi sd^2)."""

    def f(x: Tensor) -> Tensor:
        return constant - ((x - mean) / sd).square().sum(1) / 2

    return f, constant + dim / 2 * math.log(math.tau * sd**2)


def test_grid_of_a_normal_density() -> None:
    """That of N(0, 1.5^2 I) on [-7, 7]^2, but for the mass outside."""
    f, log_z = gaussian(2, 1.5)
    found = ebm.log_z_grid(lambda x: f(x) - log_z)
    assert abs(found.log_z) < 1e-5
    assert found.error < 1e-5
    assert 0 < found.edge < 1e-5
    far = ebm.log_z_grid(lambda x: f(x) + 700)
    assert far.log_z == pytest.approx(700 + log_z, abs=1e-4)


def test_grid_tells_of_a_box_that_is_too_small() -> None:
    f, log_z = gaussian(2, 1.5)
    inside = 2 * math.log(math.erf(2 / 1.5 / math.sqrt(2)))
    small = ebm.log_z_grid(f, box=(-2.0, 2.0), n=50)
    assert small.log_z == pytest.approx(log_z + inside, abs=1e-3)
    assert small.edge > 0.01
    flat = ebm.log_z_grid(lambda x: 0 * x[:, 0], box=(0.0, 3.0), n=10)
    assert flat.log_z == pytest.approx(math.log(9), abs=1e-6)
    assert flat.edge == pytest.approx(36 / 100, abs=1e-6), "of 100 equal cells 36 are outermost"


def test_grid_tells_of_cells_that_are_too_wide() -> None:
    f, log_z = gaussian(2, 0.1)
    coarse, fine = ebm.log_z_grid(f, n=40), ebm.log_z_grid(f)
    assert coarse.error > 0.5
    assert fine.error < 0.01
    assert fine.log_z == pytest.approx(log_z, abs=1e-3)
    slope = ebm.log_z_grid(lambda x: x[:, 0], box=(0.0, 1.0), n=100)
    assert slope.log_z == pytest.approx(math.log(math.e - 1), abs=1e-5), "the middle of a cell, not its end"
    wave, halves = (ebm.log_z_grid(lambda x: x[:, 0] ** 2, box=(0.0, 1.0), n=n).log_z for n in (8, 4))
    assert ebm.log_z_grid(lambda x: x[:, 0] ** 2, box=(0.0, 1.0), n=8).error == pytest.approx(abs(wave - halves))


def test_importance_sampling_is_as_good_as_it_says() -> None:
    """Errors of 100 estimates against their own, and effective draws against the variance of the weights."""
    f, log_z = gaussian(1, 1.0, mean=1.0, constant=3.0)
    q, n = GaussianNoise.standard(1, 2.0).double(), 2000
    found = [ebm.log_z_snis(f, q, n, generator=seeded(seed)) for seed in range(100)]
    scores = torch.tensor([(one.log_z - log_z) / one.se for one in found])
    assert scores.mean().abs() < 4 / 10
    assert 0.7 < scores.std() < 1.3
    ess = sum(one.ess for one in found) / 100
    assert ess == pytest.approx(n / (1 + float(chi2(1, 2))), rel=0.03)


def test_importance_sampling_at_known_weights() -> None:
    class Two:
        """The points 0 and 1, one after the other, with a density of 1."""

        def sample(self, n: int, *, generator=None) -> Tensor:
            return torch.arange(n, dtype=DOUBLE)[:, None] % 2

        def log_prob(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), dtype=DOUBLE)

    n = 70_000  # in more than two parts
    found = ebm.log_z_snis(lambda x: 800 + math.log(3) * x[:, 0], Two(), n)
    assert found.log_z == pytest.approx(800 + math.log(2), abs=1e-9)
    assert found.ess == pytest.approx(n * 4**2 / (2 * 10), rel=1e-9)
    assert found.se == pytest.approx(math.sqrt((20 / 16 - 1) / n), rel=1e-6)
    half = ebm.log_z_snis(lambda x: x[:, 0].log(), Two(), 10)
    assert (half.log_z, half.ess) == (pytest.approx(math.log(0.5)), pytest.approx(5))
    one = ebm.log_z_snis(lambda x: x[:, 0], Two(), 1)
    assert (one.log_z, one.ess, one.se) == (0.0, 1.0, 0.0)


def test_the_noise_as_its_own_model_has_no_error() -> None:
    q = StudentNoise(torch.zeros(3), torch.eye(3), 4.0).double()
    found = ebm.log_z_snis(q.log_prob, q, 500, generator=seeded())
    assert found.log_z == pytest.approx(0, abs=1e-12)
    assert (found.ess, found.se) == (pytest.approx(500), pytest.approx(0, abs=1e-6))


def test_likelihood_of_a_known_model() -> None:
    f, log_z = gaussian(2, 1.0, mean=0.5, constant=-2.0)
    x = torch.randn(30, 2, generator=seeded(1), dtype=DOUBLE)
    found = ebm.nll_snis(f, x, GaussianNoise.standard(2, 1.5).double(), 20_000, generator=seeded())
    exact = log_z - f(x)
    torch.testing.assert_close(found.samples, exact, rtol=0, atol=4 * found.log_z.se)
    assert found.samples.dtype == DOUBLE
    assert found.value == pytest.approx(float(found.samples.mean()))
    assert found.log_z.log_z == pytest.approx(log_z, abs=4 * found.log_z.se)


def test_no_likelihood_from_less_than_a_hundred_effective_draws() -> None:
    """A model N(3, 1) under N(0, 1) has n / e^9 of them."""
    f, _ = gaussian(1, 1.0, mean=3.0)
    q, x = GaussianNoise.standard(1).double(), torch.full((1, 1), 3.0, dtype=DOUBLE)
    with pytest.raises(TooFewDraws, match=r"\d+\.\d effective of 1000 draws, fewer than 100: .* widen the noise, cap"):
        ebm.nll_snis(f, x, q, 1000, generator=seeded())
    ess = ebm.log_z_snis(f, q, 1000, generator=seeded()).ess
    assert ess < 100
    assert ebm.nll_snis(f, x, q, 1000, generator=seeded(), least=ess - 0.01).log_z.ess == ess
    with pytest.raises(TooFewDraws, match="fewer than 100"):
        ebm.nll_snis(q.log_prob, x, q, 99)
    assert math.isfinite(ebm.nll_snis(q.log_prob, x, q, 101).value)


@pytest.mark.parametrize("dim", [1, 16])
def test_annealing_reaches_where_no_noise_covers(dim: int) -> None:
    f, log_z = gaussian(dim, 0.5, mean=1.0, constant=5.0)
    q = GaussianNoise.standard(dim).double()
    found = ebm.ais(f, q, 400, temperatures=150, steps=2, eps=0.35, generator=seeded())
    assert abs(found.log_z - log_z) < 4 * found.se
    assert found.se < 0.15
    assert found.ess > 40
    plain = ebm.log_z_snis(f, q, 400, generator=seeded())
    assert (plain.ess > 100) if dim == 1 else (plain.ess < 5)


def test_annealing_in_one_step_is_importance_sampling() -> None:
    f, _ = gaussian(2, 0.8, mean=0.3)
    q = GaussianNoise.standard(2).double()
    once = ebm.ais(f, q, 300, temperatures=1, generator=seeded())
    plain = ebm.log_z_snis(f, q, 300, generator=seeded())
    assert once == pytest.approx(plain, rel=1e-12)


def test_auroc_of_energies() -> None:
    """Energies (.1, .4, .35) within and (.8, .3, .9) outside."""
    inside, outside = torch.tensor([[0.1], [0.4], [0.35]]), torch.tensor([[0.8], [0.3], [0.9]])
    assert ebm.ood_auroc(lambda x: -x[:, 0], inside, outside) == pytest.approx(0.7777778, abs=1e-7)
    assert ebm.ood_auroc(lambda x: x[:, 0], inside, outside) == pytest.approx(1 - 0.7777778, abs=1e-7)
    with pytest.raises(ValueError, match="NaN"):
        ebm.ood_auroc(lambda x: x[:, 0] * torch.nan, inside, outside)


def test_many_points_go_through_a_model_in_parts_and_without_a_graph() -> None:
    weight, sizes = torch.ones(2, requires_grad=True), []

    def f(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x @ weight

    x = torch.randn(70_000, 2, generator=seeded())
    found = ebm.evaluated(f, x)
    assert (len(sizes), sum(sizes), max(sizes)) == (3, 70_000, 32_768)
    assert (found.dtype, found.requires_grad) == (DOUBLE, False)
    torch.testing.assert_close(found, x.double().sum(1), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"shape \(32768,\), got \(32768, 1\); squeeze it"):
        ebm.evaluated(lambda part: part[:, :1], x)


Q, PAIR = GaussianNoise.standard(2), torch.zeros(2, 2)


def zero(x: Tensor) -> Tensor:
    return 0 * x[:, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ebm.log_z_grid(zero, box=(1.0, 1.0)), r"box must be \(low, high\) with low < high, got \(1.0, 1.0\)"),
        (lambda: ebm.log_z_grid(zero, box=(2.0, -2.0)), "low < high"),
        (lambda: ebm.log_z_grid(zero, n=3), "n must be an integer >= 4, got 3"),
        (lambda: ebm.log_z_grid(lambda x: zero(x) * torch.nan), "f is NaN or infinite in the box"),
        (lambda: ebm.log_z_grid(lambda x: zero(x) + torch.inf), "f is NaN or infinite in the box"),
        (lambda: ebm.log_z_grid(lambda x: zero(x) - torch.inf), "zero at every point of the box .*move the box"),
        (lambda: ebm.log_z_snis(zero, Q, 0), "n must be an integer >= 1, got 0"),
        (lambda: ebm.log_z_snis(lambda x: zero(x) * torch.nan, Q, 9), "log weights are NaN or infinite"),
        (lambda: ebm.log_z_snis(lambda x: zero(x) + torch.inf, Q, 9), "log weights are NaN or infinite"),
        (lambda: ebm.log_z_snis(lambda x: zero(x) - torch.inf, Q, 9), "zero at every draw: .*take one that covers it"),
        (lambda: ebm.nll_snis(zero, PAIR[:0], BoxNoise(0.0, 1.0, 2), 200), "data must be a non-empty batch"),
        (lambda: ebm.ais(zero, Q, 0), "n must be an integer >= 1, got 0"),
        (lambda: ebm.ais(zero, Q, 5, eps=0), "eps must be a finite number > 0, got 0"),
        (lambda: ebm.ais(zero, Q, 5, temperatures=0), "temperatures must be an integer >= 1, got 0"),
        (lambda: ebm.ood_auroc(zero, PAIR[:0], PAIR), "data must be a non-empty batch"),
    ],
)
def test_bad_input_of_evaluations(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_evaluations_need_a_noise() -> None:
    for call in (ebm.log_z_snis, ebm.ais):
        with pytest.raises(TypeError, match="is no noise distribution, it has no sample and no log_prob"):
            call(zero, object(), 10)


def test_flatness_reads_an_energy_network_as_a_classifier_with_one_logit() -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    slope = torch.nn.Linear(3, 1).eval()
    found = flatness.likelihood_flatness(slope, x, 0.5, directions=40, generator=torch.Generator().manual_seed(1))
    assert 0 < float(found.mean) <= 0.5 * float(slope.weight.detach().abs().sum()) + 1e-6, (
        "a step of 0.5 in each coordinate"
    )
    torch.testing.assert_close(flatness.log_density(slope(x)), slope(x)[:, 0])
    torch.nn.init.zeros_(slope.weight)
    assert float(flatness.likelihood_flatness(slope, x, 0.5).mean) == 0
