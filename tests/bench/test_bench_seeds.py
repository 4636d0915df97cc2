"""Time of S seeds stacked in one module against S seeds one after another, on this machine's cores."""

import functools

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
def test_stacked_against_sequential(benchmark, stopwatch, objective, net: str) -> None:
    data, threads = load_images("digits", "train"), torch.get_num_threads()
    data = data if stopwatch.measuring else data.subset(range(128))
    recipe, seeds = Recipe(epochs=4 if stopwatch.measuring else 1), [0, 1, 2, 3, 4]
    torch.set_num_threads(2)

    def run(strategy: str) -> None:
        fit_seeds(lambda s: build(net, (1, 8, 8), 10, seed=s), data, objective, recipe, seeds=seeds, strategy=strategy)

    try:
        seconds = stopwatch({name: functools.partial(run, name) for name in ("stacked", "sequential")}, 3)
        benchmark.pedantic(lambda: None, rounds=1)
    finally:
        torch.set_num_threads(threads)
    ratio = seconds["stacked"] / seconds["sequential"]
    benchmark.extra_info["stacked / sequential"] = ratio
    print(f"\n{net}, {objective.__name__}: stacked / sequential = {ratio:.2f} (5 seeds, 2 threads)")
