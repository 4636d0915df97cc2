"""Small experiments that show what an optimizer does, on problems whose answer is known or plain."""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from flatlab import checks
from flatlab.optim.theory import simulate_quadratic, stable_curvature


def steps_on_constant_gradient(factory: Callable[..., Optimizer], *, steps: int) -> list[float]:
    """How far the first `steps` steps move one coordinate under the gradient 1, in units of the learning rate.

    `factory` makes the optimizer, called as factory([p], lr=1.0).
    """
    point = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer, places = factory([point], lr=1.0), [0.0]
    for _ in range(checks.at_least("steps", steps, 1)):
        point.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
        places.append(point.item())
    return [before - after for before, after in pairwise(places)]


def end_on_noisy_quadratic(
    factory: Callable[..., Optimizer], *, steps: int, generator: torch.Generator, runs: int, idle: int = 0
) -> Tensor:
    """Where `runs` independent runs of an optimizer arrive on |p|^2 / 2 with standard normal noise in the gradient.

    All start at 0. They are rows of one parameter: the optimizer must treat every number by itself.

    Args:
        factory: makes the optimizer, called as factory([p]).
        steps: number of steps.
        generator: of the noise.
        runs: how many.
        idle: steps with a gradient of zero before those.

    Returns:
        p, (runs, 3) float64.
    """
    point = torch.zeros(runs, 3, dtype=torch.float64, requires_grad=True)
    optimizer = factory([point])
    for step in range(idle + steps):
        noise = torch.randn(runs, 3, generator=generator, dtype=torch.float64)
        point.grad = (point + noise).detach() if step >= idle else torch.zeros_like(point)
        optimizer.step()
    return point.detach()


def memory_agreement(
    factory: Callable[..., Any],
    curvature: Tensor,
    sigma: float,
    *,
    generator: torch.Generator,
    runs: int = 32,
    lr: float = 0.05,
    steps: int = 300,
    burn_in: int = 50,
) -> Tensor:
    """How much the items of a memory agree on a quadratic with noisy gradients: ||mean(B)|| / mean ||b||, (runs,).

    Args:
        factory: makes an optimizer with `memory_stats`, called as factory([p], lr=lr, networks=runs).
        curvature: (D,) the diagonal of the Hessian; every run starts at 1 in each coordinate.
        sigma: standard deviation of the noise in each coordinate of the gradient.
        generator: of the noise.
        runs, lr, steps: as named; the mean is over every fifth step after `burn_in`.
    """
    points, found = torch.ones(runs, len(curvature), requires_grad=True), []
    optimizer = factory([points], lr=lr, networks=runs)
    for step in range(steps):
        noise = torch.randn(points.shape, generator=generator)
        points.grad = curvature * points.detach() + checks.nonnegative("sigma", sigma) * noise
        optimizer.step()
        if step >= burn_in and step % 5 == 0:
            found.append(torch.tensor(optimizer.memory_stats()[0]["cancellation"]))
    return torch.stack(found).mean(0)


def state_per_parameter(factory: Callable[..., Optimizer], *, size: int = 1000) -> float:
    """How many numbers an optimizer keeps for each weight of a tensor of `size`; those that do not grow do not count.

    `factory` makes the optimizer, called as factory([p]).
    """
    point = torch.zeros(size, requires_grad=True)
    point.grad, optimizer = torch.ones(size), factory([point])
    optimizer.step()
    sizes = [value.numel() for value in optimizer.state[point].values() if torch.is_tensor(value)]
    return sum(number for number in sizes if number >= size) / size


def stability_contradictions(
    capacities: Iterable[int], betas: Iterable[float], *, margin: float = 0.02
) -> tuple[int, int]:
    """How often 20,000 simulated steps contradict `stable_curvature`, just below and just above it.

    Args:
        capacities: numbers of momenta in memory, each >= 0.
        betas: decays of the momentum, each in [0, 1).
        margin: how far below and above, as a fraction of the bound.

    Returns:
        Simulations that grow where they should shrink or the reverse, and simulations in all.
    """
    cases = [(c, b, stable_curvature(c, b), factor) for b in betas for c in capacities for factor in (-margin, margin)]
    ends = [abs(simulate_quadratic((1 + f) * mu, c, b, 20_000)[-100:]).max() for c, b, mu, f in cases]
    return sum(bool(end < 1) != (f < 0) for end, (*_, f) in zip(ends, cases, strict=True)), len(cases)
