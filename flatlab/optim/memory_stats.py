"""What the memory of a parameter group holds, in numbers."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flatlab.optim.memory_slots import MemorySlots


def memory_statistics(states: Sequence[dict[str, Any]], networks: int) -> dict[str, Tensor]:
    """Numbers (S,) about one memory; see `MemoryOptimizer.memory_stats` for what they mean.

    Args:
        states: the optimizer's state of each parameter that shares the memory, at least one.
        networks: number S of stacked networks; 1 if none are stacked.
    """
    slots = MemorySlots.of(states[0])
    filled = slots.filled.to(slots.priority.dtype)
    held = torch.arange(slots.capacity, device=filled.device) < filled[:, None]
    items = torch.cat([s["memory"].reshape(slots.capacity, networks, -1).to(filled.dtype) for s in states], dim=2)
    moment = torch.cat([s["exp_avg"].reshape(networks, -1).to(filled.dtype) for s in states], dim=1)
    mean = items.sum(0) / filled[:, None]
    length = torch.linalg.vector_norm(items, dim=2).sum(0) / filled
    nan = torch.full_like(slots.priority, math.nan)
    return {
        "filled": slots.filled,
        "accepted": slots.accepted,
        "refused": (slots.step.to(slots.accepted.device) - slots.accepted).long(),
        "mean_age": torch.where(held, slots.step.to(nan) - slots.born.to(nan), nan).nanmean(1),
        "priority_min": torch.where(held, slots.priority, math.inf).amin(1) + 0 * filled / filled,
        "priority_max": torch.where(held, slots.priority, -math.inf).amax(1) + 0 * filled / filled,
        "cancellation": torch.linalg.vector_norm(mean, dim=1) / length,
        "cosine": torch.nn.functional.cosine_similarity(moment, mean, dim=1),
    }
