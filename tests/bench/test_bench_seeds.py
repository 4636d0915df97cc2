"""Time of S seeds stacked in one module, or of S layers, against S one after another, on this machine's cores."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import attacks
from flatlab.data import load_images
from flatlab.models import build, stack_models
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


def penalised(model: nn.Module, x: Tensor) -> None:
    """Gradients of a penalty on the gradient for the inputs, as WGAN-GP takes them."""
    x = x.detach().requires_grad_()
    out = model(x).square().sum()
    (slope,) = torch.autograd.grad(out, x, create_graph=True)
    torch.autograd.grad(slope.square().sum() + out, list(model.parameters()))


def critic(size: int, width: int) -> nn.Module:
    """Images of three channels -> a number."""
    layers = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (size // 4) ** 2, 1))


def generator(size: int, width: int) -> nn.Module:
    """48 numbers -> images of three channels."""
    side = size // 4
    start = [nn.Linear(48, width * side**2), nn.Unflatten(1, (width, side, side)), nn.ReLU()]
    layers = [nn.ConvTranspose2d(width, width, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Tanh()]
    return nn.Sequential(*start, *layers)


@pytest.mark.benchmark(group="convolutions")
@pytest.mark.parametrize("count", [3, 8])
@pytest.mark.parametrize(("size", "width"), [(8, 16), (8, 32), (16, 16), (16, 32), (32, 16)])
@pytest.mark.parametrize("make", [critic, generator])
def test_convolutions_stacked_against_apart(benchmark, stopwatch, make, size: int, width: int, count: int) -> None:
    """64 images for each network; a gradient, and one of a gradient, on one thread."""
    models = [make(size, width) for _ in range(count)]
    stacked, threads = stack_models(models), torch.get_num_threads()
    rows = 64 if stopwatch.measuring else 2
    x = torch.randn(count, rows, *((3, size, size) if make is critic else (48,)))
    torch.set_num_threads(1)

    def apart() -> None:
        for model, block in zip(models, x, strict=True):
            penalised(model, block)

    try:
        seconds = stopwatch({"stacked": lambda: penalised(stacked, x.flatten(0, 1)), "apart": apart}, 5)
        benchmark.pedantic(lambda: None, rounds=1)
    finally:
        torch.set_num_threads(threads)
    ratio = seconds["stacked"] / seconds["apart"]
    print(f"\n{make.__name__} of {size}x{size}, {width} channels, S = {count}: stacked / apart = {ratio:.2f}")
