"""Checks of what the theory and the measures take; each error names the value and the cure. All in float64."""

import math

import torch
from torch import Tensor

SLACK = 1e-9  # rounding that a reward of exactly 1, or a sum of probabilities, may carry
Number = float | Tensor


def rewards(name: str, r: Tensor, outputs: int | None = None, *, bounded: bool = False) -> Tensor:
    """Return finite rewards (..., K), K = `outputs` if given, in [-1, 1] if `bounded`, or raise ValueError."""
    values = torch.as_tensor(r).double()
    if values.ndim < 1 or values.numel() == 0 or (outputs is not None and values.shape[-1] != outputs):
        wanted = "K >= 1" if outputs is None else f"K = {outputs}"
        raise ValueError(f"{name} must have shape (..., K) with {wanted}, got {tuple(values.shape)}")
    if not values.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity: every output needs a finite number")
    low, high = (float(end) for end in values.aminmax())
    if bounded and max(-low, high) > 1 + SLACK:
        raise ValueError(f"{name} must lie in [-1, 1], got {low:g}..{high:g}: divide by the largest")
    return values


def probabilities(name: str, p: Tensor, outputs: int | None = None, *, positive: bool = False) -> Tensor:
    """Return probabilities (..., K) that sum to 1 (none zero, if `positive`: a KL needs that), or raise ValueError."""
    values, slack = rewards(name, p, outputs), SLACK if p.dtype == torch.float64 else 1e-5
    total, low = values.sum(-1), float(values.min())
    if low < 0 or float((total - 1).abs().max()) > slack:
        raise ValueError(f"{name} must be >= 0 and sum to 1, got minimum {low:g} and sums {total.tolist()}")
    if positive and low == 0:
        raise ValueError(f"{name} must be > 0 at every output, or the KL penalty is infinite; got 0")
    return values


def expanded(name: str, value: Tensor, batch: torch.Size) -> Tensor:
    """Return `value` (..., n) as (prod(batch), n), one row a policy of the batch, or raise ValueError."""
    try:
        return value.detach().expand(*batch, value.shape[-1]).reshape(-1, value.shape[-1])
    except RuntimeError:
        raise ValueError(f"{name} of shape {tuple(value.shape)} does not fit a batch of {tuple(batch)}") from None


def number(name: str, value: Number, low: float = 0.0, high: float = math.inf, *, strict: bool = False) -> Tensor:
    """Return a number, or a tensor of them; ValueError unless finite and in [low, high], or (low, high) if `strict`."""
    found = torch.as_tensor(value, dtype=torch.float64)
    inside = (found > low) & (found < high) if strict else (found >= low) & (found <= high + SLACK)
    good = inside & found.isfinite()
    if not good.all():
        interval = f"in {'(['[not strict]}{low:g}, {high:g}{')]'[not strict]}"
        raise ValueError(f"{name} must be finite and {interval}, got {float(found[~good].flatten()[0]):g}")
    return found
