"""Parameters side by side: their optimizer state as rows of a few flat arrays.

A step that costs a fixed number of operations must not handle one tensor after another. An arena keeps each buffer of
its parameters (moments, memory) as one array (S, K): S networks, K numbers of each. What a parameter finds in the
optimizer's `state` is a view of it, so checkpoints look as they always do. A view that was replaced (by loading a
checkpoint, say) makes the arena invalid; a new one then copies what the state holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Piece:
    """Columns start..stop of every flat array."""

    start: int
    stop: int
    buffers: dict[str, Any]


class Arena:
    """The flat arrays of some parameters of one device and dtype.

    Args:
        params: the parameters, at least one.
        states: the optimizer's state of each.
        rows: number of networks S that are stacked along dimension 0 of every parameter; 1 if they are not stacked.
    """

    def __init__(self, params: Sequence[Tensor], states: Sequence[dict[str, Any]], rows: int) -> None:
        self.params, self.states, self.rows = list(params), list(states), rows
        self.orders = [_order(p, rows) for p in params]
        self.plain = [order == tuple(range(len(order))) for order in self.orders]
        self.widths = [p.numel() // rows for p in params]
        self.dtype = torch.float32 if params[0].dtype in (torch.float16, torch.bfloat16) else params[0].dtype
        self.flats: dict[str, Tensor] = {}
        self.held: list[tuple[dict[str, Any], str, Tensor]] = []
        self._pieces: dict[tuple[int, bool], list[Piece]] = {}

    def adopt(self, name: str, dtype: torch.dtype, lead: tuple[int, ...] = ()) -> None:
        """Hold the buffer `name` of every parameter in one array (*lead, S, K): what the states hold, or zeros."""
        flat = torch.zeros(*lead, self.rows, sum(self.widths), dtype=dtype, device=self.params[0].device)
        for state, view in zip(self.states, self.views(flat), strict=True):
            if name in state:
                view.copy_(state[name])
            state[name] = view
            self.held.append((state, name, view))
        self.flats[name] = flat

    def pieces(self, size: int, *, unbind: bool) -> list[Piece]:
        """The arrays in pieces of about `size` columns; `unbind`: the memory as a tuple of slots."""
        width = sum(self.widths)
        if (size, unbind) not in self._pieces:
            count = max(1, round(width / size)) if size else 1
            edges = [width * i // count for i in range(count + 1)]
            self._pieces[size, unbind] = [
                Piece(start, stop, {name: self._cut(name, start, stop, unbind) for name in self.flats})
                for start, stop in pairwise(edges)
            ]
        return self._pieces[size, unbind]

    def _cut(self, name: str, start: int, stop: int, unbind: bool) -> Any:
        part = self.flats[name][..., start:stop]
        return part.unbind(0) if unbind and part.ndim == 3 else part

    def valid(self) -> bool:
        """Whether every state still holds the views of this arena."""
        return all(state.get(name) is view for state, name, view in self.held)

    def gather(self, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors of the parameters' shapes as one array (S, K); of a single one an alias where that is possible."""
        rows = [
            (t if plain else t.permute(order)).reshape(self.rows, -1)
            for t, order, plain in zip(tensors, self.orders, self.plain, strict=True)
        ]
        return (rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)).to(self.dtype)

    def alias(self) -> Tensor | None:
        """The memory of the only parameter as (S, K); None if there are several, or if it needs another dtype."""
        p = self.params[0]
        ordered = p if self.plain[0] else p.permute(self.orders[0])
        if len(self.params) > 1 or p.dtype != self.dtype or not ordered.is_contiguous():
            return None
        return ordered.view(self.rows, -1)

    def views(self, flat: Tensor) -> list[Tensor]:
        """An array (*lead, S, K) as tensors (*lead, *shape) of the parameters, without copying."""
        lead = flat.shape[:-2]
        found = []
        for part, p, order in zip(flat.split(self.widths, dim=-1), self.params, self.orders, strict=True):
            view = part.view(*lead, *(p.shape[dim] for dim in order))
            back = sorted(range(p.ndim), key=order.__getitem__)
            found.append(view.permute(*range(len(lead)), *(len(lead) + dim for dim in back)))
        return found


def _order(p: Tensor, rows: int) -> tuple[int, ...]:
    """The dimensions as they lie in memory, so that channels-last weights have channels-last state."""
    strides = p.stride()
    order = tuple(sorted(range(p.ndim), key=lambda dim: -strides[dim]))
    plain = tuple(range(p.ndim))
    return order if p.permute(order).is_contiguous() and (rows == 1 or order[0] == 0) else plain
