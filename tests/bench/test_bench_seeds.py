"""Time of S seeds stacked in one module against S seeds one after another, on this machine's cores."""

import statistics
import time

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import attacks
from flatlab.data import load_images
from flatlab.models import build
from flatlab.train import Recipe, cross_entropy, fit_seeds


def adversarial(model: nn.Module, x: Tensor, y: Tensor, step_fraction: float) -> Tensor:
    """Cross-entropy at 7-step PGD points."""
    return F.cross_entropy(model(attacks.pgd(model, x, y, 0.1, steps=7)), y)


@pytest.mark.benchmark(group="five seeds")
@pytest.mark.parametrize("objective", [cross_entropy, adversarial], ids=["plain", "adversarial"])
@pytest.mark.parametrize("net", ["mlp", "small_cnn"])
def test_stacked_against_sequential(benchmark, objective, net: str) -> None:
    data, threads = load_images("digits", "train"), torch.get_num_threads()
    recipe, seeds = Recipe(epochs=4), [0, 1, 2, 3, 4]
    torch.set_num_threads(2)

    def run(strategy: str) -> float:
        start = time.perf_counter()
        fit_seeds(lambda s: build(net, (1, 8, 8), 10, seed=s), data, objective, recipe, seeds=seeds, strategy=strategy)
        return time.perf_counter() - start

    def ratio() -> float:
        return run("stacked") / run("sequential")

    try:
        ratio()
        ratios = [ratio() for _ in range(3)]
        benchmark.pedantic(run, args=("stacked",), rounds=1)
    finally:
        torch.set_num_threads(threads)
    benchmark.extra_info["stacked / sequential"] = statistics.median(ratios)
    print(f"\n{net}, {objective.__name__}: stacked / sequential = {statistics.median(ratios):.2f} (5 seeds, 2 threads)")
