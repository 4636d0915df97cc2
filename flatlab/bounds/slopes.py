"""The free slopes of backward passes: how they are searched for, and where they are kept."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from flatlab import checks
from flatlab.bounds.interval import Interval


@dataclass(frozen=True)
class Ascent:
    """Gradient ascent on the free slopes of `alpha-crown`, by Adam, for each row by itself.

    Args:
        iters: steps, >= 1.
        lr: learning rate, > 0, multiplied by `decay` after each step.
        decay: > 0.
        joint: optimise the bounds inside as well, with slopes of their own: tighter, and far slower.
    """

    iters: int = 20
    lr: float = 0.1
    decay: float = 0.98
    joint: bool = False

    def __post_init__(self) -> None:
        checks.at_least("iters", self.iters, 1)
        checks.positive("lr", self.lr)
        checks.positive("decay", self.decay)


@dataclass(eq=False)
class Slopes:
    """The free slopes of all passes: each row of a pass has its own.

    Attributes:
        table: (node where a pass starts, node where they are used) -> (k, rows, B, *shape) in [0, 1]; on windows
            (k, rows of a place, places, B, C, h, w), see `flatlab.bounds.places`.
        open: node -> which of its numbers an inner pass bounds, bool (N,).
        base: node -> the interval that is known from the first pass.
        some: the rows that the present part of a pass computes; None for all.
        places: likewise the places.
    """

    table: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    open: dict[int, Tensor] = field(default_factory=dict)
    base: dict[int, Interval] = field(default_factory=dict)
    some: slice | None = None
    places: slice | None = None

    def of(self, start: int, index: int, *, placed: bool = False) -> Tensor | None:
        """The slopes of one operator in one pass.

        Args:
            start: the node where the pass starts.
            index: the operator's node.
            placed: whether it acts on windows.
        """
        found = self.table.get((start, index))
        if found is None:
            return None
        if placed:
            return (found if self.places is None else found[:, :, self.places]).flatten(2, 3)
        if self.some is None:
            return found
        halves = found.chunk(2, dim=1)
        return torch.cat([half[:, self.some] for half in halves], dim=1)

    def part(self, rows: slice, places: slice | None = None) -> "Slopes":
        """Those of some rows, and of their negatives, at some places."""
        return replace(self, some=rows, places=places)

    def rows(self, index: int, proposed: Tensor) -> Tensor:
        """Which numbers of a node have slopes: those of the first pass."""
        return self.open.get(index, torch.zeros_like(proposed))
