"""Convolutions whose padding is a word, as such whose padding is numbers."""

from collections.abc import Callable
from typing import Any

from flatlab.bounds.expansions.registry import EXPANSIONS
from flatlab.bounds.nodes import Ref
from flatlab.bounds.tape import Emitter


def _numbered(name: str, count: int) -> Callable[..., Any]:
    def expand(
        emit: Emitter, x: Any, weight: Ref, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1,
    ) -> Any:  # fmt: skip
        # "same" is d (k - 1) zeros on each axis, of which an odd one comes last; "valid" is none
        if not isinstance(padding, str):
            return NotImplemented
        steps, dilations = _each(stride, count), _each(dilation, count)
        sizes = zip(dilations, weight.shape[-count:], strict=True)
        total = [d * (k - 1) if padding == "same" else 0 for d, k in sizes]
        if any(n % 2 for n in total):
            sides = [side for n in reversed(total) for side in (n // 2, n - n // 2)]
            x, total = emit.constant_pad_nd(x, sides, 0.0), [0] * count
        return getattr(emit, name)(x, weight, bias, steps, [n // 2 for n in total], dilations, groups)

    return expand


def _each(value: Any, count: int) -> list[int]:
    """An option for each axis."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * count if len(values) == 1 else values


EXPANSIONS.update({f"conv{n}d": _numbered(f"conv{n}d", n) for n in (1, 2, 3)})
