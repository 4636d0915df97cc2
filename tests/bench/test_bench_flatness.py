"""Flatness against naive code in the same run, and the price of importing it. Ratios only: below 1 is faster."""

import math
import statistics
import subprocess
import sys
import time

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flatlab import flatness

EPS, DIRECTIONS, RADII = 0.1, 10, 8


def mlp() -> tuple[nn.Module, tuple[int, ...]]:
    """The network of the digits study."""
    layers = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(nn.Flatten(), *layers), (1, 8, 8)


def cnn() -> tuple[nn.Module, tuple[int, ...]]:
    """The network of the MNIST study."""
    layers = [nn.Conv2d(1, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16 * 49, 100), nn.ReLU(), nn.Linear(100, 10)), (1, 28, 28)


@torch.no_grad()
def double_loop(model: nn.Module, x: Tensor) -> Tensor:
    """Phi as one would write it down: over directions, over radii."""
    generator, total, origin = torch.Generator().manual_seed(0), torch.zeros(len(x)), model(x).logsumexp(1)
    for _ in range(DIRECTIONS):
        d = torch.randint(2, x.shape, generator=generator).float() * 2 - 1
        largest = torch.zeros(len(x))
        for m in range(1, RADII + 1):
            largest = largest.maximum((model(x + EPS * m / RADII * d).logsumexp(1) - origin).abs())
        total += largest
    return total / DIRECTIONS


@pytest.mark.benchmark(group="likelihood flatness")
@pytest.mark.parametrize("samples", [20, 100, 1000])
@pytest.mark.parametrize("net", [mlp, cnn])
def test_likelihood_flatness_against_a_double_loop(benchmark, stopwatch, net, samples: int) -> None:
    torch.manual_seed(0)
    model, shape = net()
    x = torch.rand(samples, *shape)

    def own() -> flatness.FlatnessResult:
        return flatness.likelihood_flatness(model, x, EPS, generator=torch.Generator().manual_seed(0))

    seconds = stopwatch({"own": own, "loop": lambda: double_loop(model, x)}, clock=time.process_time)
    ratio = seconds["own"] / max(seconds["loop"], 1e-9)
    print(f"\nlikelihood_flatness / double loop, {net.__name__}, {samples} samples: {ratio:.2f}")
    benchmark.extra_info["ratio"] = ratio
    result = benchmark.pedantic(own, rounds=1)
    assert result.mean == pytest.approx(double_loop(model, x).mean().item(), rel=0.3)
    assert ratio < 4 or not stopwatch.measuring


@pytest.mark.benchmark(group="likelihood plane")
def test_planes_against_a_loop_over_images(benchmark, stopwatch) -> None:
    torch.manual_seed(0)
    model, shape = mlp()
    x, d1, d2 = torch.rand(20, *shape), *(flatness.rademacher(torch.zeros(20, *shape)) for _ in range(2))

    def own() -> flatness.Plane:
        return flatness.likelihood_plane(model, x, d1, d2, 0.3, normalize=None)

    @torch.no_grad()
    def naive() -> Tensor:
        grid = torch.linspace(-0.3, 0.3, 21)
        rows = [torch.stack([model(x + a * d1 + b * d2).logsumexp(1) for b in grid], 1) for a in grid]
        return torch.stack(rows, 1)

    seconds = stopwatch({"own": own, "naive": naive}, clock=time.process_time)
    ratio = seconds["own"] / max(seconds["naive"], 1e-9)
    print(f"\nlikelihood_plane / loop over the grid, 20 images: {ratio:.2f}")
    benchmark.extra_info["ratio"] = ratio
    torch.testing.assert_close(benchmark.pedantic(own, rounds=1).values, naive(), atol=1e-4, rtol=0)
    assert ratio < 4 or not stopwatch.measuring


@pytest.mark.benchmark(group="top eigenvalues")
def test_lanczos_against_power_iteration(benchmark) -> None:
    """Three eigenvalues to the same accuracy, by Hessian-vector products spent."""
    torch.manual_seed(0)
    x, y = torch.rand(300, 64), torch.randint(10, (300,))
    model = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    landscape = flatness.over_parameters(model, lambda m: F.cross_entropy(m(x), y))
    top = benchmark.pedantic(
        lambda: flatness.top_eigenvalues(landscape, 3, generator=torch.Generator().manual_seed(0)), rounds=1
    )

    hessian, found, products = flatness.Hessian(landscape), torch.zeros(0, landscape.size), 0
    for wanted in top.values:
        v = torch.randn(landscape.size, generator=torch.Generator().manual_seed(1))
        for _ in range(1000):
            v = v - found.T @ (found @ v)
            v = v / v.norm()
            image, products = hessian @ v, products + 1
            if abs(float(v @ image) - float(wanted)) < 1e-4 * float(wanted):
                break
            v = image
        found = torch.cat([found, v[None]])
    ratio = top.products / products
    print(f"\ntop_eigenvalues / power iteration with deflation, products for three: {ratio:.2f}")
    benchmark.extra_info["ratio"] = ratio
    assert top.converged
    assert ratio < 1


@pytest.mark.benchmark(group="top eigenvalues")
def test_one_value_against_power_iteration(benchmark, stopwatch) -> None:
    """To the accuracy of a power iteration that ends when its value changes by less than a thousandth of itself."""
    spaces = []
    for net in (mlp, cnn):
        torch.manual_seed(0)
        model, shape = net()
        x, y = torch.rand(100, *shape), torch.arange(100) % 10
        spaces.append(flatness.over_parameters(model, lambda m, x=x, y=y: F.cross_entropy(m(x), y)))

    def own() -> list[float]:
        found = [
            flatness.top_eigenvalues(space, tol=1e-2, generator=torch.Generator().manual_seed(0)) for space in spaces
        ]
        return [float(one.values) for one in found]

    def power() -> list[float]:
        found = []
        for space in spaces:
            hessian, before = flatness.Hessian(space), math.inf
            v = torch.randn(space.size, generator=torch.Generator().manual_seed(0))
            for _ in range(100):
                v = v / v.norm()
                image = hessian @ v
                value, v = float(v @ image), image
                if abs(value - before) < 1e-3 * abs(before):
                    break
                before = value
            found.append(value)
        return found

    exact = [float(flatness.top_eigenvalues(space, tol=1e-6, max_steps=200).values) for space in spaces]
    seconds = stopwatch({"own": own, "power": power}, clock=time.process_time)
    ratio = seconds["own"] / max(seconds["power"], 1e-9)
    errors = [max(abs(a / b - 1) for a, b in zip(run(), exact, strict=True)) for run in (own, power)]
    print(f"\ntop_eigenvalues(tol=1e-2) / power iteration, one: {ratio:.2f}, errors {errors[0]:.0e}, {errors[1]:.0e}")
    benchmark.extra_info["ratio"] = ratio
    benchmark.pedantic(lambda: None, rounds=1)
    assert errors[0] <= max(1e-2, errors[1])
    assert ratio < 0.9 or not stopwatch.measuring


@pytest.mark.benchmark(group="import")
def test_import_costs_little_more_than_torch(benchmark, stopwatch) -> None:
    # Both in one process, one after the other: what the package adds to torch, whatever else the machine does.
    code = (
        "from time import process_time as now; a = now(); import torch; b = now(); import flatlab.flatness; c = now();"
        "print((c - a) / (b - a))"
    )
    run, rounds = [sys.executable, "-c", code], 5 if stopwatch.measuring else 1
    ratios = [float(subprocess.run(run, capture_output=True, check=True, text=True).stdout) for _ in range(rounds)]
    ratio = statistics.median(ratios)
    print(f"\nimport flatlab.flatness / import torch: {ratio:.3f}")
    benchmark.extra_info["ratio"] = ratio
    benchmark.pedantic(lambda: None, rounds=1)
    assert ratio < 1.25 or not stopwatch.measuring
