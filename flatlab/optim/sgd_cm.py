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

from flatlab.optim.memory import Block, MemoryOptimizer, Plan


class SGDCM(MemoryOptimizer):
    """SGD with critical momenta.

    Args:
        params: parameters, named parameters or groups of them; every group has a memory of its own.
        lr: learning rate.
        momentum: decay b of the first moment, in [0, 1).
        others: as those of `AdamCM`.
    """

    _memory = "momentum"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        capacity: int = 5,
        decay: float = 0.7,
        kappa: float = 1.0,
        aggregate: str = "mean",
        policy: str = "priority",
        norm: str = "global",
        decoupled_weight_decay: bool = False,
        buffer_dtype: torch.dtype | None = None,
        resum_every: int = 0,
        networks: int | None = None,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        options = {name: value for name, value in locals().items() if name not in ("self", "params", "__class__")}
        super().__init__(params, options)

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        if not 0 <= group["momentum"] < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {group['momentum']!r}")

    def _buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg",)

    def _rule(self, plan: Plan, block: Block) -> None:
        group, g, rate = plan.group, block.g, plan.group["momentum"]
        coupled = 0.0 if group["decoupled_weight_decay"] else group["weight_decay"]
        if self._memory == "momentum":
            g = torch.add(g, cast(Tensor, block.weights), alpha=coupled) if coupled else g
            block.move(self._average(plan, g, rate, block), None, plan.lr)
            return
        aggregate = self._aggregate(plan, g, block)
        aggregate = torch.add(aggregate, cast(Tensor, block.weights), alpha=coupled) if coupled else aggregate
        block.move(block["exp_avg"].lerp_(aggregate, 1 - rate), None, plan.lr)


class SGDCG(SGDCM):
    """SGD with critical gradients; its arguments are those of `SGDCM`."""

    _memory = "gradient"
