"""The replay buffer: distinct chains, the order of its draws, restarts, seeds."""

import pytest
import torch
from torch import Tensor

from flatlab.rng import SeedGenerators
from flatlab.samplers import ReplayBuffer


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def zeros(shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(shape)


def numbered(n: int) -> Tensor:
    """Chains (n, 2) that can be told apart."""
    return torch.arange(2.0 * n).reshape(n, 2) + 1


def test_draws_in_this_order() -> None:
    """The whole buffer, the places, new chains for a batch, and who restarts."""
    rng, same = SeedGenerators([3, 4]), SeedGenerators([3, 4])
    buffer = ReplayBuffer(5, reinit=0.5)
    kept = same.uniform((10, 3))
    for _ in range(3):
        index, start = buffer.draw(torch.empty(6, 3), rng, rng.uniform)
        places = torch.cat([order[:3] + 5 * seed for seed, order in enumerate(same.permutations(5))])
        new, restart = same.uniform((6, 3)), same.uniform((6,)) < 0.5
        assert torch.equal(index, places)
        assert torch.equal(start, torch.where(restart[:, None], new, kept[places]))
        buffer.store(index, start + 1)
        kept[places] = start + 1
        assert torch.equal(buffer.chains, kept)


@pytest.mark.parametrize("seeds", [1, 3])
def test_places_are_distinct_and_each_seed_has_its_own(seeds: int) -> None:
    rng, buffer = SeedGenerators(list(range(seeds))), ReplayBuffer(8)
    seen = set()
    for _ in range(20):
        index, _ = buffer.draw((5 * seeds, 2), rng, zeros)
        assert (index // 8).tolist() == [seed for seed in range(seeds) for _ in range(5)]
        assert len(set(index.tolist())) == 5 * seeds
        seen |= set(index.tolist())
    assert seen == set(range(8 * seeds))


def test_chains_go_on_or_start_anew() -> None:
    for reinit in (0.0, 1.0):
        buffer = ReplayBuffer(6, reinit=reinit)
        buffer.chains = numbered(6)
        index, start = buffer.draw((6, 2), gen(), zeros)
        assert torch.equal(start, torch.zeros(6, 2) if reinit else numbered(6)[index])


def test_store_changes_these_places_alone() -> None:
    buffer = ReplayBuffer(6, reinit=0.0)
    buffer.chains = numbered(6)
    index, start = buffer.draw((4, 2), gen(), zeros)
    buffer.store(index, -start)
    expected = numbered(6)
    expected[index] *= -1
    assert torch.equal(buffer.chains, expected)
    assert (start > 0).all(), "what was drawn is a copy"


def test_never_writes_into_what_fresh_returned() -> None:
    data = torch.ones(6, 2)
    buffer = ReplayBuffer(6)
    index, start = buffer.draw((6, 2), gen(), lambda shape: data)
    buffer.store(index, start * 7)
    assert torch.equal(data, torch.ones(6, 2))


def test_one_seed_is_a_plain_generator() -> None:
    one, plain = ReplayBuffer(6, reinit=0.5), ReplayBuffer(6, reinit=0.5)
    seeds, generator = SeedGenerators(5), gen(5)
    for _ in range(3):
        found = one.draw((4, 2), seeds, seeds.uniform)
        expected = plain.draw((4, 2), generator, lambda shape: torch.rand(shape, generator=generator))
        assert all(map(torch.equal, found, expected))


def test_torchs_own_generator_will_do() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(ReplayBuffer(6, reinit=0.5).draw((4, 2), None, torch.rand))
    assert all(map(torch.equal, *drawn))


def test_keeps_the_precision_of_fresh_and_starts_in_that_of_the_batch() -> None:
    buffer = ReplayBuffer(6)
    index, start = buffer.draw(torch.empty(4, 2, dtype=torch.float64), gen(), zeros)
    assert start.dtype == torch.float64
    buffer.store(index, (start + 1).requires_grad_())
    assert buffer.chains is not None
    assert (buffer.chains.dtype, buffer.chains.requires_grad) == (torch.float32, False)


def test_misfits_are_refused() -> None:
    buffer = ReplayBuffer(3)
    with pytest.raises(ValueError, match="draw from it first"):
        buffer.store(torch.arange(2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="size=3 is smaller than the batch of 4"):
        buffer.draw((4, 2), gen(), zeros)
    with pytest.raises(ValueError, match=r"fresh must return .* \(3, 2\), got \(2, 2\)"):
        buffer.draw((2, 2), gen(), lambda shape: torch.zeros(2, 2))
    buffer.draw((2, 2), gen(), zeros)
    with pytest.raises(ValueError, match=r"holds \(3, 2\), these inputs need \(3, 5\)"):
        buffer.draw((2, 5), gen(), zeros)
    with pytest.raises(ValueError, match=r"holds \(3, 2\), these inputs need \(6, 2\)"):
        buffer.draw((2, 2), SeedGenerators([1, 2]), zeros)
    with pytest.raises(ValueError, match="do not divide into 2"):
        ReplayBuffer(3).draw((5, 2), SeedGenerators([1, 2]), zeros)
    for bad in (0, 1.5, True):
        with pytest.raises(ValueError, match="size must be"):
            ReplayBuffer(bad)
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="reinit"):
            ReplayBuffer(3, reinit=bad)
