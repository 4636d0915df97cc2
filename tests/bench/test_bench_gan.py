"""GANs: a step against a bare loop of torch, and runs side by side against one after another, on one thread."""

import functools
import time
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import gan

WGAN_GP = {"loss": "wgan-gp", "betas": (0.0, 0.9)}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def images(rows: int, side: int) -> Tensor:
    return torch.rand(rows, 1, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def dcgan() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return gan.DCGANGenerator(16, 1, 100, 16), gan.DCGANDiscriminator(16, 1, 16)


def mlp(seed: int) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(seed)
    return gan.MLPGenerator(8), gan.MLPDiscriminator(8)


def bare(real: Tensor, steps: int) -> None:
    """What one writes without a library: one z for both players, losses on logits, Adam."""
    G, D = dcgan()
    move_g, move_d = (torch.optim.Adam(player.parameters(), 2e-4, betas=(0.5, 0.999)) for player in (G, D))
    one = torch.ones(len(real), 1)
    for _ in range(steps):
        fake = G(torch.randn(len(real), 100))
        loss = F.binary_cross_entropy_with_logits(D(real), one)
        loss = loss + F.binary_cross_entropy_with_logits(D(fake.detach()), 0 * one)
        move_d.zero_grad()
        loss.backward()
        move_d.step()
        loss.item()
        loss = F.binary_cross_entropy_with_logits(D(fake), one)
        move_g.zero_grad()
        loss.backward()
        move_g.step()
        loss.item()


def ours(real: Tensor, steps: int) -> None:
    players = gan.TTUR(*dcgan(), lr_g=2e-4, lr_d=2e-4)
    for _ in range(steps):
        players.step(real)


@pytest.mark.benchmark(group="GANs")
def test_a_step_of_a_dcgan_against_a_bare_loop(benchmark, stopwatch) -> None:
    """16x16, width 16, batches of 64."""
    real, steps = (images(64, 16), 10) if stopwatch.measuring else (images(2, 16), 1)
    seconds = stopwatch(
        {"ours": lambda: ours(real, steps), "bare": lambda: bare(real, steps)}, 7, clock=time.process_time
    )
    ratio = seconds["ours"] / seconds["bare"]
    print(f"\n{steps} steps of a DCGAN: TTUR / bare loop = {ratio:.2f}")
    benchmark.extra_info["TTUR / bare loop"] = ratio
    benchmark.pedantic(lambda: None, rounds=1)
    assert ratio < 1.2 or not stopwatch.measuring


@pytest.mark.benchmark(group="GANs")
@pytest.mark.parametrize("options", [{}, WGAN_GP], ids=["ns", "wgan-gp"])
def test_eight_runs_stacked_against_apart(benchmark, stopwatch, options: dict[str, object]) -> None:
    made, steps = [mlp(seed) for seed in range(8)], 50 if stopwatch.measuring else 1
    real = images(8 * 64, 8)

    def stacked() -> None:
        G, D = zip(*made, strict=True)
        players = gan.TTUR(G, D, lr_g=1e-3, lr_d=1e-3, seed=range(8), **options)
        for _ in range(steps):
            players.step(real)

    def apart() -> None:
        for seed, (g, d) in enumerate(made):
            players = gan.TTUR(g, d, lr_g=1e-3, lr_d=1e-3, seed=seed, **options)
            for _ in range(steps):
                players.step(real[:64])

    ratio = report(benchmark, stopwatch, f"8 MLP runs, {options.get('loss', 'ns')}", stacked, apart)
    assert ratio < 0.5 or not stopwatch.measuring


@pytest.mark.benchmark(group="GANs")
@pytest.mark.parametrize("options", [{}, WGAN_GP], ids=["ns", "wgan-gp"])
def test_a_grid_of_27_runs_against_one_after_another(benchmark, stopwatch, options: dict[str, object]) -> None:
    """Nine pairs of rates, three seeds, batches of 64, as the notebook trains them."""
    rates, real, steps = (5e-3, 1e-2, 2e-2), images(1200, 8), 100 if stopwatch.measuring else 1
    pairs = [(lr_d, lr_g) for lr_d in rates for lr_g in rates]

    def stacked() -> None:
        lr_grid = functools.partial(gan.lr_grid, mlp, real, pairs, seeds=range(3), at=[steps], samples=100)
        lr_grid(score=lambda x: {"fid": 0.0}, options=options, side_by_side=27)

    def apart() -> None:
        for lr_d, lr_g in pairs:
            for seed in range(3):
                players = gan.TTUR(*mlp(seed), lr_d=lr_d, lr_g=lr_g, seed=seed, **options)
                for _ in range(steps):
                    players.step(real[torch.randint(len(real), (64,))])
                players.sample(100)

    ratio = report(benchmark, stopwatch, f"a grid of 27 MLP runs, {options.get('loss', 'ns')}", stacked, apart)
    assert ratio < 0.3 or not stopwatch.measuring


def report(benchmark, stopwatch, name: str, stacked: Callable[[], object], apart: Callable[[], object]) -> float:
    seconds = stopwatch({"stacked": stacked, "apart": apart}, 3, clock=time.process_time)
    ratio = seconds["stacked"] / seconds["apart"]
    print(f"\n{name}: stacked / apart = {ratio:.2f}")
    benchmark.extra_info["stacked / apart"] = ratio
    benchmark.pedantic(lambda: None, rounds=1)
    return ratio
