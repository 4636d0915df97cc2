"""Adam with a memory: critical momenta (Malviya et al. 2024, arXiv 2307.09638), critical gradients (arXiv 2106.10708).

    AdamCM    m <- b1 m + (1 - b1) g      u = m + kappa mean(B), B of momenta     v <- b2 v + (1 - b2) u^2
    AdamCG    a = g + kappa mean(B), B of gradients     u = m <- b1 m + (1 - b1) a     v <- b2 v + (1 - b2) a^2
    both      p <- p - lr (u / c1) / (sqrt(v / c2) + eps)         c_i = 1 - b_i^t

The second moment is built from the aggregate, not from the gradient: without a memory (capacity=0) AdamCM is therefore
not Adam, but Adam with v from m^2, a control that the notebook needs. second_moment="gradient" is the other control.

Variants of Adam take the memory, too: weight_decay makes it AdamW, amsgrad=True AMSGrad, and nesterov=True NAdam,
which looks a step ahead, u = b1 m + (1 - b1) g + kappa mean(B), at a constant b1 (torch's NAdam warms it up).

Start-up (`init`). "paper": the formulas as they stand; v already holds c1^2, so that dividing u by c1 corrects twice,
and the first step is lr / (1 - b1), ten times lr. "official": the authors' code, in which the first step only stores
the raw gradient and moves nothing; its second step is 7.4 lr. "corrected" (ours): items are m / c1, and u is not
divided again, so that the first step is lr. With critical gradients all three are the same.

Where the authors' code differs besides: its priority is the sum of the tensors' norms (norm="sum"; here the norm of the
whole gradient), its fifo mode overwrites one slot for ever, and its state does not survive a checkpoint.
"""

from dataclasses import KW_ONLY
from typing import Any, cast

import torch
from torch import Tensor

from flatlab.optim.declared_options import declared_options
from flatlab.optim.memory import MemoryOptimizer
from flatlab.optim.memory_update import Number, StepPlan, UpdateChunk, aggregate_item, aggregate_momentum


@declared_options
class AdamCM(MemoryOptimizer):
    """Adam with critical momenta. The state takes 3 + capacity numbers per parameter.

    Args:
        lr: learning rate; the authors advise a tenth of Adam's. A tensor only with capturable=True.
        betas: decay of the first and second moment, in [0, 1).
        eps: added to the denominator.
        weight_decay: as in AdamW, or an L2 term if `decoupled_weight_decay` is False.
        amsgrad: divide by the largest second moment so far.
        memory: what is stored, "momentum" or "gradient".
        init: "paper", "official" or "corrected" start-up, see the head of this file.
        second_moment: built from the "aggregate" or from the "gradient".
        nesterov: look a step ahead, as NAdam does; with memory="momentum" only.

    The other options, the parameters and the errors are those of `MemoryOptimizer`.
    """

    lr: float | Tensor = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    _: KW_ONLY
    memory: str = "momentum"
    init: str = "paper"
    second_moment: str = "aggregate"
    nesterov: bool = False
    decoupled_weight_decay: bool = True

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        if isinstance(group["lr"], Tensor) and not group["capturable"]:
            raise ValueError("lr must be a number unless capturable=True")
        if not group["eps"] >= 0:
            raise ValueError(f"eps must be >= 0, got {group['eps']!r}")
        for index, beta in enumerate(group["betas"]):
            if not 0 <= beta < 1:
                raise ValueError(f"betas[{index}] must lie in [0, 1), got {beta!r}")
        if group["nesterov"] and group["memory"] == "gradient":
            raise ValueError("nesterov=True looks ahead of the momentum: it needs memory='momentum', got 'gradient'")

    def _moments(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def _rule(self, plan: StepPlan, chunk: UpdateChunk) -> None:
        group, g, first = plan.group, chunk.g, chunk["exp_avg"]
        beta1, momentum = group["betas"][0], group["memory"] == "momentum"
        if momentum and group["init"] == "official" and plan.step == 1:  # store the gradient, and stay
            aggregate_item(plan, g, chunk)
            return
        correction = 1 - beta1**plan.step
        coupled = 0.0 if group["decoupled_weight_decay"] else group["weight_decay"]
        if momentum:
            g = torch.add(g, cast(Tensor, chunk.weights), alpha=coupled) if coupled else g
            unit: Number = correction if group["init"] == "corrected" else 1.0
            if group["init"] == "corrected":
                aggregate = aggregate_item(plan, first.lerp_(g, 1 - beta1) / unit, chunk)
                correction = 1.0
            else:
                aggregate = aggregate_momentum(plan, g, beta1, chunk)
            if group["nesterov"]:
                aggregate = aggregate + (g - first) * (1 - beta1) / unit  # m + (1 - b1) (g - m) = b1 m + (1 - b1) g
        else:
            aggregate = aggregate_item(plan, g, chunk)
            aggregate = torch.add(aggregate, cast(Tensor, chunk.weights), alpha=coupled) if coupled else aggregate
        self._move(plan, chunk, aggregate, g, correction)

    def _move(self, plan: StepPlan, chunk: UpdateChunk, aggregate: Tensor, g: Tensor, correction: Number) -> None:
        """p <- p - lr (u / c1) / (sqrt(v / c2) + eps), c1 being `correction`."""
        group, second, (beta1, beta2) = plan.group, chunk["exp_avg_sq"], plan.group["betas"]
        momentum = group["memory"] == "momentum"
        if plan.fused and group["second_moment"] == "aggregate":
            first = aggregate if momentum else chunk["exp_avg"]  # with beta1 = 0 the first moment is what Adam is given
            largest = [chunk["max_exp_avg_sq"]] if group["amsgrad"] else []
            torch._fused_adam_(
                *([chunk.target], [aggregate], [first], [second], largest, [plan.count]),
                lr=plan.lr / correction if momentum else plan.lr,
                beta1=0.0 if momentum else beta1,
                beta2=beta2,
                weight_decay=0.0,
                eps=group["eps"],
                amsgrad=group["amsgrad"],
                maximize=False,
            )
            return
        u = aggregate if momentum else chunk["exp_avg"].lerp_(aggregate, 1 - beta1)
        square = aggregate if group["second_moment"] == "aggregate" else g
        second.mul_(beta2).addcmul_(square, square, value=1 - beta2)
        if group["amsgrad"]:
            second = torch.maximum(chunk["max_exp_avg_sq"], second, out=chunk["max_exp_avg_sq"])
        root = (1 - beta2**plan.step) ** 0.5  # both corrections in one number
        chunk.move(u, second.sqrt().add_(root * group["eps"]), plan.lr * root / correction)


@declared_options
class AdamCG(AdamCM):
    """Adam with critical gradients: AdamCM with memory="gradient", and the defaults of its authors.

    Ten slots, and weight decay as an L2 term that joins the aggregate.
    """

    _: KW_ONLY
    memory: str = "gradient"
    capacity: int = 10
    decoupled_weight_decay: bool = False
