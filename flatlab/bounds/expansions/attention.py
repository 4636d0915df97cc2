"""Logarithms of softmax, and attention."""

import math
from typing import Any

import torch
from torch import Tensor

from flatlab.bounds.expansions.registry import expansion
from flatlab.bounds.nodes import Ref
from flatlab.bounds.softmax import log_softmax_interval
from flatlab.bounds.tape import Emitter

NEVER = -1e6
"""A logit this low, or lower, is masked."""

MIXERS = ("softmax", "_softmax", "masked_softmax")


@expansion("log_softmax", "_log_softmax")
def _log_softmax(emit: Emitter, x: Ref, dim: int, *rest: Any) -> Ref:
    found = emit.sub(x, emit.logsumexp(x, [dim], True))
    return emit.hint(found, lambda l, u: log_softmax_interval(l, u, dim), x)


@expansion("matmul", "bmm")
def _mixture(emit: Emitter, weights: Any, values: Any) -> Any:
    """What a softmax mixes lies between the least and the largest of the values, wherever its own interval says."""
    if not isinstance(weights, Ref) or not isinstance(values, Ref) or len(values.shape) < 2 or not emit.moves(values):
        return NotImplemented
    made = emit.node(weights)
    if made.key not in MIXERS or made.args[1] not in (-1, len(weights.shape) - 1):
        return NotImplemented
    found = emit.plain("matmul", weights, values)
    return emit.hint(found, lambda l, u: (l.amin(-2, keepdim=True), u.amax(-2, keepdim=True)), values)


@expansion("scaled_dot_product_attention")
def _attention(
    emit: Emitter, q: Ref, k: Ref, v: Ref, mask: Any = None, dropout: float = 0, is_causal: bool = False, **options: Any
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
        keep = emit.gt(mask, NEVER)
        logits = emit.add(logits, emit.clamp(mask, NEVER, None))
    if keep is None:
        return emit.matmul(emit.softmax(logits, -1), v)
    return emit.matmul(emit.apply(masked_softmax, logits, -1, keep), v)


def masked_softmax(x: Tensor, dim: int, keep: Tensor) -> Tensor:
    """Softmax over what is kept; 0 elsewhere."""
    return x.masked_fill(~keep, -torch.inf).softmax(dim)
