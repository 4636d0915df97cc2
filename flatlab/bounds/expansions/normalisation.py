"""Normalisation: of layers, of groups of channels, and of batches."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from flatlab.bounds.expansions.registry import expansion
from flatlab.bounds.nodes import Ref
from flatlab.bounds.tape import Emitter


@expansion("layer_norm")
def _layer_norm(
    emit: Emitter, x: Ref, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *rest: Any
) -> Ref:
    """(x - mean) / sqrt(mean of squares + eps), which no coordinate can leave [-sqrt(n-1), sqrt(n-1)] by."""
    dims = list(range(-len(shape), 0))
    d = emit.sub(x, emit.mean(x, dims, True))
    return _normalised(emit, d, dims, math.prod(shape) - 1, eps, weight, bias)


@expansion("rms_norm")
def _rms_norm(emit: Emitter, x: Ref, shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Ref:
    eps = torch.finfo(emit.dtype(x)).eps if eps is None else eps
    return _normalised(emit, x, list(range(-len(shape), 0)), math.prod(shape), eps, weight, None)


def _normalised(emit: Emitter, d: Ref, dims: list[int], most: int, eps: float, weight: Any, bias: Any) -> Ref:
    scale = emit.rsqrt(emit.add(emit.mean(emit.mul(d, d), dims, True), eps))
    limit = math.sqrt(most)
    z = emit.hint(emit.mul(d, scale), lambda l, u: (torch.full_like(l, -limit), torch.full_like(u, limit)), d)
    z = z if weight is None else emit.mul(z, weight)
    return z if bias is None else emit.add(z, bias)


@expansion("group_norm")
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


@expansion("batch_norm")
def _batch_norm(
    emit: Emitter, x: Ref, weight: Any, bias: Any, mean: Any, var: Any, training: bool, _: float, eps: float, *r: Any
) -> Any:
    """A scale and a shift for each channel; in train mode with the statistics of the clean batch."""
    if training and not emit.training and emit.moves(x):
        raise emit.refusal(
            "takes the statistics of the batch, which mixes samples: call eval() on the layer, and let it keep running "
            "statistics (track_running_stats=True)"
        )
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


@expansion("_native_batch_norm_legit_functional")
def _functional_batch_norm(emit: Emitter, *args: Any) -> list[Any]:
    """What torch makes of BatchNorm that would write to its statistics; the new ones follow the result."""
    return [emit.batch_norm(*args), None, None, None, None]


@expansion("instance_norm")
def _instance_norm(
    emit: Emitter, x: Ref, weight: Any, bias: Any, mean: Any, var: Any, own: bool, momentum: float, eps: float, *r: Any
) -> Ref:
    """Each channel of a sample by its own statistics, or by running ones."""
    if own:
        return emit.group_norm(x, x.shape[1], weight, bias, eps)
    return emit.batch_norm(x, weight, bias, mean, var, False, momentum, eps)
