"""Test functions for optimizers, valued at many points at once.

A surface draws starts, `flatlab.train.descend` takes them down, and the surface says where they arrived:

    surface = test_functions.levy(dims=2)
    starts = surface.uniform_starts(64, generator=torch.Generator().manual_seed(0))
    run = train.descend(surface, starts, torch.optim.Adam, steps=500, lr=0.3, schedule="cosine")
    run.reached(surface.optimum + 0.05)          # (64,) bool
    surface.top_curvature(run.x)                 # (64,)
"""

import inspect
from collections.abc import Callable

from flatlab import checks
from flatlab.test_functions.base import Surface
from flatlab.test_functions.basins import TwoBasins, two_basins, two_basins_value
from flatlab.test_functions.classic import ackley, goldstein_price, levy

__all__ = [
    "Surface",
    "TwoBasins",
    "ackley",
    "available",
    "goldstein_price",
    "levy",
    "make",
    "two_basins",
    "two_basins_value",
]

_REGISTRY: dict[str, Callable[..., Surface]] = {
    "ackley": ackley,
    "levy": levy,
    "goldstein_price": goldstein_price,
    "two_basins": two_basins,
}


def available() -> tuple[str, ...]:
    """The names that `make` knows."""
    return tuple(_REGISTRY)


def make(name: str, **options: float) -> Surface:
    """The surface called `name`, with the options of its function, such as `dims`.

    Raises:
        ValueError: an unknown name or option (the valid ones are listed), or a value out of bounds.
    """
    function = _REGISTRY[checks.one_of("surface", name, _REGISTRY)]
    for key in options:
        checks.one_of(f"option of {name}", key, inspect.signature(function).parameters)
    return function(**options)
