"""What holds for every sampler: seeds side by side, generators, shapes, bad input."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flatlab.rng import SeedGenerators
from flatlab.samplers import ReplayBuffer, annealed, langevin, mala, normal_like, uniform


def normal(x: Tensor) -> Tensor:
    """log N(x; 0, I) of each row."""
    return (-x.square() / 2 - math.log(math.tau) / 2).reshape(len(x), -1).sum(1)


def shifted(x: Tensor) -> Tensor:
    return normal((x - 0.5) * 1.5)


def by_langevin(f, x: Tensor, generator) -> Tensor:
    return langevin(f, x, 4, 0.7, generator=generator)


def by_mala(f, x: Tensor, generator) -> Tensor:
    return mala(f, x, 4, 0.7, generator=generator).x


def by_annealing(f, x: Tensor, generator) -> Tensor:
    found = annealed(normal, f, x, betas=3, steps=2, eps=0.7, generator=generator)
    return found.x + found.log_weights.to(x).reshape(-1, *[1] * (x.ndim - 1))


Sampler = Callable[[Callable[[Tensor], Tensor], Tensor, object], Tensor]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
every_sampler = pytest.mark.parametrize("sampler", [by_langevin, by_mala, by_annealing], ids=lambda s: s.__name__)


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@every_sampler
def test_seeds_together_equal_the_seeds_alone(sampler: Sampler) -> None:
    x = points(12, 2)
    together = sampler(shifted, x, SeedGenerators([5, 6, 7]))
    for block, seed in enumerate((5, 6, 7)):
        rows = slice(4 * block, 4 * block + 4)
        torch.testing.assert_close(together[rows], sampler(shifted, x[rows], SeedGenerators(seed)))


@every_sampler
def test_one_seed_is_a_plain_generator(sampler: Sampler) -> None:
    x = points(6, 2).float()
    plain = sampler(shifted, x, torch.Generator().manual_seed(5))
    assert torch.equal(sampler(shifted, x, SeedGenerators(5)), plain)


@every_sampler
def test_a_generator_decides_and_torchs_own_is_the_default(sampler: Sampler) -> None:
    x, state = points(6, 2), torch.get_rng_state()
    first, again, other = (sampler(shifted, x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(sampler(shifted, x, None), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 2, 3, 4)], ids=str)
@every_sampler
def test_keeps_shape_and_type_and_leaves_the_start(sampler: Sampler, shape: tuple[int, ...], dtype) -> None:
    x = points(*shape).to(dtype).requires_grad_()
    before = x.detach().clone()
    found = sampler(shifted, x, SeedGenerators(1))
    assert (found.shape, found.dtype, found.requires_grad) == (shape, dtype, False)
    assert torch.equal(x, before)
    assert x.grad is None
    assert not torch.equal(found, x)


@pytest.mark.parametrize("device", DEVICES)
@every_sampler
def test_chains_stay_where_they_are_wherever_numbers_are_drawn(sampler: Sampler, device: str) -> None:
    x = points(6, 2).to(device)
    for drawn_on in {"cpu", device}:
        for generator in (torch.Generator(drawn_on), SeedGenerators([1, 2], drawn_on), None):
            assert sampler(shifted, x, generator).device == x.device
        buffer = ReplayBuffer(4)
        index, start = buffer.draw(x, SeedGenerators([1, 2], drawn_on), lambda shape: torch.zeros(shape, device=device))
        buffer.store(index, start)
        assert start.device == x.device


@every_sampler
def test_shape_of_the_chains_does_not_matter(sampler: Sampler) -> None:
    x = points(5, 2, 3)
    flat = sampler(shifted, x.flatten(1), torch.Generator().manual_seed(1))
    torch.testing.assert_close(sampler(shifted, x, torch.Generator().manual_seed(1)).flatten(1), flat)


@every_sampler
def test_bad_densities_and_starts_are_refused(sampler: Sampler) -> None:
    x = points(4, 2)
    with pytest.raises(ValueError, match=r"shape \(4,\), got \(4, 1\)"):
        sampler(lambda p: p.sum(1, keepdim=True), x, None)
    with pytest.raises(ValueError, match=r"shape \(4,\), got \(\)"):
        sampler(lambda p: p.sum(), x, None)
    with pytest.raises(ValueError, match="without a gradient in x"):
        sampler(lambda p: shifted(p.detach()), x, None)
    with pytest.raises(TypeError, match="floating point, got torch.int64"):
        sampler(shifted, torch.zeros(4, 2, dtype=torch.int64), None)
    with pytest.raises(ValueError, match="N >= 1"):
        sampler(shifted, x[:0], None)
    with pytest.raises(ValueError, match="do not divide into 3"):
        sampler(shifted, x, SeedGenerators([1, 2, 3]))


def test_steps_must_be_whole() -> None:
    for bad in (-1, 1.5):
        with pytest.raises(ValueError, match="steps must be an integer >= 0"):
            langevin(normal, points(2, 2), bad, 0.1)
        with pytest.raises(ValueError, match="steps must be an integer >= 0"):
            mala(normal, points(2, 2), bad, 0.1)
        with pytest.raises(ValueError, match="steps must be an integer >= 0"):
            annealed(normal, normal, points(2, 2), betas=2, steps=bad, eps=0.1)


@pytest.mark.parametrize("generator", [None, torch.Generator(), SeedGenerators([1, 2])], ids=["none", "plain", "seeds"])
def test_draws_have_the_type_that_is_asked_for(generator) -> None:
    like = torch.zeros(4000, 2, dtype=torch.float64)
    noise, even = normal_like(like, generator), uniform((4000,), generator, like)
    assert (noise.shape, noise.dtype, even.dtype) == (like.shape, torch.float64, torch.float64)
    assert uniform((4,), generator).dtype == torch.float32
    assert float(noise.mean()) == pytest.approx(0, abs=4 / math.sqrt(8000))
    assert float(noise.std()) == pytest.approx(1, abs=4 / math.sqrt(16000))
    assert 0 <= even.min() < 0.01
    assert 0.99 < even.max() < 1
    assert float(even.mean()) == pytest.approx(0.5, abs=4 / math.sqrt(12 * 4000))
