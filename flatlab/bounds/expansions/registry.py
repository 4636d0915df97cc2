"""The registry of operators that are replaced by those that they are made of.

An expansion takes an `Emitter` and the operator's arguments, and returns the node (or the list of nodes) that stands
for the result; NotImplemented leaves the operator as it is. Sizes may be read from `x.shape`, the batch size not.
"""

from collections.abc import Callable
from typing import Any

EXPANSIONS: dict[str, Callable[..., Any]] = {}
"""Name in torch.ops.aten -> expansion(emit, *args)."""


def expansion(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as the expansion of the operators of these names."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        EXPANSIONS.update(dict.fromkeys(names, function))
        return function

    return register
