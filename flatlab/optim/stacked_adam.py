"""Adam for S networks stacked along the first dimension of every parameter, with a learning rate each.

    m <- beta1 m + (1 - beta1) g,    v <- beta2 v + (1 - beta2) g^2
    p <- p - lr_s (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)        for the weights p of network s

Kingma & Ba 2015, "Adam: A Method for Stochastic Optimization". Adam acts on every element by itself, so that a whole
grid of learning rates trains in one loop: network s moves as `torch.optim.Adam` at lr_s would move it alone.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from flatlab import checks
from flatlab.optim import norms
from flatlab.optim.groups import check_once, check_stacked, fill_options


class StackedAdam(Optimizer):
    """torch's Adam with one learning rate, or one for each of S stacked networks.

    The state of a parameter is that of torch's Adam (step, exp_avg, exp_avg_sq), and so are its rules: weight decay is
    added to the gradient, and a NaN or an infinity spoils the element that it meets.

    Args:
        params: parameters, named parameters or groups of them; each group has its own lr.
        lr: learning rate: a number, or S of them, in a sequence or a tensor (S,). Tensors are held as they are.
        betas: decay of the first and second moment, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: times the parameters, added to the gradient.
        networks: S if every parameter stacks S networks along dimension 0; needed for nothing but checks of shapes.
        foreach: False to move tensors one by one; True and None move all of a group together.
        maximize: ascend.
        differentiable: not supported.

    Raises:
        ValueError: an option out of range, a parameter given twice, or rates, `networks` and shapes that do not go
            together.
        RuntimeError: differentiable=True.
    """

    stacks = True  # networks stacked along dimension 0 are optimised as if each were alone, with networks=S

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Sequence[float] | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        networks: int | None = None,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        if differentiable:
            raise RuntimeError("differentiable=True is not supported: parameters are moved in place")
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "networks": networks}
        super().__init__(params, {**options, "foreach": foreach, "maximize": maximize})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        fill_options(self)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; a sequence of learning rates becomes a tensor (S,) of float64."""
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch, but steps do not write into the tensors of `state_dict`."""
        super().load_state_dict(copy.deepcopy(state_dict))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; `closure`, if given, computes loss and gradients first, and its loss is returned.

        Raises:
            RuntimeError: a sparse gradient; nothing has changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for bucket in norms.gradient_buckets(self.param_groups, type(self).__name__):
            for p in bucket.sources:
                if not self.state[p]:
                    zeros = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
                    self.state[p] = {"step": torch.zeros((), dtype=torch.float32), **zeros}
            states = [self.state[p] for p in bucket.sources]
            together = len(states) if bucket.group["foreach"] is not False else 1
            for i in range(0, len(states), together):
                part = slice(i, i + together)
                _move(bucket.group, bucket.params[part], bucket.grads[part], states[part])
        return loss

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError for an option out of range, or a first dimension that is not the number of networks."""
        if not isinstance(group["lr"], int | float | Tensor):
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
        lr, count = group["lr"], group["networks"]
        for rate in lr.flatten().tolist() if isinstance(lr, Tensor) else [lr]:
            checks.nonnegative("lr", rate)
        for index, beta in enumerate(group["betas"]):
            if not 0 <= beta < 1:
                raise ValueError(f"betas[{index}] must lie in [0, 1), got {beta!r}")
        checks.nonnegative("eps", group["eps"])
        checks.nonnegative("weight_decay", group["weight_decay"])
        if isinstance(lr, Tensor) and lr.ndim:
            if lr.ndim > 1 or count not in (None, len(lr)):
                wanted = "(S,)" if count is None else f"({count},), one rate for each of the networks={count}"
                raise ValueError(f"lr must be a number or have shape {wanted}, got shape {tuple(lr.shape)}")
            count = len(lr)
        check_once(group["params"])
        check_stacked(group["params"], count)


def _move(group: dict[str, Any], params: list[Tensor], grads: list[Tensor], states: list[dict[str, Any]]) -> None:
    """One step of tensors that share device and dtype."""
    (beta1, beta2), lr = group["betas"], group["lr"]
    first, second = ([norms.as_real(state[name]) for state in states] for name in ("exp_avg", "exp_avg_sq"))
    counts = [state["step"] for state in states]
    torch._foreach_add_(counts, 1)
    if group["maximize"]:
        grads = list(torch._foreach_neg(grads))
    if group["weight_decay"]:
        grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
    torch._foreach_lerp_(first, grads, 1 - beta1)
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
    # The corrections of both moments are numbers: gathered in eps and lr they cost no pass over the weights.
    steps = [float(count) for count in counts]
    roots = [(1 - beta2**t) ** 0.5 for t in steps]
    sizes = [-root / (1 - beta1**t) for root, t in zip(roots, steps, strict=True)]
    spread = list(torch._foreach_sqrt(second))
    torch._foreach_add_(spread, [group["eps"] * root for root in roots])
    if isinstance(lr, Tensor):  # in place, for a second copy of all weights would cost more; a rate of 0 moves nothing
        rate = lr.to(params[0])
        torch._foreach_div_(spread, [norms.rows(rate, p) if rate.ndim else rate for p in params])
    else:
        sizes = [lr * size for size in sizes]
    torch._foreach_addcdiv_(params, first, spread, sizes)
