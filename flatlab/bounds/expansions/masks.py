"""Signs, comparisons, and what is chosen by them; softmax of what is masked.

A comparison of perturbed values is a number here, 0 or 1, that steps at 0; a choice by it is a product.
"""

from typing import Any

import torch

from flatlab.bounds.expansions.attention import NEVER, masked_softmax
from flatlab.bounds.expansions.registry import EXPANSIONS, expansion
from flatlab.bounds.functions import above, at_least
from flatlab.bounds.nodes import Ref
from flatlab.bounds.tape import Emitter


def _moving(emit: Emitter, *values: Any) -> bool:
    """Whether one of some values is a number that depends on the inputs."""
    return any(isinstance(v, Ref) and emit.moves(v) and emit.dtype(v).is_floating_point for v in values)


def _difference(emit: Emitter, x: Any, y: Any) -> Ref:
    return emit.sub(x, y) if isinstance(x, Ref) else emit.rsub(y, x)


def _comparison(step: Any, *, swapped: bool) -> Any:
    def expand(emit: Emitter, x: Any, y: Any) -> Any:
        if not _moving(emit, x, y):
            return NotImplemented
        return emit.apply(step, _difference(emit, y, x) if swapped else _difference(emit, x, y))

    return expand


EXPANSIONS.update(
    {
        "gt": _comparison(above, swapped=False),
        "ge": _comparison(at_least, swapped=False),
        "lt": _comparison(above, swapped=True),
        "le": _comparison(at_least, swapped=True),
        "sign": lambda emit, x: emit.sub(emit.add(emit.apply(above, x), emit.apply(at_least, x)), 1.0),
    }
)


@expansion("heaviside")
def _heaviside(emit: Emitter, x: Ref, at_zero: Any) -> Any:
    """The value at 0 mixes the two steps."""
    if not _moving(emit, x):
        return NotImplemented
    return emit.add(emit.mul(emit.apply(at_least, x), at_zero), emit.mul(emit.apply(above, x), emit.rsub(at_zero, 1.0)))


@expansion("logical_not", "bitwise_not")
def _not(emit: Emitter, mask: Ref) -> Any:
    return emit.rsub(mask, 1.0) if _moving(emit, mask) else NotImplemented


@expansion("logical_and", "bitwise_and", "__and__")
def _and(emit: Emitter, x: Ref, y: Ref) -> Any:
    return emit.mul(x, y) if _moving(emit, x) or _moving(emit, y) else NotImplemented


@expansion("where")
def _where(emit: Emitter, mask: Ref, x: Any, y: Any) -> Any:
    """y + mask (x - y)."""
    if not _moving(emit, mask):
        return NotImplemented
    if not isinstance(x, Ref) and not isinstance(y, Ref):
        return emit.add(emit.mul(mask, x - y), y)
    return emit.add(emit.mul(mask, _difference(emit, x, y)), y)


@expansion("masked_fill")
def _masked_fill(emit: Emitter, x: Ref, mask: Ref, value: Any) -> Any:
    """x + mask (value - x)."""
    return _where(emit, mask, value, x)


@expansion("softmax", "_softmax", "_safe_softmax")
def _softmax(emit: Emitter, x: Ref, dim: int, *rest: Any) -> Any:
    """Over what was not masked, where logits were filled with, or had added to them, a very low number."""
    node = emit.node(x)
    if node.key == "masked_fill" and _is_low(emit, node.args[2]):
        return emit.apply(masked_softmax, node.args[0], dim, emit.logical_not(node.args[1]))
    if node.key == "where" and _is_low(emit, node.args[2]):
        return emit.apply(masked_softmax, node.args[1], dim, node.args[0])
    if node.key == "add" and isinstance(node.args[1], Ref) and not emit.moves(node.args[1]):
        logits, mask = node.args[:2]
        if bool((emit.value(mask) <= NEVER).any()):
            return emit.apply(
                masked_softmax, emit.add(logits, emit.clamp(mask, NEVER, None)), dim, emit.gt(mask, NEVER)
            )
    return NotImplemented


def _is_low(emit: Emitter, value: Any) -> bool:
    value = emit.value(value) if isinstance(value, Ref) else value
    return bool(torch.as_tensor(value <= NEVER).all())
