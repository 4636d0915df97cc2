"""Pools of largest values."""

import math
from typing import Any

import torch

from flatlab.bounds.expansions.registry import expansion
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
    starts: list[list[int]] = []
    for i in range(count):
        size, reach = x.shape[i - count], d[i] * (k[i] - 1) + 1
        steps = (size + 2 * p[i] - reach + (s[i] - 1 if ceil_mode else 0)) // s[i] + 1
        if ceil_mode and (steps - 1) * s[i] >= size + p[i]:
            steps -= 1
        starts.append([j * s[i] for j in range(steps)])
    need = [starts[i][-1] + d[i] * (k[i] - 1) + 1 - x.shape[i - count] - p[i] for i in range(count)]
    sides = [side for i in reversed(range(count)) for side in (p[i], max(0, need[i]))]
    padded = emit.constant_pad_nd(x, sides, -1e30) if any(sides) else x
    for i in range(count):
        dim = len(x.shape) - count + i
        index = [start + d[i] * offset for start in starts[i] for offset in range(k[i])]
        padded = emit.index_select(padded, dim, torch.tensor(index))
    lead = list(x.shape[1 : len(x.shape) - count])
    shape = [-1, *lead] + [n for i in range(count) for n in (len(starts[i]), k[i])]
    windows = emit.reshape(padded, shape)
    first = 1 + len(lead)
    places = list(range(first)) + [first + 2 * i for i in range(count)] + [first + 2 * i + 1 for i in range(count)]
    windows = emit.reshape(emit.permute(windows, places), [-1, *lead, *(len(st) for st in starts), math.prod(k)])
    return emit.amax(windows, [-1], False)
