"""Pools whose windows follow from the size of the result, and those over volumes."""

from typing import Any

from flatlab.bounds.expansions.registry import expansion
from flatlab.bounds.nodes import Ref
from flatlab.bounds.tape import Emitter


@expansion("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_max_pool(emit: Emitter, x: Ref, sizes: Any) -> list[Any]:
    """One dimension after the other: entry i of k is the largest of those from i n / k on, up to (i + 1) n / k."""
    for dim, count in zip(range(len(x.shape) - len(sizes), len(x.shape)), sizes, strict=True):
        n = x.shape[dim]
        windows = [emit.slice(x, dim, i * n // count, -(-(i + 1) * n // count)) for i in range(count)]
        x = emit.cat([emit.amax(window, [dim], True) for window in windows], dim)
    return [x, None]  # the indices cannot be bounded


@expansion("max_pool3d")
def _max_pool3d(
    emit: Emitter, x: Ref, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Ref:
    """Over the planes, then over the depth."""
    three = lambda v: [v] * 3 if isinstance(v, int) else list(v) * (3 if len(v) == 1 else 1)  # noqa: E731
    k, p, d = three(kernel), three(padding), three(dilation)
    s = three(stride) if stride else k
    channels, depth = x.shape[-4:-2]
    z = emit.reshape(x, [-1, channels * depth, *x.shape[-2:]])
    z = emit.max_pool2d(z, k[1:], s[1:], p[1:], d[1:], ceil_mode)
    high, wide = z.shape[-2:]
    z = emit.reshape(z, [-1, channels, depth, high * wide])
    z = emit.max_pool2d(z, [k[0], 1], [s[0], 1], [p[0], 0], [d[0], 1], ceil_mode)
    return emit.unflatten(z, 3, [high, wide])
