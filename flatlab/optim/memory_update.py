"""One step of an optimizer with a memory, on a chunk of its flat arrays: what is asked for, and the aggregate.

    a_t = x_t + kappa mean(B_t)          x_t: the gradient (critical gradients) or the momentum (critical momenta)
    B_{t+1} = B_t with x_t in place of the item of lowest priority, if ||g_t|| exceeds that priority

The aggregate a_t is formed before x_t enters the memory. A running sum of the memory makes this independent of the
capacity C.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

Number = float | Tensor  # read on the host, or (S, 1) on the device


@dataclass(frozen=True, eq=False)
class StepPlan:
    """What one step does to parameters that share a memory.

    Attributes:
        group: the parameter group.
        step: number of this step, from 1; a tensor if capturable.
        lr: the learning rate.
        weight: what the running sum of the memory is multiplied with.
        scale: what the sum of item and weighted memory is multiplied with; None for 1.
        slot, taken: where the item goes, and whether it does; None without a memory.
        fused: whether everything is known on the host, and torch's fused kernels for the CPU may be used.
        count: `step` as the tensor that those kernels take.
    """

    group: dict[str, Any]
    step: Number
    lr: Number
    weight: Number
    scale: Number | None
    slot: int | Tensor | None
    taken: bool | Tensor
    fused: bool
    count: Tensor


@dataclass(frozen=True, eq=False)
class UpdateChunk:
    """The columns that are updated together, all tensors (S, K).

    Attributes:
        target: what the update is added to: the parameters themselves, or zeros that are added to them later.
        weights: the parameters, where an L2 term needs them.
        g: the gradient.
        u: scratch.
        buffers: the state; "memory" is a tuple of C slots if the plan was read on the host, else one tensor (C, S, K).
    """

    target: Tensor
    weights: Tensor | None
    g: Tensor
    u: Tensor
    buffers: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.buffers[name]

    def move(self, u: Tensor, d: Tensor | None, s: Number) -> None:
        """target <- target - s u / d, in place.

        Args:
            u: direction (S, K).
            d: divisor (S, K); None means 1.
            s: step size, a number or (S, 1).
        """
        if isinstance(s, Tensor):
            self.target.sub_((u if d is None else u / d) * s)
        elif d is None:
            self.target.add_(u, alpha=-s)
        else:
            self.target.addcdiv_(u, d, value=-s)


def aggregate_item(plan: StepPlan, item: Tensor, chunk: UpdateChunk) -> Tensor:
    """item + kappa mean(B), after which the item enters the memory; without a memory the item itself.

    Args:
        plan: of this step.
        item: x_t (S, K).
        chunk: whose "memory" and "memory_sum" are read and updated.

    Returns:
        The aggregate (S, K); it may be the scratch space of the chunk.
    """
    if plan.slot is None:
        return item
    total, memory = chunk["memory_sum"], chunk["memory"]
    if isinstance(plan.weight, Tensor):
        aggregate = torch.addcmul(item, total, plan.weight.to(item))
    else:
        aggregate = torch.add(item, total, alpha=plan.weight, out=chunk.u)
    if plan.scale is not None:
        aggregate.mul_(plan.scale)
    if isinstance(plan.slot, Tensor):
        rows = torch.arange(len(total), device=total.device)
        old = memory[plan.slot, rows]
        new = torch.where(cast(Tensor, plan.taken)[:, None], item.to(memory.dtype), old)
        memory[plan.slot, rows] = new
        total.add_(new).sub_(old)
    elif plan.taken:
        total.sub_(memory[plan.slot])
        total.add_(memory[plan.slot].copy_(item))
    return aggregate


def aggregate_momentum(plan: StepPlan, g: Tensor, rate: float, chunk: UpdateChunk) -> Tensor:
    """`aggregate_item` of the first moment m <- rate m + (1 - rate) g, in fewer passes over the data where possible.

    Args:
        plan: of this step.
        g: gradient (S, K).
        rate: decay of the moment, in [0, 1).
        chunk: whose "exp_avg" is m.
    """
    moment = chunk["exp_avg"]
    plain = plan.scale is not None or not (plan.fused and plan.taken and rate)
    if plain or chunk["memory"][0].dtype != moment.dtype:
        return aggregate_item(plan, moment.lerp_(g, 1 - rate), chunk)
    total, slot = chunk["memory_sum"], chunk["memory"][plan.slot]
    # One pass makes m and, as the step of a parameter, sum + m; then m + weight sum lies between m and sum + m.
    torch._fused_sgd_(
        *([total], [g], [moment]),
        lr=-1.0,
        momentum=rate,
        dampening=rate,
        weight_decay=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )
    aggregate = torch.lerp(moment, total, plan.weight, out=chunk.u)
    total.sub_(slot)
    slot.copy_(moment)
    return aggregate
