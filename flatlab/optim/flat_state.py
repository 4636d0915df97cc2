"""Optimizer state of several parameters in flat arrays, so that one operation updates all of them.

`FlatState` keeps each buffer (moments, memory) of its parameters in one array (S, K): S networks, K numbers of each. A
parameter's entry in the optimizer's `state` is a view of that array, so checkpoints look as they always do. When an
entry is replaced, as loading a checkpoint does, the arrays are out of date; a new `FlatState` copies what the state
holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class StateChunk:
    """Columns start..stop of every flat array.

    Attributes:
        start, stop: the columns.
        target: what the update of the parameters is added to, (S, K).
        buffers: a memory of C slots as (C, S, K), or as a tuple of C arrays (S, K); any other buffer as (S, K).
    """

    start: int
    stop: int
    target: Tensor
    buffers: dict[str, Any]


class FlatState:
    """The flat arrays of some parameters of one device and dtype.

    Args:
        params: the parameters, at least one.
        states: the optimizer's state of each.
        networks: number S of networks that are stacked along dimension 0 of every parameter; 1 if none are stacked.
    """

    def __init__(self, params: Sequence[Tensor], states: Sequence[dict[str, Any]], networks: int) -> None:
        self.params, self.states, self.networks = list(params), list(states), networks
        self._orders = [_stride_order(p, networks) for p in params]
        self._row_major = [order == tuple(range(len(order))) for order in self._orders]
        self._widths = [p.numel() // networks for p in params]
        self.dtype = torch.float32 if params[0].dtype in (torch.float16, torch.bfloat16) else params[0].dtype
        own = self._weights_view()
        self.in_place = own is not None
        """Whether the target is the only parameter itself."""
        self.target = self._array(self.dtype) if own is None else own
        """What the update is added to, (S, K): the only parameter itself if that is possible, else room for moves."""
        self._moves = self.unflatten(self.target) if own is None else []
        self._place = (params[0].data_ptr(), params[0].stride())
        self.buffers: dict[str, Tensor] = {}
        self._views: list[tuple[dict[str, Any], str, Tensor]] = []
        self._chunks: dict[tuple[int, bool], list[StateChunk]] = {}

    def add(self, name: str, dtype: torch.dtype, slots: tuple[int, ...] = ()) -> None:
        """Keep a buffer of every parameter in one array (*slots, S, K), with the values of the state or zeros.

        Args:
            name: under which the state holds it.
            dtype: of the array.
            slots: (C,) for a memory of C slots, () for any other buffer.
        """
        flat = self._array(dtype, slots)
        for state, view in zip(self.states, self.unflatten(flat), strict=True):
            if name in state:
                view.copy_(state[name])
            state[name] = view
            self._views.append((state, name, view))
        self.buffers[name] = flat

    def chunks(self, size: int, *, unbind: bool) -> list[StateChunk]:
        """The arrays in chunks of about `size` columns; `unbind`: the memory as a tuple of slots."""
        width = sum(self._widths)
        if (size, unbind) not in self._chunks:
            count = max(1, round(width / size)) if size else 1
            edges = [width * i // count for i in range(count + 1)]
            self._chunks[size, unbind] = [self._columns(start, stop, unbind) for start, stop in pairwise(edges)]
        return self._chunks[size, unbind]

    def _columns(self, start: int, stop: int, unbind: bool) -> StateChunk:
        parts = {name: flat[..., start:stop] for name, flat in self.buffers.items()}
        buffers = {name: part.unbind(0) if unbind and part.ndim == 3 else part for name, part in parts.items()}
        return StateChunk(start, stop, self.target[:, start:stop], buffers)

    def _array(self, dtype: torch.dtype, slots: tuple[int, ...] = ()) -> Tensor:
        return torch.zeros(*slots, self.networks, sum(self._widths), dtype=dtype, device=self.params[0].device)

    def is_current(self) -> bool:
        """Whether every state still holds the views of these arrays, and the target is where it was."""
        if self.in_place and self._place != (self.params[0].data_ptr(), self.params[0].stride()):
            return False
        return all(state.get(name) is view for state, name, view in self._views)

    def flatten(self, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors of the parameters' shapes as one contiguous array (S, K), of a single one a view where possible.

        Contiguous, as torch's fused kernels need it: they read memory in a row, whatever strides say.
        """
        rows = [
            (t if row_major else t.permute(order)).reshape(self.networks, -1)
            for t, order, row_major in zip(tensors, self._orders, self._row_major, strict=True)
        ]
        return (rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)).to(self.dtype).contiguous()

    def move(self) -> None:
        """Add the target to the parameters, unless it is them."""
        if not self.in_place:
            torch._foreach_add_(self.params, [move.to(self.params[0].dtype) for move in self._moves])

    def _weights_view(self) -> Tensor | None:
        """The only parameter itself as (S, K); None if there are several, or if it needs another dtype."""
        p = self.params[0].detach()
        ordered = p if self._row_major[0] else p.permute(self._orders[0])
        if len(self.params) > 1 or p.dtype != self.dtype or not ordered.is_contiguous():
            return None
        return ordered.view(self.networks, -1)

    def unflatten(self, flat: Tensor) -> list[Tensor]:
        """An array (*slots, S, K) as tensors (*slots, *shape) of the parameters, without copying."""
        slots = flat.shape[:-2]
        found = []
        for part, p, order in zip(flat.split(self._widths, dim=-1), self.params, self._orders, strict=True):
            view = part.view((*slots, *(p.shape[dim] for dim in order)))
            back = sorted(range(p.ndim), key=order.__getitem__)
            found.append(view.permute((*range(len(slots)), *(len(slots) + dim for dim in back))))
        return found


def _stride_order(p: Tensor, networks: int) -> tuple[int, ...]:
    """The dimensions from the largest stride to the smallest, so that channels-last weights have such a state, too."""
    strides = p.stride()
    order = tuple(sorted(range(p.ndim), key=lambda dim: -strides[dim]))
    row_major = tuple(range(p.ndim))
    return order if p.permute(order).is_contiguous() and (networks == 1 or order[0] == 0) else row_major
