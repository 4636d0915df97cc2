"""Pools of largest values, whose padding takes no part."""

import math
from typing import Any

import torch
from torch import Tensor

from flatlab.bounds.expansions.registry import expansion
from flatlab.bounds.largest import masked_amax
from flatlab.bounds.nodes import Ref
from flatlab.bounds.tape import Emitter


@expansion("max_pool2d", "max_pool1d")
def _max_pool(
    emit: Emitter, x: Ref, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Ref:
    """The windows as rows of a tensor, then their largest entry; any stride, padding and dilation."""
    count = 1 if len(x.shape) == 3 and not isinstance(kernel, int) and len(kernel) == 1 else 2
    both = lambda v: [v] * count if isinstance(v, int) else list(v) * (count if len(v) == 1 else 1)  # noqa: E731
    k, p, d = both(kernel), both(padding), both(dilation)
    s = both(stride) if stride else k
    places: list[Tensor] = []  # of each axis: (steps, offsets)
    for i in range(count):
        size, reach = x.shape[i - count], d[i] * (k[i] - 1) + 1
        steps = (size + 2 * p[i] - reach + (s[i] - 1 if ceil_mode else 0)) // s[i] + 1
        if ceil_mode and (steps - 1) * s[i] >= size + p[i]:
            steps -= 1
        places.append(torch.arange(steps)[:, None] * s[i] - p[i] + torch.arange(k[i]) * d[i])
    sizes = x.shape[len(x.shape) - count :]
    inside = [(at >= 0) & (at < size) for at, size in zip(places, sizes, strict=True)]
    windows = x
    for i, (at, size) in enumerate(zip(places, sizes, strict=True)):
        windows = emit.index_select(windows, len(x.shape) - count + i, at.clamp(0, size - 1).flatten())
    lead = list(x.shape[1 : len(x.shape) - count])
    first = 1 + len(lead)
    order = [*range(first), *range(first, first + 2 * count, 2), *range(first + 1, first + 2 * count, 2)]
    windows = emit.permute(emit.reshape(windows, [-1, *lead, *(n for at in places for n in at.shape)]), order)
    windows = emit.reshape(windows, [-1, *lead, *(len(at) for at in places), math.prod(k)])
    if all(bool(part.all()) for part in inside):
        return emit.amax(windows, [-1], False)
    keep = inside[0] if count == 1 else (inside[0][:, None, :, None] & inside[1][None, :, None, :]).flatten(2)
    return emit.apply(masked_amax, windows, [-1], False, keep)
