"""Which optimizers train S stacked networks as they would train each alone, and how such an optimizer is made."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

# Optimizers that treat every weight by itself: S networks stacked then move exactly as S networks apart.
ELEMENTWISE = {
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.NAdam,
    torch.optim.RAdam,
}


def unwrapped(factory: Callable[..., Any], options: Mapping[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What stands inside any `functools.partial`, and all the options that it will be called with."""
    given = dict(options)
    while isinstance(factory, functools.partial):
        given = {**factory.keywords, **given}
        factory = factory.func
    return factory, given


def keeps_apart(factory: Callable[..., Any], options: Mapping[str, Any]) -> bool:
    """Whether S stacked networks move under this optimizer as each would alone.

    True for elementwise ones, and for those that say `stacks = True` and take `networks=S`. One that steps by another
    (an option `base_optimizer`) must have a base of which this is true as well.
    """
    kind, given = unwrapped(factory, options)
    if kind in ELEMENTWISE:
        return True
    if not getattr(kind, "stacks", False):
        return False
    base = given.get("base_optimizer", _default(kind, "base_optimizer"))
    return base is None or keeps_apart(base, {})


def make(
    factory: Callable[..., torch.optim.Optimizer],
    parameters: Iterable[Tensor],
    *,
    lr: float | Tensor,
    options: Mapping[str, Any],
    networks: int | None,
) -> torch.optim.Optimizer:
    """The optimizer factory(parameters, lr=lr, **options), told of stacked `networks` if it `stacks`."""
    kind, given = unwrapped(factory, options)
    told = {"networks": networks} if networks is not None and getattr(kind, "stacks", False) else {}
    return factory(parameters, lr=lr, **options, **{name: n for name, n in told.items() if name not in given})


def _default(kind: Callable[..., Any], option: str) -> Any:
    """The default value of an option, or None."""
    parameter = inspect.signature(kind).parameters.get(option)
    return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default
