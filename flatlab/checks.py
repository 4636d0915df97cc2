"""Checks of arguments, shared by every package: each error names the value, the bound and the cure."""

import math
import warnings

import torch
from torch import Tensor

from flatlab.names import nearest, one_of

__all__ = ["at_least", "inputs", "labels", "logits", "nearest", "nonnegative", "one_of", "positive", "radius"]


def nonnegative(name: str, value: float) -> float:
    """Return `value` as a float, or raise ValueError unless it is finite and >= 0."""
    number = float(value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
    return number


def positive(name: str, value: float) -> float:
    """Return `value` as a float, or raise ValueError unless it is finite and > 0."""
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}")
    return number


def at_least(name: str, value: int, minimum: int) -> int:
    """Return `value`, or raise ValueError unless it is an integer >= `minimum`."""
    if isinstance(value, bool) or not math.isfinite(value) or int(value) != value or value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {value!r}")
    return int(value)


def radius(eps: float) -> float:
    """Return a perturbation radius for inputs in [0, 1]; warn where it looks like 0-255 units."""
    value = nonnegative("eps", eps)
    if value > 1:
        warnings.warn(
            f"eps={value:g} exceeds the whole range [0, 1] of an input; for 8-bit units write eps={value:g}/255",
            stacklevel=3,
        )
    return value


def inputs(x: Tensor, *, box: bool = True) -> Tensor:
    """Return a batch (N, ...) of floating inputs, in [0, 1] if `box`; TypeError for integers, ValueError otherwise."""
    if not x.is_floating_point():
        raise TypeError(f"inputs must be floating point in [0, 1], got {x.dtype}; convert with x.float() / 255")
    if x.ndim < 2 or x.shape[0] == 0:
        raise ValueError(f"inputs must be a non-empty batch (N, ...), got shape {tuple(x.shape)}")
    if box:
        low, high = x.aminmax()
        if not (low >= -1e-6 and high <= 1 + 1e-6):  # written so that NaN fails too
            raise ValueError(
                f"inputs must lie in [0, 1], got values in [{float(low):g}, {float(high):g}]; "
                "scale them, and put any normalisation inside the model"
            )
    return x


def labels(y: Tensor, n: int, classes: int | None = None) -> Tensor:
    """Return integer labels (N,) that match a batch of `n` and, if given, lie in 0..classes-1."""
    if y.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"labels must be int64, got {y.dtype}")
    if y.shape != (n,):
        raise ValueError(f"labels must have shape ({n},) to match the inputs, got {tuple(y.shape)}")
    if classes is not None and n and (int(y.min()) < 0 or int(y.max()) >= classes):
        raise ValueError(f"labels must lie in 0..{classes - 1}, got {int(y.min())}..{int(y.max())}")
    return y


def logits(values: Tensor, n: int | None = None) -> Tensor:
    """Return finite logits (N, C) with C >= 1, or raise ValueError naming the first bad row."""
    if values.ndim != 2 or values.shape[1] < 1 or (n is not None and values.shape[0] != n):
        wanted = f"({n if n is not None else 'N'}, C)"
        raise ValueError(f"the model must return logits of shape {wanted}, got {tuple(values.shape)}")
    finite = values.isfinite().all(dim=1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise ValueError(f"the model returned non-finite logits, first at batch index {row}; check weights and inputs")
    return values
