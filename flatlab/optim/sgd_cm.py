"""SGD with a memory: the non-adaptive members of the family of `flatlab.optim.adam_cm`.

    SGDCM    m <- b m + (1 - b) g              p <- p - lr (m + kappa mean(B)), B of momenta
    SGDCG    m <- b m + (1 - b) (g + kappa mean(B)), B of gradients            p <- p - lr m

The momentum is an average (torch's `dampening` equal to its `momentum`, from m = 0), so that momenta and gradients have
one scale. With policy="fifo" adding the mean of the last C items and averaging are both linear filters, and commute:
the two then give the same iterates, apart from the start. What tells critical momenta from critical gradients is hence
the second moment of Adam, and which items are kept.
"""

from typing import Any, cast

import torch
from torch import Tensor

from flatlab.optim.declared_options import declared_options
from flatlab.optim.memory import MemoryOptimizer
from flatlab.optim.memory_update import StepPlan, UpdateChunk, aggregate_item, aggregate_momentum


@declared_options
class SGDCM(MemoryOptimizer):
    """SGD with critical momenta.

    Args:
        lr: learning rate.
        momentum: decay b of the first moment, in [0, 1).
        weight_decay: an L2 term, or as in AdamW if `decoupled_weight_decay`.

    The other options, the parameters and the errors are those of `MemoryOptimizer`.
    """

    lr: float | Tensor = 1e-2
    momentum: float = 0.9
    weight_decay: float = 0.0

    _memory = "momentum"

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        if not 0 <= group["momentum"] < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {group['momentum']!r}")

    def _moments(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg",)

    def _rule(self, plan: StepPlan, chunk: UpdateChunk) -> None:
        group, g, rate = plan.group, chunk.g, plan.group["momentum"]
        coupled = 0.0 if group["decoupled_weight_decay"] else group["weight_decay"]
        if self._memory == "momentum":
            g = torch.add(g, cast(Tensor, chunk.weights), alpha=coupled) if coupled else g
            chunk.move(aggregate_momentum(plan, g, rate, chunk), None, plan.lr)
            return
        aggregate = aggregate_item(plan, g, chunk)
        aggregate = torch.add(aggregate, cast(Tensor, chunk.weights), alpha=coupled) if coupled else aggregate
        chunk.move(chunk["exp_avg"].lerp_(aggregate, 1 - rate), None, plan.lr)


class SGDCG(SGDCM):
    """SGD with critical gradients; its options are those of `SGDCM`."""

    _memory = "gradient"
