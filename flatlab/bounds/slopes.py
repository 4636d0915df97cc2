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
        table: (node where a pass starts, node where they are used) -> (k, rows, B, *shape) in [0, 1].
        open: node -> which of its numbers an inner pass bounds, bool (N,).
        base: node -> the interval that is known from the first pass.
        window: the rows that the present part of a pass computes; None for all.
    """

    table: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    open: dict[int, Tensor] = field(default_factory=dict)
    base: dict[int, Interval] = field(default_factory=dict)
    window: slice | None = None

    def of(self, start: int, index: int) -> Tensor | None:
        """The slopes of one operator in one pass."""
        found = self.table.get((start, index))
        if found is None or self.window is None:
            return found
        halves = found.chunk(2, dim=1)
        return torch.cat([half[:, self.window] for half in halves], dim=1)

    def part(self, start: int, stop: int) -> "Slopes":
        """Those of some rows, and of their negatives."""
        return replace(self, window=slice(start, stop))

    def rows(self, index: int, proposed: Tensor) -> Tensor:
        """Which numbers of a node have slopes: those of the first pass."""
        return self.open.get(index, torch.zeros_like(proposed))
