"""Noise distributions: laws that all of them keep, and noise from elsewhere."""

import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flatlab import ebm
from flatlab.ebm import BoxNoise, CachedNoise, DefensiveNoise, FlowNoise, GaussianNoise, GMMNoise, Noise, StudentNoise

DOUBLE = torch.float64


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(v: float) -> Noise:
    return GaussianNoise(tensor([0.3 + v, -0.5]), tensor([[1.0, 0.6], [0.6, 0.8 + v]]))


def gmm(v: float) -> Noise:
    covs = tensor([[[0.4, 0.2], [0.2, 0.5]], [[0.9 + v, -0.3], [-0.3, 0.6]]])
    return GMMNoise(tensor([0.3, 0.7]), tensor([[-0.8, 0.2 + v], [0.9, -0.7]]), covs)


def student(v: float) -> Noise:
    return StudentNoise(tensor([0.3 + v, -0.5]), tensor([[1.0, 0.6], [0.6, 0.8]]), 5 + v)


def box(v: float) -> Noise:
    return BoxNoise(tensor([-1.2 - v, -2.0]), tensor([1.6, 0.4 + v]))


def flow(v: float) -> Noise:
    made, generator = FlowNoise(2, layers=4, width=8, bound=0.5).double(), seeded(int(v))
    with torch.no_grad():
        made.loc.copy_(tensor([0.8 + v, -0.6]))
        made.scale.copy_(tensor([0.8, 1.1]))
        for weight in made.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return made


def defensive(v: float) -> Noise:
    return DefensiveNoise(gmm(v), BoxNoise(tensor([-4.0, -4.0]), tensor([4.0, 4.0])), share=0.3 + v / 4)


def cached(v: float) -> Noise:
    return CachedNoise(gaussian(v), 20_000, generator=seeded(7))


MAKERS: tuple[Callable[[float], Noise], ...] = (gaussian, gmm, student, box, flow, defensive, cached)
every_noise = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)


@every_noise
def test_density_integrates_to_one_and_is_that_of_the_samples(make) -> None:
    """The characteristic function, of the samples and of the density on a grid in whose lines are all the edges."""
    noise, half = make(0.0), 40.0 if make is student else 8.0
    steps = torch.linspace(-half, half, 401, dtype=DOUBLE)
    grid = torch.cartesian_prod(*[(steps[1:] + steps[:-1]) / 2] * 2)
    mass = noise.log_prob(grid).detach().exp() * (steps[1] - steps[0]) ** 2
    assert mass.sum() == pytest.approx(1, abs=1e-5)
    x = noise.sample(20_000, generator=seeded())
    for direction in tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.8], [0.8, -0.8], [0.3, 2.0]]):
        for function in (torch.sin, torch.cos):
            of_samples, of_density = function(x @ direction), (mass * function(grid @ direction)).sum()
            error = 6 * of_samples.std() / math.sqrt(len(x))  # the cache has the error of two sets of 20,000
            assert abs(of_samples.mean() - of_density) < error


@every_noise
@pytest.mark.parametrize("corner", [(-0.2, -1.0), (0.5, -0.5)], ids=["left", "right"])
def test_importance_weights_have_mean_one(make, corner) -> None:
    p = BoxNoise(tensor(corner), tensor(corner) + 0.8)
    x, log_q = make(0.0).sample_with_log_prob(20_000, generator=seeded(1))
    weights = (p.log_prob(x) - log_q).exp()
    error = weights.std() / math.sqrt(len(x))
    assert error < 0.05
    assert abs(weights.mean() - 1) < 6 * error


@every_noise
def test_one_generator_one_sample_in_one_go_or_in_two(make) -> None:
    noise = make(0.0)
    x, log_q = noise.sample_with_log_prob(50, generator=seeded(3))
    assert x.shape == (50, *noise.shape)
    assert not any(part.requires_grad for part in (x, log_q))
    torch.testing.assert_close(log_q, noise.log_prob(x))
    assert torch.equal(noise.sample(50, generator=seeded(3)), x)
    assert torch.equal(ebm.draw(noise, 50, seeded(3))[1], log_q)
    assert not torch.equal(noise.sample(50, generator=seeded(4)), x)
    torch.manual_seed(3)
    assert torch.equal(noise.sample(50), x), "None is the global generator"


@every_noise
def test_samples_have_the_dtype_of_the_noise_and_densities_that_of_the_data(make) -> None:
    noise = make(0.0)
    x = noise.sample(20, generator=seeded())
    assert x.dtype == DOUBLE
    wide = noise.log_prob(x)
    assert wide.dtype == DOUBLE
    narrow = noise.float()
    assert narrow.sample(5).dtype == torch.float32
    assert narrow.log_prob(x).dtype == DOUBLE
    assert narrow.log_prob(x.float()).dtype == torch.float32
    torch.testing.assert_close(narrow.log_prob(x.float()).double(), wide, rtol=1e-4, atol=1e-4)


@every_noise
def test_density_is_differentiable_in_x(make) -> None:
    x = tensor([[0.1, -0.4], [0.9, 0.2], [-0.5, -1.1]]).requires_grad_()
    assert torch.autograd.gradcheck(make(0.0).log_prob, x)


@every_noise
def test_state_dict_holds_all_of_it(make) -> None:
    noise, other = make(0.0), make(1.0)
    x = tensor([[0.1, -0.4], [0.9, 0.2], [5.0, -1.1]])
    assert not torch.equal(other.log_prob(x), noise.log_prob(x))
    other.load_state_dict(noise.state_dict())
    assert torch.equal(other.log_prob(x), noise.log_prob(x))
    assert torch.equal(other.sample(9, generator=seeded()), noise.sample(9, generator=seeded()))


@every_noise
def test_misfits_are_refused(make) -> None:
    noise = make(0.0)
    for shape in ((4, 3), (2,), (4, 2, 1)):
        with pytest.raises(ValueError, match=r"noise of shape \(2,\), data of shape \(" + str(shape[0])):
            noise.log_prob(torch.zeros(shape))
    with pytest.raises(TypeError, match="floating point"):
        noise.log_prob(torch.zeros(4, 2, dtype=torch.int64))
    for call in (noise.sample, noise.sample_with_log_prob, lambda n: ebm.draw(noise, n)):
        with pytest.raises(ValueError, match="n must be an integer >= 1, got 0"):
            call(0)


class Foreign:
    """No `Noise`, but it can do what is needed; counts its calls."""

    def __init__(self, columns: int | None = None) -> None:
        self.columns, self.calls = columns, 0

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        self.calls += 1
        return torch.rand(n, 2, 3, generator=generator).requires_grad_()

    def log_prob(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1)
        return total if self.columns is None else total[:, None].expand(-1, self.columns)


def test_cache_draws_once_and_foreign_noise_is_noise() -> None:
    foreign = Foreign()
    noise = CachedNoise(foreign, 40, generator=seeded())
    x, log_q = noise.sample_with_log_prob(500, generator=seeded(1))
    noise.sample(5)
    assert foreign.calls == 1
    assert (noise.shape, x.shape) == ((2, 3), (500, 2, 3))
    assert {tuple(row) for row in x.flatten(1).tolist()} == {tuple(row) for row in noise.x.flatten(1).tolist()}
    torch.testing.assert_close(log_q, x.flatten(1).sum(1))
    assert not any(part.requires_grad for part in ebm.draw(foreign, 3))
    with pytest.raises(ValueError, match=r"Foreign returned .* log densities of shape \(4, 1\); they .* \(4,\)"):
        ebm.draw(Foreign(columns=1), 4)
    with pytest.raises(ValueError, match="n must be an integer >= 1"):
        ebm.draw(foreign, 0)
    for wrong, missing in ((object(), "no sample and no log_prob"), (random.Random(), "Random .* no log_prob")):
        with pytest.raises(TypeError, match=missing):
            ebm.check_noise(wrong)
    assert ebm.check_noise(foreign) is foreign
