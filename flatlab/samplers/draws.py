"""Random numbers of a chain a row, from torch's own generator, from a given one, or from one a seed.

With `flatlab.rng.SeedGenerators` of S seeds the rows are S blocks, one after the other, each drawn from the generator
of its seed, so that the chains of a seed do not depend on the seeds beside it. Any other generator is one seed. Numbers
are drawn on the generator's device and then moved.
"""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from flatlab.rng import SeedGenerators

Generator: TypeAlias = torch.Generator | SeedGenerators | None
"""Where random numbers come from; None is torch's own generator."""


def normal_like(x: Tensor, generator: Generator) -> Tensor:
    """Standard normal numbers in the shape, dtype and place of x."""
    if isinstance(generator, SeedGenerators):
        return generator.normal(x.shape).to(x)
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=_device(generator, x.device)).to(x.device)


def uniform(shape: Sequence[int], generator: Generator, like: Tensor | None = None) -> Tensor:
    """Numbers uniform on [0, 1).

    Args:
        shape: (N, ...), N a multiple of the number of seeds.
        generator: see `Generator`.
        like: whose dtype and place to take; without it they are float32, where they were drawn.
    """
    if isinstance(generator, SeedGenerators):
        draws = generator.uniform(shape)
    else:
        dtype, device = (torch.float32, torch.device("cpu")) if like is None else (like.dtype, like.device)
        draws = torch.rand(tuple(shape), generator=generator, dtype=dtype, device=_device(generator, device))
    return draws if like is None else draws.to(like)


def permutations(n: int, generator: Generator) -> Tensor:
    """A permutation of 0..n-1 for each of S seeds, (S, n)."""
    if isinstance(generator, SeedGenerators):
        return generator.permutations(n)
    return torch.randperm(n, generator=generator, device=_device(generator, torch.device("cpu")))[None]


def _device(generator: torch.Generator | None, otherwise: torch.device) -> torch.device:
    return otherwise if generator is None else generator.device
