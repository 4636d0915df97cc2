"""Projected sign-gradient ascent in an L_inf ball: the loop that FGSM, PGD and targeted DLR share.

    x_{k+1} = clip(x + clamp(x_k + a sign grad_x L(f(x_k), y) - x, -eps, eps), box)

Arithmetic follows that order because foolbox rounds in the same one: iterates then agree bit for bit, not only in
distribution. Gradients are taken with respect to the inputs alone, of the sum of per-sample values, so that neither
`.grad` of a parameter nor the batch a sample travels in has any effect.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from flatlab import checks, modes
from flatlab.attacks.arguments import Box
from flatlab.attacks.losses import Objective

#: Fooled rows leave together, once fewer than this share resists: to gather the others costs as much as a layer.
_WORTH_DROPPING = 0.9


class ZeroGradientWarning(UserWarning):
    """The input gradient is exactly zero for many samples, so a gradient attack cannot move them."""


@dataclass(frozen=True)
class SignAscent:
    """The ascent for one model and one objective. Arguments are trusted: public attacks check them.

    Attributes:
        model: maps (n, ...) to logits (n, C).
        objective: per-sample values to maximise.
        eps, step_size, steps: radius, step and number of steps.
        clip: box of the inputs, or None.
        warn: whether `run` warns about zero gradients on its first step.
    """

    model: nn.Module
    objective: Objective
    eps: float
    step_size: float
    steps: int
    clip: Box
    warn: bool = True

    @cached_property
    def dtype(self) -> torch.dtype | None:
        """Of the model's weights, which its inputs follow."""
        return modes.dtype_of(self.model)

    def begin(self, x: Tensor, delta: Tensor | None) -> Tensor:
        """The first iterate, a new tensor: x + delta inside the box, or a copy of x."""
        if delta is None:
            return x.clone()
        adv = x + delta
        return adv if self.clip is None else adv.clamp_(*self.clip)

    def run(self, x: Tensor, y: Tensor, adv: Tensor, targets: Tensor | None = None, *, inspect: bool = True) -> Tensor:
        """Move `adv` by all steps and return it.

        Args:
            x: centres of the balls (n, ...).
            y: labels (n,).
            adv: where the ascent begins (n, ...), as `begin` gives it; overwritten.
            targets: classes (n,) to move to; None to move away from y.
            inspect: check the logits of the first step, and warn about its gradient.
        """
        buffer = torch.empty_like(adv)
        for step in range(self.steps):
            first = inspect and step == 0
            logits, gradient = self.gradient(adv, y, targets, inspect=first)
            if first and self.warn:
                warn_if_stuck(gradient, is_fooled(logits, y))
            self._step(x, adv, gradient, buffer)
        return adv

    def run_until_fooled(
        self, x: Tensor, y: Tensor, adv: Tensor, targets: Tensor | None = None, *, hit_target: bool = False
    ) -> Tensor:
        """Like `run`, but a sample that fools the model leaves the computation and keeps the iterate that did it.

        Args:
            x: centres of the balls (n, ...).
            y: labels (n,).
            adv: where the ascent begins (n, ...).
            targets: classes (n,) to move to; None to move away from y.
            hit_target: only the target class counts as fooled, not any wrong class.
        """
        result, buffer = adv.clone(), torch.empty_like(adv)
        index, resists, left = torch.arange(len(x), device=x.device), torch.ones_like(y, dtype=torch.bool), len(x)
        for step in range(self.steps):
            logits, gradient = self.gradient(adv, y, targets, inspect=step == 0)
            if step == 0 and self.warn:
                warn_if_stuck(gradient, is_fooled(logits, y))
            rows = (is_fooled(logits, y, targets if hit_target else None) & resists).nonzero().squeeze(1)
            if len(rows):
                result.index_copy_(0, index[rows], adv[rows])
                resists[rows] = False
                left -= len(rows)
                if not left:
                    return result
                if left < _WORTH_DROPPING * len(adv):
                    keep = resists.nonzero().squeeze(1)
                    index, x, y, adv, gradient, resists = (t[keep] for t in (index, x, y, adv, gradient, resists))
                    targets = None if targets is None else targets[keep]
                    buffer = buffer[:left]
            self._step(x, adv, gradient, buffer)
        return result.index_copy_(0, index[resists], adv[resists])

    def gradient(
        self, adv: Tensor, y: Tensor, targets: Tensor | None = None, *, inspect: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Detached logits (n, C) at `adv`, and the gradient (n, ...): zeros where the model passes none to its input.

        Args:
            adv: where to take them (n, ...).
            y: labels (n,).
            targets: classes (n,) to move to; None to move away from y.
            inspect: raise ValueError for logits that are not finite and for classes out of range.
        """
        adv.requires_grad_(True)
        logits = modes.call_in(self.dtype, self.model, adv)
        if inspect:
            checks.logits(logits.detach(), len(adv))
            for classes in (y, targets):
                if classes is not None:
                    checks.labels(classes, len(adv), logits.shape[1])
        slope = self.objective.slope(logits.detach(), y, targets)
        if self.dtype in modes.HALF:
            # Only signs count, and the slope of a confident network is less than half precision can hold.
            slope = slope / slope.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
        gradient = None
        if logits.requires_grad:
            (gradient,) = torch.autograd.grad(logits, adv, slope, allow_unused=True)
        adv.requires_grad_(False)
        return logits.detach(), torch.zeros_like(adv) if gradient is None else gradient

    def score(self, adv: Tensor, y: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Whether the model is fooled at `adv`, and the objective there, both (n,); arguments as of `gradient`."""
        with torch.no_grad():
            logits = modes.call_in(self.dtype, self.model, adv)
            return is_fooled(logits, y, targets), self.objective.value(logits, y, targets)

    def _step(self, x: Tensor, adv: Tensor, gradient: Tensor, buffer: Tensor) -> None:
        # A gradient may be an expanded view (a model that sums its inputs), so it is never written to.
        torch.sign(gradient, out=buffer)
        adv.add_(buffer, alpha=self.step_size)
        torch.sub(adv, x, out=buffer)
        buffer.clamp_(-self.eps, self.eps)
        torch.add(x, buffer, out=adv)
        if self.clip is not None:
            adv.clamp_(*self.clip)


def is_fooled(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """Whether the class (n,) that logits (n, C) predict is not y (n,) or, with targets (n,), is the target."""
    predicted = logits.argmax(dim=1)
    return predicted != y if targets is None else predicted == targets


def zero_gradients(gradient: Tensor) -> Tensor:
    """Which samples (n,) have an exactly zero gradient."""
    return ~gradient.flatten(1).any(dim=1)


def warn_if_stuck(gradient: Tensor, fooled: Tensor) -> None:
    """Warn when more than 1 % of samples have an exactly zero gradient and do not fool the model yet.

    A fooled sample may rightly have none: DLR is 1, and flat, where the true class is third.
    """
    stuck = int((zero_gradients(gradient) & ~fooled).sum())
    if stuck > 0.01 * len(gradient):
        warnings.warn(
            f"the input gradient is exactly zero for {stuck} of {len(gradient)} samples, which this attack cannot "
            "move: saturated logits (use loss='dlr') or a layer without gradient (use BPDA); "
            "confirm with attacks.square",
            ZeroGradientWarning,
            stacklevel=4,
        )
