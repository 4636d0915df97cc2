"""Energy-based models: what a likelihood costs beside NCE, seeds side by side, chains side by side, and landscapes."""

import functools
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from flatlab import ebm
from flatlab.data import Points
from flatlab.ebm.gaussian import ence_population, mle_population, nce_population
from flatlab.models import mlp
from flatlab.train import Recipe, fit, fit_seeds


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return mlp((2,), 1, widths=(64, 64), activation="softplus")


DATA = Points(torch.randn(2000, 2, generator=torch.Generator().manual_seed(0)))
Q = ebm.GaussianNoise.standard(2, 1.5)


@pytest.mark.benchmark(group="energy losses")
def test_a_step_of_meco_against_one_of_nce(benchmark, stopwatch) -> None:
    recipe = Recipe(epochs=1, batch_size=100 if stopwatch.measuring else 1000)
    losses = {"nce": ebm.NCELoss(Q), "meco": ebm.MECOLoss(Q), "storm": ebm.MECOLoss(Q, storm=True)}

    def train(loss: ebm.EnergyLoss) -> object:
        return fit(network(0), DATA, ebm.objective(loss), recipe)

    seconds = stopwatch({name: functools.partial(train, loss) for name, loss in losses.items()}, 9)
    meco, storm = (seconds[name] / seconds["nce"] for name in ("meco", "storm"))
    print(f"\n20 steps with 512 draws: MECO / NCE = {meco:.2f}, with STORM {storm:.2f}")
    benchmark.extra_info.update({"MECO / NCE": meco, "STORM / NCE": storm})
    benchmark.pedantic(lambda: None, rounds=1)
    assert meco < 1.1 or not stopwatch.measuring


@pytest.mark.benchmark(group="five seeds")
@pytest.mark.parametrize("name", ["meco", "pcd"])
def test_energies_of_five_seeds_stacked_against_sequential(benchmark, stopwatch, name: str) -> None:
    loss = ebm.MECOLoss(Q, n_noise=256) if name == "meco" else ebm.PCDLoss(Q, steps=10, buffer_size=500)
    recipe, seeds = Recipe(epochs=1, batch_size=100 if stopwatch.measuring else 500), [0, 1, 2, 3, 4]

    def run(strategy: str) -> list[nn.Module]:
        return fit_seeds(network, DATA, ebm.objective(loss), recipe, seeds=seeds, strategy=strategy)

    seconds = stopwatch({kind: functools.partial(run, kind) for kind in ("stacked", "sequential")}, 5)
    ratio = seconds["stacked"] / seconds["sequential"]
    print(f"\n{name}: stacked / sequential = {ratio:.2f} (5 seeds)")
    benchmark.extra_info["stacked / sequential"] = ratio
    benchmark.pedantic(lambda: None, rounds=1)
    assert ratio < 0.7 or not stopwatch.measuring


@pytest.mark.benchmark(group="chains")
def test_a_thousand_chains_against_ten(benchmark, stopwatch) -> None:
    model, steps = ebm.TiltedModel(network(0), Q), 50 if stopwatch.measuring else 2

    def run(chains: int) -> ebm.Chains:
        return ebm.mala(model, DATA.x[:chains], steps, 0.3, generator=torch.Generator().manual_seed(1))

    seconds = stopwatch({str(chains): functools.partial(run, chains) for chains in (10, 1000)}, 9)
    ratio = seconds["1000"] / seconds["10"]
    print(f"\nMALA, {steps} steps: 1000 chains / 10 chains = {ratio:.2f}")
    benchmark.extra_info["1000 chains / 10 chains"] = ratio
    benchmark.pedantic(lambda: None, rounds=1)
    assert ratio < 3 or not stopwatch.measuring


@pytest.mark.benchmark(group="landscapes")
def test_curvature_of_the_population_at_six_distances(benchmark) -> None:
    R = torch.tensor([1.0, 2, 4, 6, 8, 10], dtype=torch.float64)

    def curvature(population: Callable[..., ebm.gaussian.Population]) -> Tensor:
        at = population(R, R.square() / 2, R)
        assert at.grad.abs().max() < 1e-9
        return torch.linalg.eigvalsh(at.hess)

    start = time.perf_counter()
    for population in (nce_population, ence_population, mle_population):
        curvature(population)
    seconds = time.perf_counter() - start
    print(f"\noptimum and Hessian of NCE, eNCE and MLE at six distances: {seconds:.4f} s")
    benchmark.extra_info["seconds"] = seconds
    benchmark.pedantic(lambda: None, rounds=1)
