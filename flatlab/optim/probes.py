"""Small experiments that show what an optimizer does, on problems whose answer is known or plain."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from flatlab import checks


def constant_gradient(factory: Callable[..., Optimizer], *, steps: int) -> list[float]:
    """The moves of one coordinate under the gradient 1, of an optimizer made by factory([p], lr=1.0)."""
    point = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer, places = factory([point], lr=1.0), [0.0]
    for _ in range(checks.at_least("steps", steps, 1)):
        point.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
        places.append(point.item())
    return [before - after for before, after in pairwise(places)]


def quadratic_path(
    factory: Callable[..., Optimizer], *, steps: int, generator: torch.Generator, idle: int = 0
) -> Tensor:
    """Where three coordinates end on a unit quadratic with unit gradient noise, after `idle` steps of gradient 0."""
    point = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    optimizer = factory([point])
    for step in range(idle + steps):
        noise = torch.randn(1, 3, generator=generator, dtype=torch.float64)
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


def state_numbers(factory: Callable[..., Optimizer], *, size: int = 1000) -> float:
    """Numbers of state per parameter, of a tensor of `size`; those that do not grow with it do not count."""
    point = torch.zeros(size, requires_grad=True)
    point.grad, optimizer = torch.ones(size), factory([point])
    optimizer.step()
    sizes = [value.numel() for value in optimizer.state[point].values() if torch.is_tensor(value)]
    return sum(number for number in sizes if number >= size) / size
