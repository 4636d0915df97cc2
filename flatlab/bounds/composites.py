"""Operators that are made of others: softmax, normalisation, attention, recurrent layers, pooling.

An expansion takes an `Emitter` and the operator's arguments, and returns the node (or the list of nodes) that stands
for the result; NotImplemented leaves the operator as it is. Sizes may be read from `x.shape`, the batch size not.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from flatlab.bounds.graph import Emitter, Ref

EXPANSIONS: dict[str, Callable[..., Any]] = {}
"""Name in torch.ops.aten -> expansion(emit, *args)."""


def composite(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register an expansion."""

    def register(expansion: Callable[..., Any]) -> Callable[..., Any]:
        EXPANSIONS.update(dict.fromkeys(names, expansion))
        return expansion

    return register


@composite("log_softmax", "_log_softmax")
def _log_softmax(emit: Emitter, x: Ref, dim: int, *rest: Any) -> Ref:
    return emit.sub(x, emit.logsumexp(x, [dim], True))


@composite("logsumexp")
def _logsumexp(emit: Emitter, x: Ref, dim: Any, keepdim: bool = False) -> Ref:
    dims = [dim] if isinstance(dim, int) else list(dim)
    shift = emit.amax(emit.clean(x), dims, True)
    total = emit.log(emit.sum(emit.exp(emit.sub(x, shift)), dims, keepdim))
    kept = shift if keepdim else emit.amax(emit.clean(x), dims, False)
    found = emit.add(total, kept)
    return emit.hint(found, lambda l, u: (l.logsumexp(dims, keepdim), u.logsumexp(dims, keepdim)), x)


@composite("layer_norm")
def _layer_norm(
    emit: Emitter, x: Ref, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *rest: Any
) -> Ref:
    """(x - mean) / sqrt(mean of squares + eps), which no coordinate can leave [-sqrt(n-1), sqrt(n-1)] by."""
    dims = list(range(-len(shape), 0))
    d = emit.sub(x, emit.mean(x, dims, True))
    return _normalised(emit, d, dims, math.prod(shape) - 1, eps, weight, bias)


@composite("rms_norm")
def _rms_norm(emit: Emitter, x: Ref, shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Ref:
    eps = torch.finfo(emit.dtype(x)).eps if eps is None else eps
    return _normalised(emit, x, list(range(-len(shape), 0)), math.prod(shape), eps, weight, None)


def _normalised(emit: Emitter, d: Ref, dims: list[int], most: int, eps: float, weight: Any, bias: Any) -> Ref:
    scale = emit.rsqrt(emit.add(emit.mean(emit.mul(d, d), dims, True), eps))
    limit = math.sqrt(most)
    z = emit.hint(emit.mul(d, scale), lambda l, u: (torch.full_like(l, -limit), torch.full_like(u, limit)), d)
    z = z if weight is None else emit.mul(z, weight)
    return z if bias is None else emit.add(z, bias)


@composite("group_norm")
def _group_norm(
    emit: Emitter, x: Ref, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *r: Any
) -> Ref:
    channels, rest = x.shape[1], list(x.shape[2:])
    parts = emit.reshape(x, [-1, groups, channels // groups * math.prod(rest)])
    d = emit.sub(parts, emit.mean(parts, [2], True))
    z = emit.reshape(_normalised(emit, d, [2], parts.shape[2] - 1, eps, None, None), [-1, channels, *rest])
    widen = lambda t: emit.reshape(t, [channels] + [1] * len(rest))  # noqa: E731
    z = z if weight is None else emit.mul(z, widen(weight))
    return z if bias is None else emit.add(z, widen(bias))


@composite("batch_norm")
def _batch_norm(
    emit: Emitter,
    x: Ref,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    training: bool,
    momentum: float,
    eps: float,
    *r: Any,
) -> Any:
    """A scale and a shift for each channel; in train mode with the statistics of the clean batch."""
    if training and not emit.training:
        return NotImplemented  # it has no running statistics, and mixes samples
    wide = [1, -1] + [1] * (len(x.shape) - 2)
    if training:
        dims = [0, *range(2, len(x.shape))]
        at = emit.clean(x)
        mean = emit.mean(at, dims)
        var = emit.mean(emit.pow(emit.sub(at, emit.mean(at, dims, True)), 2), dims)
    scale = emit.rsqrt(emit.add(var, eps))
    scale = scale if weight is None else emit.mul(scale, weight)
    shift = emit.neg(emit.mul(mean, scale))
    shift = shift if bias is None else emit.add(shift, bias)
    return emit.add(emit.mul(x, emit.reshape(scale, wide)), emit.reshape(shift, wide))


@composite("scaled_dot_product_attention")
def _attention(
    emit: Emitter,
    q: Ref,
    k: Ref,
    v: Ref,
    mask: Any = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Any:
    if options.get("enable_gqa") or dropout:
        return NotImplemented
    scale = options.get("scale") or 1 / math.sqrt(q.shape[-1])
    logits = emit.mul(emit.matmul(q, emit.transpose(k, -2, -1)), scale)
    keep: Any = None
    if is_causal:
        keep = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    elif mask is not None and emit.dtype(mask) == torch.bool:
        keep = mask
    elif mask is not None:  # what is left out of the softmax is finite here: no infinite number meets a zero
        keep = emit.gt(mask, _NEVER)
        logits = emit.add(logits, emit.clamp(mask, _NEVER, None))
    if keep is None:
        return emit.matmul(emit.softmax(logits, -1), v)
    return emit.matmul(emit.apply(masked_softmax, logits, -1, keep), v)


_NEVER = -1e6
"""A logit this low, or lower, is masked."""


def masked_softmax(x: Tensor, dim: int, keep: Tensor) -> Tensor:
    """Softmax over what is kept; 0 elsewhere."""
    return x.masked_fill(~keep, -torch.inf).softmax(dim)


@composite("div")
def _div(emit: Emitter, x: Any, y: Any, **options: Any) -> Any:
    """x / y with a perturbed y: the product with its reciprocal."""
    if options or not isinstance(y, Ref) or not emit.moves(y):
        return NotImplemented
    return emit.mul(x, emit.reciprocal(y))


@composite("add")
def _add(emit: Emitter, x: Any, y: Any, alpha: float = 1) -> Any:
    """x + alpha y."""
    return NotImplemented if alpha == 1 else emit.add(emit.mul(y, alpha) if isinstance(y, Ref) else y * alpha, x)


@composite("sub", "subtract")
def _sub(emit: Emitter, x: Any, y: Any, alpha: float = 1) -> Any:
    """x - y as a sum, where both are tensors."""
    if not isinstance(y, Ref):
        return emit.add(x, -alpha * y)
    return emit.add(emit.mul(y, -alpha), x)


@composite("rsub")
def _rsub(emit: Emitter, x: Ref, y: Any, alpha: float = 1) -> Any:
    return emit.add(emit.mul(x, -alpha), y)


@composite("neg")
def _neg(emit: Emitter, x: Ref) -> Ref:
    return emit.mul(x, -1.0)


@composite("square")
def _square(emit: Emitter, x: Ref) -> Ref:
    return emit.mul(x, x)


@composite("pow")
def _pow(emit: Emitter, x: Any, exponent: Any) -> Any:
    if not isinstance(x, Ref) or isinstance(exponent, Ref):
        return NotImplemented
    known = {2: lambda: emit.mul(x, x), 1: lambda: x, 0.5: lambda: emit.sqrt(x), -0.5: lambda: emit.rsqrt(x)}
    return known[exponent]() if exponent in known else emit.reciprocal(x) if exponent == -1 else NotImplemented


@composite("addmm")
def _addmm(emit: Emitter, bias: Any, x: Ref, y: Any, beta: float = 1, alpha: float = 1) -> Any:
    return emit.add(emit.mm(x, y), bias) if beta == alpha == 1 else NotImplemented


@composite("baddbmm")
def _baddbmm(emit: Emitter, bias: Any, x: Ref, y: Any, beta: float = 1, alpha: float = 1) -> Any:
    return emit.add(emit.bmm(x, y), bias) if beta == alpha == 1 else NotImplemented


@composite("chunk")
def _chunk(emit: Emitter, x: Ref, chunks: int, dim: int = 0) -> list[Ref]:
    step = -(-x.shape[dim] // chunks)
    return [emit.slice(x, dim, i, min(i + step, x.shape[dim])) for i in range(0, x.shape[dim], step)]


@composite("split", "split_with_sizes")
def _split(emit: Emitter, x: Ref, sizes: Any, dim: int = 0) -> list[Ref]:
    sizes = sizes if isinstance(sizes, list | tuple) else [sizes] * -(-x.shape[dim] // sizes)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [emit.slice(x, dim, end - size, min(end, x.shape[dim])) for end, size in zip(ends, sizes, strict=True)]


@composite("unbind")
def _unbind(emit: Emitter, x: Ref, dim: int = 0) -> list[Ref]:
    return [emit.select(x, dim, i) for i in range(x.shape[dim])]


@composite("stack")
def _stack(emit: Emitter, parts: Sequence[Ref], dim: int = 0) -> Ref:
    return emit.cat([emit.unsqueeze(part, dim) for part in parts], dim)


@composite("maximum")
def _maximum(emit: Emitter, x: Any, y: Any) -> Ref:
    """max(x, y) = x + relu(y - x)."""
    return emit.add(x, emit.relu(emit.sub(y, x)))


@composite("minimum")
def _minimum(emit: Emitter, x: Any, y: Any) -> Ref:
    return emit.sub(x, emit.relu(emit.sub(x, y)))


@composite("max")
def _max(emit: Emitter, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if isinstance(dim, Ref):
        return emit.maximum(x, dim)  # torch.max of two tensors
    if not isinstance(dim, int):
        return NotImplemented
    return [emit.amax(x, [dim], keepdim), None]  # the indices cannot be bounded


@composite("min")
def _min(emit: Emitter, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if isinstance(dim, Ref):
        return emit.minimum(x, dim)
    if not isinstance(dim, int):
        return NotImplemented
    return [emit.amin(x, [dim], keepdim), None]


@composite("amax")
def _amax(emit: Emitter, x: Ref, dim: Any = (), keepdim: bool = False) -> Any:
    """One dimension after the other."""
    if isinstance(dim, int) or len(dim) < 2:
        return NotImplemented
    for one in sorted((d % len(x.shape) for d in dim), reverse=True):
        x = emit.amax(x, [one], keepdim)
    return x


@composite("amin")
def _amin(emit: Emitter, x: Ref, dim: Any = (), keepdim: bool = False) -> Ref:
    return emit.neg(emit.amax(emit.neg(x), dim, keepdim))


@composite("max_pool2d", "max_pool1d")
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


@composite("lstm")
def _lstm(
    emit: Emitter,
    x: Ref,
    state: Sequence[Any],
    weights: Sequence[Any],
    bias: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    plain = isinstance(state, list | tuple) and isinstance(weights, list | tuple)  # else the sequences are packed
    count = layers * (2 if bidirectional else 1) * (4 if bias else 2)  # more weights are of projections
    if not plain or len(weights) != count or (train and dropout and layers > 1):
        return NotImplemented

    def cell(gates: Ref, h: Any, c: Any) -> tuple[Ref, Ref]:
        i, f, g, o = emit.chunk(gates, 4, 1)
        c = emit.add(emit.mul(emit.sigmoid(f), c), emit.mul(emit.sigmoid(i), emit.tanh(g)))
        return emit.mul(emit.sigmoid(o), emit.tanh(c)), c

    return _recurrent(emit, x, state, weights, bias, layers, bidirectional, batch_first, cell)


def _recurrent(
    emit: Emitter,
    x: Ref,
    state: Sequence[Any],
    weights: Sequence[Any],
    bias: bool,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
    cell: Callable[..., tuple[Ref, Ref]],
) -> Any:
    """A recurrent layer, step by step."""
    time, each, ways = (1 if batch_first else 0), (4 if bias else 2), (2 if bidirectional else 1)
    steps = [emit.select(x, time, t) for t in range(x.shape[time])]
    last: list[list[Ref]] = [[], []]
    for layer in range(layers):
        outputs = []
        for way in range(ways):
            row = layer * ways + way
            w = [*weights[row * each : (row + 1) * each], None, None]
            h, c = (emit.select(s, 0, row) for s in state)
            run = []
            for z in steps[:: -1 if way else 1]:
                h, c = cell(emit.add(emit.linear(z, w[0], w[2]), emit.linear(h, w[1], w[3])), h, c)
                run.append(h)
            outputs.append(run[:: -1 if way else 1])
            last[0].append(h)
            last[1].append(c)
        steps = [step[0] if ways == 1 else emit.cat(list(step), 1) for step in zip(*outputs, strict=True)]
    return [emit.stack(steps, time), *(emit.stack(part, 0) for part in last)]


@composite("lstm_cell")
def _lstm_cell(emit: Emitter, x: Ref, state: Sequence[Any], w: Any, u: Any, b: Any = None, d: Any = None) -> list[Ref]:
    i, f, g, o = emit.chunk(emit.add(emit.linear(x, w, b), emit.linear(state[0], u, d)), 4, 1)
    c = emit.add(emit.mul(emit.sigmoid(f), state[1]), emit.mul(emit.sigmoid(i), emit.tanh(g)))
    return [emit.mul(emit.sigmoid(o), emit.tanh(c)), c]


@composite("gru_cell")
def _gru_cell(emit: Emitter, x: Ref, h: Any, w: Any, u: Any, b: Any = None, d: Any = None) -> Ref:
    xr, xz, xn = emit.chunk(emit.linear(x, w, b), 3, 1)
    hr, hz, hn = emit.chunk(emit.linear(h, u, d), 3, 1)
    z = emit.sigmoid(emit.add(xz, hz))
    n = emit.tanh(emit.add(emit.mul(emit.sigmoid(emit.add(xr, hr)), hn), xn))
    return emit.add(n, emit.mul(z, emit.sub(h, n)))


@composite("rnn_tanh_cell")
def _rnn_tanh_cell(emit: Emitter, x: Ref, h: Any, w: Any, u: Any, b: Any = None, d: Any = None) -> Ref:
    return emit.tanh(emit.add(emit.linear(x, w, b), emit.linear(h, u, d)))


@composite("rnn_relu_cell")
def _rnn_relu_cell(emit: Emitter, x: Ref, h: Any, w: Any, u: Any, b: Any = None, d: Any = None) -> Ref:
    return emit.relu(emit.add(emit.linear(x, w, b), emit.linear(h, u, d)))


@composite("dropout", "feature_dropout", "alpha_dropout")
def _dropout(emit: Emitter, x: Ref, p: float, train: bool) -> Any:
    return x if not train or p == 0 else NotImplemented


@composite("relu6")
def _relu6(emit: Emitter, x: Ref) -> Ref:
    return emit.clamp(x, 0.0, 6.0)


@composite("hardtanh")
def _hardtanh(emit: Emitter, x: Ref, low: float = -1.0, high: float = 1.0) -> Ref:
    return emit.clamp(x, low, high)


@composite("clamp_min")
def _clamp_min(emit: Emitter, x: Ref, low: float) -> Ref:
    return emit.clamp(x, low, None)


@composite("clamp_max")
def _clamp_max(emit: Emitter, x: Ref, high: float) -> Ref:
    return emit.clamp(x, None, high)
