"""Which items a memory holds: the slots of critical gradients (arXiv 2106.10708) and momenta (arXiv 2307.09638).

A memory of C slots receives one item a step, with the norm n of the gradient as its priority:

    a slot is free               the item takes it
    priority policy, n > min p   the item replaces the one of the lowest priority; otherwise it is dropped
    fifo policy                  the item replaces the oldest
    after every step             p_j <- decay p_j for all j, the new item's included

An item whose norm is not finite is never taken: it would stay for ever. Everything is a tensor (S, ...), one row per
network, and no decision is read on the host, so a step can be captured into a CUDA graph. The items themselves are kept
elsewhere, in the optimizer's state (`flatlab.optim.flat_state`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class MemorySlots:
    """What is known about each slot of a memory.

    Attributes:
        step: number of steps so far, scalar.
        priority: (S, C); 0 in free slots.
        born: the step at which the item of each slot came, (S, C).
        accepted: how many items were taken so far, (S,).
    """

    step: Tensor
    priority: Tensor
    born: Tensor
    accepted: Tensor

    NAMES: ClassVar = ("step", "priority", "born", "accepted")
    """Under which the optimizer's state of a parameter holds them."""

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        """The slots of a parameter with this optimizer state, not copied."""
        return cls(*(state[name] for name in cls.NAMES))

    def held_by(self, state: Mapping[str, Any]) -> bool:
        """Whether these are the slots that this state holds, and not others with which it was filled since."""
        return all(state[name] is getattr(self, name) for name in self.NAMES)

    @property
    def capacity(self) -> int:
        """The number of slots C."""
        return self.priority.shape[1]

    @property
    def filled(self) -> Tensor:
        """How many slots hold an item, (S,)."""
        return self.accepted.clamp(max=self.capacity)

    def admit(self, norm: Tensor, *, decay: float, policy: str) -> tuple[Tensor, Tensor]:
        """Decide whether the items of this step are taken, and keep their priority and age if so.

        Args:
            norm: gradient norms (S,), the priorities of the items.
            decay: what every priority is multiplied with afterwards, in (0, 1].
            policy: "priority" or "fifo".

        Returns:
            The slot of each network's item, (S,), and whether it is taken, (S,).
        """
        finite = norm.isfinite()
        if policy == "fifo":
            slot, taken = self.accepted % self.capacity, finite
        else:
            free = self.accepted < self.capacity
            slot = torch.where(free, self.accepted, self.priority.argmin(dim=1))
            taken = finite & (free | (norm > self.priority.gather(1, slot[:, None])[:, 0]))
        chosen = torch.zeros_like(self.priority, dtype=torch.bool).scatter_(1, slot[:, None], taken[:, None])
        self.priority.copy_(torch.where(chosen, norm[:, None], self.priority).mul_(decay))
        self.born.copy_(torch.where(chosen, self.step.to(self.born), self.born))
        self.accepted.add_(taken)
        return slot, taken
