"""Annealed importance sampling (Neal 2001): weighted samples, and an unbiased estimate of a normalization constant.

    x ~ exp f0,  then for each k:    log w += (b_k - b_{k-1}) (f1 - f0)(x),    x <- T_k(x)

with 0 = b_0 < ... < b_n = 1 and T_k steps of MALA that leave exp(f0 + b_k (f1 - f0)) invariant. Where exp f0 is
normalized and x is drawn from it exactly, w is an unbiased estimate of Z = int exp f1, for any number of steps of any
size; their choice decides its variance alone. No step follows b_n, which would change no weight: betas [0, 1] are
importance sampling.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from flatlab import checks
from flatlab.samplers.density import LogDensity, starting_points
from flatlab.samplers.draws import Generator
from flatlab.samplers.mala import look, mean, require, transition


@dataclass(frozen=True)
class Annealed:
    """Chains x (N, ...), the logs of their weights (N,) in float64, and the share of proposals that was accepted.

    With weights w, x represents exp f1; log mean w estimates log Z.
    """

    x: Tensor
    log_weights: Tensor
    acceptance: float


def annealed(
    f0: LogDensity,
    f1: LogDensity,
    x0: Tensor,
    *,
    betas: int | Sequence[float] | Tensor,
    steps: int = 1,
    eps: float | Callable[[float], float],
    generator: Generator = None,
) -> Annealed:
    """Carry exact draws of exp f0 to weighted ones of exp f1; log mean exp(log_weights) estimates log Z of f1.

    Args:
        f0: points (N, ...) -> log of a normalized density (N,), positive wherever exp f1 is.
        f1: points (N, ...) -> log of an unnormalized density (N,).
        x0: independent draws of exp f0 (N, ...); they stay as they are.
        betas: increasing from 0 to 1, or how many equal parts to divide [0, 1] into.
        steps: of MALA between two betas.
        eps: their size, in units of x, or a function of beta in (0, 1] that gives it.
        generator: of the steps; with SeedGenerators the rows are one block a seed.

    Raises:
        TypeError: x0 of integers.
        ValueError: betas out of order, a value out of bounds, f0 not finite at x0, or f1 NaN or infinity there.
    """
    x, path, steps = starting_points(x0), _path(betas), checks.at_least("steps", steps, 0)
    sizes = [checks.positive("eps", eps(beta) if callable(eps) else eps) for beta in path[1:]]
    here = look([f0, f1], x)
    require("f0", here.values[0].isfinite(), "finite")
    require("f1", here.values[1] < torch.inf, "a number or -inf")
    log_weights, accepted = torch.zeros(len(x), dtype=torch.float64, device=x.device), []
    for (before, beta), size in zip(pairwise(path), sizes, strict=True):
        log_weights += (beta - before) * (here.values[1].double() - here.values[0].double())
        for _ in range(steps if beta < 1 else 0):
            here, taken = transition([f0, f1], [1 - beta, beta], here, size, generator)
            accepted.append(taken.double().mean())
    return Annealed(here.x, log_weights, mean(accepted))


def _path(betas: int | Sequence[float] | Tensor) -> list[float]:
    if isinstance(betas, int):
        parts = checks.at_least("betas", betas, 1)
        return [k / parts for k in range(parts + 1)]
    path = [float(beta) for beta in betas]
    if len(path) < 2 or (path[0], path[-1]) != (0, 1) or not all(a < b for a, b in pairwise(path)):
        raise ValueError(f"betas must increase strictly from 0 to 1, got {path}")
    return path
