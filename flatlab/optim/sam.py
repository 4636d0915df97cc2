"""Sharpness-aware minimisation: SAM, ASAM, GSAM, SAGM (Foret, Kwon 2021; Zhuang 2022; Wang 2023, et al.).

    SAM    eps = rho g0 / (||g0|| + d)                final gradient g1 = grad L(w + eps)
    ASAM   eps = rho T^2 g0 / (||T g0|| + d)          g1;     T = |w| + eta, elementwise
    GSAM   eps as SAM, rho may follow the lr          g1 - alpha (g0 - (<g0, g1> / ||g1||^2) g1)
    SAGM   eps = (rho / (||g0|| + d) - alpha) g0      (g0 + g1) / 2

with g0 = grad L(w) on the same batch, d = 1e-12, norms over all parameters, and a base optimizer that steps from w
with the final gradient. Two ways to use them:

    optimizer.step(closure)             # the closure computes the loss, calls backward, returns the loss

    loss(w).backward()                  # or by hand
    optimizer.first_step(zero_grad=True)
    loss(w).backward()
    optimizer.second_step(zero_grad=True)

With a GradScaler, where an overflow in either pass skips the update and halves the scale:

    scaler.scale(loss(w)).backward()
    optimizer.first_step(zero_grad=True, scale=scaler.get_scale())
    try:
        scaler.scale(loss(w)).backward()
    finally:
        optimizer.restore()             # weights are back, .grad holds the final gradient, still scaled
    scaler.step(optimizer)              # before it: scaler.unscale_(optimizer) and clipping, if wanted
    scaler.update()
    optimizer.zero_grad()

Where widely used code differs: it subtracts eps instead of copying w back, leaves d or eta out, keeps the old weights
in `state`, loses the base's state in checkpoints, and updates BatchNorm in both passes.

A first gradient that is not finite perturbs nothing, so that the second pass runs at clean weights, and makes the final
gradient NaN: a GradScaler then skips the step, and without one the base gets a NaN, as it would without this wrapper.
With stacked networks that concerns the network in question alone.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from flatlab import checks
from flatlab.optim import norms
from flatlab.optim.norms import Bucket
from flatlab.optim.two_pass import TwoPass


class SAM(TwoPass):
    """Descend along the gradient at the worst point, to first order, within distance rho.

    Args:
        rho: length of the perturbation, >= 0; 0 is the base optimizer.
        adaptive: measure the perturbation relative to the size of each weight, as ASAM does.
        eta: added to |w| if adaptive.

    The other arguments and the errors are those of `TwoPass`.
    """

    own_options: ClassVar = {"rho": 0.05, "adaptive": False, "eta": 0.0}


class ASAM(TwoPass):
    """SAM in units of each weight: with eta = 0, invariant to scaling weights against each other.

    T applies to all tensors; a group with `adaptive=False` has T = 1. The options are those of `SAM`.
    """

    own_options: ClassVar = {"rho": 0.5, "adaptive": True, "eta": 0.01}


class GSAM(TwoPass):
    """SAM that also shrinks the gap between the perturbed loss and the loss, without touching the former's descent.

    Args:
        rho: length of the perturbation, unless both bounds below are given.
        alpha: how much of the part of g0 orthogonal to g1 is taken away, >= 0; 0 is SAM.
        rho_min, rho_max: then rho = rho_min + (rho_max - rho_min) lr / lr_max, written into the group at each step.
            lr_max is the `max_lr` of a group that a cyclic schedule has set, else the largest of its `initial_lr`, its
            lr when this optimizer was made, and its lr since; the lowest lr is taken to be 0. An lr that is a tensor
            on an accelerator is waited for.
        adaptive, eta: as in `SAM`.
    """

    mixes = True
    own_options: ClassVar = SAM.own_options | {"alpha": 0.4, "rho_min": None, "rho_max": None}
    remembers: ClassVar = {"largest_lr": 0.0}

    def _schedule(self, group: dict[str, Any]) -> None:
        low, high = self.option(group, "rho_min"), self.option(group, "rho_max")
        if low is None or high is None:
            return
        lr = float(group["lr"])
        largest = max(lr, float(group.get("initial_lr", 0.0)), self.option(group, "largest_lr"))
        group[self._keys["largest_lr"]] = largest
        largest = float(group.get("max_lr", largest))
        group[self._keys["rho"]] = low + (high - low) * (min(lr / largest, 1.0) if largest else 1.0)

    def _mix(self, buckets: list[Bucket], first: list[list[Tensor | None]]) -> None:
        if not buckets:
            return
        known = [_pairs(bucket.grads, g0) for bucket, g0 in zip(buckets, first, strict=True)]
        length = norms.norm([bucket.grads for bucket in buckets], self.networks)
        product = norms.inner([g0 for _, g0 in known], [g1 for g1, _ in known], self.networks)
        # <g0, g1> / ||g1||^2, in an order that does not square a small norm; orthogonal to nothing where g1 = 0
        along = torch.where(length > 0, product / length / length, torch.zeros_like(length))
        for bucket, (g1, g0) in zip(buckets, known, strict=True):
            alpha = self.option(bucket.group, "alpha")
            if alpha:
                torch._foreach_copy_(bucket.grads, norms.scaled(bucket.grads, 1 + alpha * along))
                torch._foreach_add_(g1, g0, alpha=-alpha)

    def _check_group(self, group: Mapping[str, Any]) -> None:
        super()._check_group(group)
        low, high = self.option(group, "rho_min"), self.option(group, "rho_max")
        if (low is None) != (high is None):
            raise ValueError(f"rho_min and rho_max belong together, got {low!r} and {high!r}: give both or neither")
        if low is not None and not checks.nonnegative("rho_min", low) <= checks.nonnegative("rho_max", high):
            raise ValueError(f"rho_min must not exceed rho_max, got {low!r} > {high!r}")


class SAGM(TwoPass):
    """Descend on the loss and on the perturbed loss at once, the two gradients drawn together.

    Args:
        rho: length of the perturbation.
        alpha: how far the perturbation is pulled back along g0, in units of g0, >= 0.
        adaptive, eta: as in `SAM`, for the first term of eps alone.

    The final gradient is the mean of the two, as in the authors' code; the objective's sum would double the lr.
    """

    mixes = True
    own_options: ClassVar = SAM.own_options | {"alpha": 0.001}

    def _pull_back(self, group: dict[str, Any]) -> float:
        return self.option(group, "alpha")

    def _mix(self, buckets: list[Bucket], first: list[list[Tensor | None]]) -> None:
        for bucket, g0s in zip(buckets, first, strict=True):
            g1, g0 = _pairs(bucket.grads, g0s)
            if g0:
                torch._foreach_add_(g1, g0)
            torch._foreach_mul_(bucket.grads, 0.5)


def _pairs(second: list[Tensor], first: list[Tensor | None]) -> tuple[list[Tensor], list[Tensor]]:
    """The second and the first gradients of the parameters that have both."""
    both = [(g1, g0) for g1, g0 in zip(second, first, strict=True) if g0 is not None]
    return [g1 for g1, _ in both], [g0 for _, g0 in both]
