"""Perturbation sets, and the least value of an affine function over each of them.

A set is a box with, perhaps, something that makes it smaller: an Lp ball, a budget of changed pixels or words. All it
has to know is `lower(A)`, the minimum of <A_s, x> over the set, for every row s and sample; maxima follow by symmetry.
The minimum is attained, and its gradient with respect to A is the point that attains it (`worst`).
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flatlab import checks
from flatlab.bounds.interval import Ball, Interval


class Box:
    """All x with low <= x <= high. Sets are never written to: for another radius, make another set.

    Args:
        low, high: (B, ...) each.

    Raises:
        ValueError: low > high somewhere, or NaN.
    """

    exact_behind_affine = True
    """Whether the interval of an affine layer right behind the set is the smallest that there is."""

    _center: Tensor | None = None  # where it is not the middle of the box

    def __init__(self, low: Tensor, high: Tensor) -> None:
        if low.shape != high.shape:
            raise ValueError(f"low has shape {tuple(low.shape)}, high {tuple(high.shape)}: give equal shapes")
        _floating("low", low)
        _floating("high", high)
        bad = ~(low <= high)  # written so that NaN is bad, too
        if bool(bad.any()):
            at = tuple(bad.nonzero()[0].tolist())
            raise ValueError(
                f"a box needs low <= high everywhere, got {float(low[at]):g} and {float(high[at]):g} at {at}"
            )
        self.low, self.high = low, high

    @property
    def center(self) -> Tensor:
        """The middle of a box; of other sets the clean input that they are around, (B, ...)."""
        return (self.low + self.high) / 2 if self._center is None else self._center

    def interval(self) -> Interval:
        """The smallest box around the set."""
        return Interval(self.low, self.high)

    def lower(self, a: Tensor) -> Tensor:
        """min over the set of <a[s, b], x[b]>: (S, B, ...) -> (S, B)."""
        return _dot(a, self.center) - _dot(a.abs(), (self.high - self.low) / 2)

    def map(self, f: Callable[[Tensor], Tensor]) -> "Box":
        """The set with another one of its kind for each sample: all that is (B, ...) goes through f."""
        made = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and value.shape == self.low.shape:
                setattr(made, name, f(value))
        return made

    def worst(self, a: Tensor) -> Tensor:
        """A point of the set at which `lower` is attained: (S, B, ...) -> (S, B, ...)."""
        with torch.enable_grad():
            leaf = a.detach().requires_grad_()
            return torch.autograd.grad(self.lower(leaf).sum(), leaf)[0]


class LpBall(Box):
    """All x with ||x - x0||_p <= eps, within `clip` if that is given.

    Args:
        x: centres x0 (B, ...), inside the clip range.
        eps: radius, a number, or for p = inf a tensor that broadcasts against x (one number per channel, say).
        p: 1, 2 or inf.
        clip: the range of valid inputs, such as (0, 1), or None. It is used exactly, for every p.
    """

    def __init__(
        self, x: Tensor, eps: float | Tensor, p: float = math.inf, *, clip: tuple[float, float] | None = None
    ) -> None:
        _floating("x", x)
        if p not in (1, 2, math.inf):
            raise ValueError(f"p must be 1, 2 or inf, got {p!r}; for a number of changed entries use L0Ball")
        radius = torch.as_tensor(eps, dtype=x.dtype, device=x.device)
        try:
            fits = torch.broadcast_shapes(radius.shape, x.shape) == x.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(f"eps of shape {tuple(radius.shape)} does not broadcast against x of {tuple(x.shape)}")
        if not bool((radius >= 0).all()) or not bool(radius.isfinite().all()):
            raise ValueError(f"eps must be finite and >= 0, got {float(radius.min()):g}")
        if radius.ndim and p != math.inf:
            raise ValueError("eps must be one number unless p = inf")
        low, high = x - radius, x + radius
        if clip is not None:
            if not bool(((x >= clip[0]) & (x <= clip[1])).all()):
                raise ValueError(f"x must lie in the clip range {clip}; scale it, and normalise inside the model")
            low, high = low.clamp(min=clip[0]), high.clamp(max=clip[1])
        super().__init__(low, high)
        self.x, self.eps, self.p, self.clip = x, radius, p, clip
        self._center = None if p == math.inf else x
        self.exact_behind_affine = p == math.inf or clip is None

    def interval(self) -> Interval:
        """The box around the ball, which keeps its shape for the first affine layer."""
        if self.p == math.inf:
            return super().interval()
        return Interval(self.low, self.high, ball=Ball(self.x, self.eps.expand_as(self.x[:1]), self.p))

    def lower(self, a: Tensor) -> Tensor:
        if self.p == math.inf:
            return super().lower(a)
        flat, x = a.flatten(2), self.x.flatten(1)
        if self.clip is None:
            return _dot(a, self.x) - self.eps * flat.norm(p=2 if self.p == 2 else math.inf, dim=2)
        down, up = (x - self.low.flatten(1)).expand_as(flat), (self.high.flatten(1) - x).expand_as(flat)
        room = torch.where(flat > 0, down, up)  # how far each entry can go in its good direction
        if self.p == 1:
            gain, order = flat.abs().sort(dim=2, descending=True)
            room = room.gather(2, order)
            spent = room.cumsum(2) - room
            return _dot(a, self.x) - (gain * torch.minimum(room, (self.eps - spent).clamp(min=0))).sum(2)
        return _dot(a, self.x) - _capped_ball(flat, room, self.eps)


def _capped_ball(a: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """max of <|a|, d> over ||d||_2 <= eps, 0 <= d <= room, by its dual: any multiplier bounds it from above."""
    size = a.abs()
    with torch.no_grad():  # ||min(size / t, room)|| falls as t rises: find where it is eps
        low = torch.zeros_like(size[..., :1])
        high = size.norm(dim=-1, keepdim=True) / eps.clamp(min=1e-12) + 1e-12
        for _ in range(40):
            t = (low + high) / 2
            small = torch.minimum(size / t, room).norm(dim=-1, keepdim=True) <= eps
            low, high = torch.where(small, low, t), torch.where(small, t, high)
        t = torch.where(room.norm(dim=-1, keepdim=True) <= eps, torch.zeros_like(high), high)
        step = torch.where(t > 0, torch.minimum(size / t.clamp(min=1e-12), room), room)
        slack = t * (eps**2 - step.square().sum(-1, keepdim=True)) / 2
    return (size * step).sum(-1) + slack.squeeze(-1).clamp(min=0)


class L0Ball(Box):
    """All x that differ from x0 in at most k entries, each anywhere in `clip`.

    Args:
        x: centres (B, ...).
        k: how many entries may change, >= 0.
        clip: their range.
        share: how far towards the ends of that range they may go, as a share of the way, in (0, 1].
    """

    exact_behind_affine = False

    def __init__(self, x: Tensor, k: int, *, clip: tuple[float, float] = (0.0, 1.0), share: float = 1.0) -> None:
        _floating("x", x)
        checks.at_least("k", k, 0)
        if not 0 < share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {share!r}")
        low, high = (torch.full_like(x, c) for c in clip)
        low, high = (low.minimum(x), high.maximum(x)) if k else (x, x)
        if share < 1:
            low, high = (x + share * (end - x) for end in (low, high))
        super().__init__(low, high)
        self.x, self._center, self.k = x, x, k

    def lower(self, a: Tensor) -> Tensor:
        flat, x = a.flatten(2), self.x.flatten(1)
        gain = torch.where(flat > 0, flat * (x - self.low.flatten(1)), -flat * (self.high.flatten(1) - x))
        return _dot(a, self.x) - gain.topk(min(self.k, gain.shape[2]), dim=2).values.sum(2)


class Synonyms(Box):
    """Sequences of word vectors of which at most `budget` are replaced by one of their candidates.

    Args:
        x: the clean vectors (B, T, D), with positional embeddings added if the model has them.
        candidates: (B, T, K, D), likewise.
        mask: which candidates exist, bool (B, T, K).
        budget: how many positions may change, >= 0.
    """

    exact_behind_affine = False

    def __init__(self, x: Tensor, candidates: Tensor, mask: Tensor, budget: int) -> None:
        _floating("x", x)
        _floating("candidates", candidates)
        if mask.dtype != torch.bool:
            raise TypeError(f"mask must be bool, True where a candidate exists, got {mask.dtype}")
        lead, vectors = candidates.shape[:3], candidates.shape[3:]
        if lead[:2] != x.shape[:2] or vectors != x.shape[2:] or mask.shape != lead:
            raise ValueError(
                f"x (B, T, D), candidates (B, T, K, D) and mask (B, T, K) do not fit: got {tuple(x.shape)}, "
                f"{tuple(candidates.shape)} and {tuple(mask.shape)}"
            )
        checks.at_least("budget", budget, 0)
        choices = torch.where(mask[..., None], candidates, x[:, :, None])
        everything = torch.cat([x[:, :, None], choices], dim=2) if budget else x[:, :, None]
        super().__init__(everything.amin(2), everything.amax(2))
        self.x, self._center, self.choices, self.budget = x, x, choices, budget

    def lower(self, a: Tensor) -> Tensor:
        # positions contribute independently, so the best `budget` of them are those of the largest gains
        change = torch.einsum("sbtd,btkd->sbtk", a, self.choices - self.x[:, :, None])
        gain = (-change).max(3).values.clamp(min=0)  # one of the best, where amax's gradient would mix them
        return _dot(a, self.x) - gain.topk(min(self.budget, gain.shape[2]), dim=2).values.sum(2)


def _dot(a: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("sbn,bn->sb", a.flatten(2), x.flatten(1).to(a.dtype))


def _floating(name: str, x: Any) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"{name} must be a floating-point tensor to be perturbed, got {kind}; perturb embeddings, not codes"
        )
    if x.ndim == 0 or not bool(x.isfinite().all()):
        raise ValueError(f"{name} must be a batch of finite numbers, got NaN, infinity or a scalar; check the data")
