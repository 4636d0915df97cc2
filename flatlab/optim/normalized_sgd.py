"""Normalized gradient descent: steps of one length along the gradient, however steep the loss.

    p <- p - lr g / ||g||,    ||g||^2 = sum of the squares of all gradients, those of all groups

Hazan, Levy, Shalev-Shwartz 2015, "Beyond Convexity: Stochastic Quasi-Convex Optimization". Liu, Rosenfeld, Ravikumar,
Risteski 2022, "Analyzing and Improving the Optimization Landscape of Noise-Contrastive Estimation", take it for the
exponential loss of eNCE, whose gradient is tiny in flat parts and huge in steep ones.

The length of a step does not shrink near a minimum: it is lr that must go down. Any positive multiple of the loss gives
the same path, and clipping the norm of the gradient changes nothing.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from flatlab import checks
from flatlab.optim import norms
from flatlab.optim.groups import check_once, check_stacked, fill_options


class NormalizedSGD(Optimizer):
    """Gradient descent by direction alone. It keeps no state.

    A gradient of zero leaves the parameters where they are. A NaN or an infinity in it makes all of them NaN; with
    `networks`, those of its network alone.

    Args:
        params: parameters, named parameters or groups of them; all groups share one norm, each has its own lr.
        lr: length of a step, in units of the parameters; a group moves by its own lr times its part of g / ||g||.
        networks: S if every parameter stacks S networks along dimension 0: each then has its own norm.
        foreach: False to move tensors one by one; True and None move all of a group together.
        maximize: ascend.
        differentiable: not supported.

    Raises:
        ValueError: an option out of range, a parameter given twice, or a group whose `networks` are not those of
            the others.
        RuntimeError: differentiable=True.
    """

    stacks = True  # networks stacked along dimension 0 are optimised as if each were alone, with networks=S

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor,
        *,
        networks: int | None = None,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        if differentiable:
            raise RuntimeError("differentiable=True is not supported: parameters are moved in place")
        super().__init__(params, {"lr": lr, "networks": networks, "foreach": foreach, "maximize": maximize})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        fill_options(self)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; the group joins the common norm."""
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

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
        buckets = norms.gradient_buckets(self.param_groups, type(self).__name__)
        if not buckets:
            return loss
        # The square of a float32 may overflow or vanish in float32, not in float64.
        grads = [[g.double() for g in bucket.grads] for bucket in buckets]
        length = norms.norm(grads, self.defaults["networks"])
        norms.nan_where_(length, length.isinf())
        length.masked_fill_(length == 0, 1.0)
        for bucket, wide in zip(buckets, grads, strict=True):
            sign = 1 if bucket.group["maximize"] else -1
            moves = norms.scaled(wide, sign * bucket.group["lr"] / length)
            if bucket.group["foreach"] is False:
                for param, move in zip(bucket.params, moves, strict=True):
                    param.add_(move)
            else:
                torch._foreach_add_(bucket.params, moves)
        return loss

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError for an option out of range, or a first dimension that is not `networks`."""
        if not isinstance(group["lr"], Tensor):
            checks.nonnegative("lr", group["lr"])
        count, shared = group["networks"], self.defaults["networks"]
        if count != shared:
            raise ValueError(f"networks={count} in one group, but {shared} in all others, with which it shares a norm")
        check_once(group["params"])
        check_stacked(group["params"], count)
