"""Time of certified bounds against a forward pass, without their short cuts, on whole maps, and without loss fusion."""

import time
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import nn

from flatlab import bounds, models
from flatlab.bounds import backward_pass, transposes

NETWORKS = {
    "CNN-7, width 16": ("cnn7", (3, 32, 32), {"width": 16, "hidden": 128}, 2 / 255),
    "CNN-7, width 64": ("cnn7", (3, 32, 32), {"width": 64, "hidden": 512}, 2 / 255),
    "CNN-7, width 4": ("cnn7", (3, 32, 32), {"width": 4, "hidden": 64}, 2 / 255),
    "small CNN": ("small_cnn", (1, 28, 28), {"widths": (16, 32)}, 2 / 255),
    "ResNet": ("preact_resnet18", (3, 16, 16), {"width": 2}, 1 / 255),
    "MLP": ("mlp", (1, 8, 8), {"widths": (128, 128)}, 0.1),
    "transformer": ("text_transformer", (16, 64), {"vocabulary": 10}, 0.01),
    "LSTM": ("text_lstm", (6, 16), {"vocabulary": 10, "hidden": 32}, 0.05),
}


def prepared(name: str) -> tuple[nn.Module, torch.Tensor, bounds.LpBall, bounds.Program]:
    model, shape, options, eps = NETWORKS[name]
    net, x = models.build(model, shape, 10, options=options).eval(), torch.rand(4, *shape)
    return net, x, bounds.LpBall(x, eps, clip=(0, 1)), bounds.Program(net, x)


@pytest.mark.benchmark(group="bounds")
@pytest.mark.parametrize("name", NETWORKS)
def test_intervals_against_a_forward_pass(benchmark, stopwatch, name: str) -> None:
    net, x, region, program = prepared(name)
    with torch.no_grad():
        found = stopwatch(
            {
                "forward": lambda: net(x),
                "IBP": lambda: bounds.Bounds(program, x, region, keep=False).compute("ibp"),
                "CROWN-IBP": lambda: bounds.Bounds(program, x, region).compute("crown-ibp"),
            }
        )
    benchmark.pedantic(lambda: None, rounds=1)
    base = found.pop("forward")
    print(f"\n{name}: forward {1e3 * base:.2f} ms, " + ", ".join(f"{n} {t / base:.1f} x" for n, t in found.items()))


@pytest.mark.benchmark(group="bounds")
@pytest.mark.parametrize("name", ["MLP", "transformer", "LSTM"])
def test_crown_against_crown_without_short_cuts(benchmark, stopwatch, name: str) -> None:
    _, x, _, program = prepared(name)

    def plain() -> None:
        with mock.patch.dict(transposes.TRANSPOSES, clear=True):
            bounds.Bounds(program, x[:1], region_of(x[:1]), sparse=False).compute("crown")

    def region_of(x: torch.Tensor) -> bounds.LpBall:
        return bounds.LpBall(x, NETWORKS[name][3], clip=(0, 1))

    with torch.no_grad():
        cases = {"ours": lambda: bounds.Bounds(program, x[:1], region_of(x[:1])).compute("crown"), "plain": plain}
        found = stopwatch(cases, rounds=2)
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\nCROWN, {name}: {1e3 * found['ours']:.1f} ms, {found['ours'] / found['plain']:.2f} x without short cuts")


@pytest.mark.benchmark(group="bounds")
@pytest.mark.parametrize("method", ["crown", "alpha-crown"])
@pytest.mark.parametrize(("name", "most"), [("CNN-7, width 4", 0.4), ("small CNN", 0.8), ("ResNet", 1.2)])
def test_crown_on_windows_against_whole_maps(benchmark, stopwatch, name: str, most: float, method: str) -> None:
    """Of the ResNet, narrow maps of many steps, windows soon are whole maps: there they only must not be slower."""
    _, x, _, program = prepared(name)
    x, ascent = x[:1], bounds.Ascent(1, joint=name == "small CNN")

    def windows() -> None:
        region = bounds.LpBall(x, NETWORKS[name][3], clip=(0, 1))
        bounds.Bounds(program, x, region).compute(method, ascent=ascent)

    def maps() -> None:
        with mock.patch.object(backward_pass, "plan", return_value=None):
            windows()

    with torch.no_grad():
        found = stopwatch({"windows": windows, "maps": maps}, rounds=2, clock=time.process_time)
    benchmark.pedantic(lambda: None, rounds=1)
    ratio = found["windows"] / found["maps"]
    print(f"\n{method}, {name}: {1e3 * found['windows']:.1f} ms, {ratio:.2f} x whole maps")
    assert not stopwatch.measuring or ratio <= most


@pytest.mark.benchmark(group="bounds")
@pytest.mark.parametrize("classes", [10, 100, 1000])
def test_fused_training_against_plain(benchmark, stopwatch, classes: int) -> None:
    options = {"widths": (16, 32), "kernel": 3, "strides": (2, 2), "hidden": 256}
    net, x = models.build("small_cnn", (3, 32, 32), classes, options=options), torch.rand(4, 3, 32, 32)
    program, y, region = bounds.Program(net, x), torch.arange(4), bounds.LpBall(x, 1 / 255, clip=(0, 1))

    def step(loss: Callable[[bounds.Bounds], torch.Tensor]) -> None:
        torch.autograd.grad(loss(bounds.Bounds(program, x, region)).mean(), list(net.parameters()))

    losses = {
        "fused": lambda b: bounds.fused_ce(b, y),
        "plain": lambda b: bounds.robust_ce(b, y),
        "IBP": lambda b: bounds.robust_ce(b, y, method="ibp"),
    }
    found = stopwatch({name: lambda loss=loss: step(loss) for name, loss in losses.items()}, rounds=3)
    benchmark.pedantic(lambda: None, rounds=1)
    fused, plain, ibp = (found[name] for name in losses)
    print(f"\nK = {classes}: fused {1e3 * fused:.1f} ms, {fused / plain:.2f} x plain, {fused / ibp:.1f} x IBP")


@pytest.mark.benchmark(group="bounds")
def test_capturing(benchmark, stopwatch) -> None:
    net, x, _, _ = prepared("CNN-7, width 16")
    found = stopwatch({"capture": lambda: bounds.Program(net, x), "forward": lambda: net(x)}, rounds=3)
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\ncapturing CNN-7 again: {found['capture']:.2f} s")
