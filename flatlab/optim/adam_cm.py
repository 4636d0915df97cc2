"""Adam with a memory: critical momenta (Malviya et al. 2024, arXiv 2307.09638), critical gradients (arXiv 2106.10708).

    AdamCM    m <- b1 m + (1 - b1) g      u = m + kappa mean(B), B of momenta     v <- b2 v + (1 - b2) u^2
    AdamCG    a = g + kappa mean(B), B of gradients     u = m <- b1 m + (1 - b1) a     v <- b2 v + (1 - b2) a^2
    both      p <- p - lr (u / c1) / (sqrt(v / c2) + eps)         c_i = 1 - b_i^t

The second moment is built from the aggregate, not from the gradient: without a memory (capacity=0) AdamCM is therefore
not Adam, but Adam with v from m^2, a control that the notebook needs. second_moment="gradient" is the other control.

Start-up (`init`). "paper": the formulas as they stand; v already holds c1^2, so that dividing u by c1 corrects twice,
and the first step is lr / (1 - b1), ten times lr. "official": the authors' code, in which the first step only stores
the raw gradient and moves nothing; its second step is 7.4 lr. "corrected" (ours): items are m / c1, and u is not
divided again, so that the first step is lr. With critical gradients all three are the same.

Where the authors' code differs besides: its priority is the sum of the tensors' norms (norm="sum"; here the norm of the
whole gradient), its fifo mode overwrites one slot for ever, and its state does not survive a checkpoint.
"""

from typing import Any, cast

import torch
from torch import Tensor

from flatlab.optim.memory import Block, MemoryOptimizer, Number, Plan


class AdamCM(MemoryOptimizer):
    """Adam with critical momenta.

    Args:
        params: parameters, named parameters or groups of them; every group has a memory of its own.
        lr: learning rate; the authors advise a tenth of Adam's. A tensor only with capturable=True.
        betas: decay of the first and second moment, in [0, 1).
        eps: added to the denominator.
        weight_decay: as in AdamW if `decoupled_weight_decay`, else an L2 term in the gradient, which has no part in
            the priority.
        amsgrad: divide by the largest second moment so far.
        capacity: slots C of the memory; 0 for none. The state takes 3 + C numbers per parameter.
        decay: what priorities are multiplied with each step, in (0, 1]. At 0.7 the memory is nearly always the last C
            items; 0.99 keeps old items of large gradients.
        kappa: weight of the memory; 0 computes as if there were none.
        memory: what is stored, "momentum" or "gradient".
        aggregate: "mean" x + kappa mean(B), "sum" x + kappa sum(B), "average" (x + kappa sum(B)) / (1 + kappa |B|).
        policy: "priority", or "fifo" for the last C items.
        norm: priority is the norm of the group's gradient ("global"), the sum of its tensors' norms ("sum"), or each
            tensor's own, with decisions of its own ("parameter"). Clipped gradients have clipped norms.
        init: "paper", "official" or "corrected" start-up, see the head of this file.
        second_moment: built from the "aggregate" or from the "gradient".
        decoupled_weight_decay: see weight_decay.
        buffer_dtype: dtype of the stored items, such as torch.bfloat16; None for that of the moments.
        resum_every: recompute the running sum of the memory every so many steps; 0 for never. In float32 its drift
            stays below 1e-4 of the sum over thousands of steps.
        networks: S if every parameter stacks S networks along dimension 0: each then has its own norm and memory.
        foreach: True to update all tensors together, False one by one, None to choose by size.
        maximize: ascend.
        capturable: keep step and learning rate on the device, for CUDA graphs and torch.compile.
        differentiable: not supported.

    Raises:
        ValueError: an option out of range (named with its bound), or complex parameters.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        capacity: int = 5,
        decay: float = 0.7,
        kappa: float = 1.0,
        memory: str = "momentum",
        aggregate: str = "mean",
        policy: str = "priority",
        norm: str = "global",
        init: str = "paper",
        second_moment: str = "aggregate",
        decoupled_weight_decay: bool = True,
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
        if isinstance(group["lr"], Tensor) and not group["capturable"]:
            raise ValueError("lr must be a number unless capturable=True")
        if not group["eps"] >= 0:
            raise ValueError(f"eps must be >= 0, got {group['eps']!r}")
        for index, beta in enumerate(group["betas"]):
            if not 0 <= beta < 1:
                raise ValueError(f"betas[{index}] must lie in [0, 1), got {beta!r}")

    def _buffers(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def _rule(self, plan: Plan, block: Block) -> None:
        group, g, first = plan.group, block.g, block["exp_avg"]
        beta1, momentum = group["betas"][0], group["memory"] == "momentum"
        if momentum and group["init"] == "official" and plan.step == 1:  # store the gradient, and stay
            self._aggregate(plan, g, block)
            return
        correction = 1 - beta1**plan.step
        coupled = 0.0 if group["decoupled_weight_decay"] else group["weight_decay"]
        if momentum:
            g = torch.add(g, cast(Tensor, block.weights), alpha=coupled) if coupled else g
            if group["init"] == "corrected":
                aggregate = self._aggregate(plan, first.lerp_(g, 1 - beta1) / correction, block)
                correction = 1.0
            else:
                aggregate = self._average(plan, g, beta1, block)
        else:
            aggregate = self._aggregate(plan, g, block)
            aggregate = torch.add(aggregate, cast(Tensor, block.weights), alpha=coupled) if coupled else aggregate
        self._move(plan, block, aggregate, g, correction)

    def _move(self, plan: Plan, block: Block, aggregate: Tensor, g: Tensor, correction: Number) -> None:
        """p <- p - lr (u / c1) / (sqrt(v / c2) + eps), c1 being `correction`."""
        group, second, (beta1, beta2) = plan.group, block["exp_avg_sq"], plan.group["betas"]
        momentum = group["memory"] == "momentum"
        if plan.fused and group["second_moment"] == "aggregate":
            first = aggregate if momentum else block["exp_avg"]  # with beta1 = 0 the first moment is what Adam is given
            largest = [block["max_exp_avg_sq"]] if group["amsgrad"] else []
            torch._fused_adam_(
                *([block.target], [aggregate], [first], [second], largest, [plan.count]),
                lr=plan.lr / correction if momentum else plan.lr,
                beta1=0.0 if momentum else beta1,
                beta2=beta2,
                weight_decay=0.0,
                eps=group["eps"],
                amsgrad=group["amsgrad"],
                maximize=False,
            )
            return
        u = aggregate if momentum else block["exp_avg"].lerp_(aggregate, 1 - beta1)
        square = aggregate if group["second_moment"] == "aggregate" else g
        second.mul_(beta2).addcmul_(square, square, value=1 - beta2)
        if group["amsgrad"]:
            second = torch.maximum(block["max_exp_avg_sq"], second, out=block["max_exp_avg_sq"])
        root = (1 - beta2**plan.step) ** 0.5  # both corrections in one number
        block.move(u, second.sqrt().add_(root * group["eps"]), plan.lr * root / correction)


class AdamCG(AdamCM):
    """Adam with critical gradients: AdamCM with memory="gradient", and the defaults of its authors.

    Ten slots, and weight decay as an L2 term that joins the aggregate. The other arguments are those of `AdamCM`.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        capacity: int = 10,
        decay: float = 0.7,
        kappa: float = 1.0,
        memory: str = "gradient",
        aggregate: str = "mean",
        policy: str = "priority",
        norm: str = "global",
        init: str = "paper",
        second_moment: str = "aggregate",
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
        super().__init__(params, **options)
