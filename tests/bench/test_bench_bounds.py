"""Time of certified bounds against a forward pass, against bounds without their short cuts, and without loss fusion."""

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import nn

from flatlab import bounds, models
from flatlab.bounds import transposes

NETWORKS = {
    "CNN-7, width 16": ("cnn7", (3, 32, 32), {"width": 16, "hidden": 128}, 2 / 255),
    "CNN-7, width 64": ("cnn7", (3, 32, 32), {"width": 64, "hidden": 512}, 2 / 255),
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
