"""What a batch may hold: uint8 images that become floats, codes that stay integers, and what goes with each sample."""

import torch
from torch import Tensor

from flatlab import checks

Targets = Tensor | tuple[Tensor, ...] | None
"""What goes with each of N samples: a target, or one a position (N, ...); several, such as (label, domain); or none."""


def as_float(x: Tensor) -> Tensor:
    """uint8 in 0..255 as float32 in [0, 1]; floats, and int64 codes of characters, as they are."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x


def targets(y: Tensor, n: int) -> Tensor:
    """Return integer targets of `n` samples: labels (N,), or (N, ...) with one for each position of a sample."""
    several = y.ndim > 1 and y.numel() > 0
    checks.labels(y.flatten(1)[:, 0] if several else y, n)
    return y


def targets_on(y: Targets, n: int, device: torch.device) -> Targets:
    """The targets of `n` samples, each checked as `targets` does, on `device`."""
    if y is None:
        return None
    return tuple(targets(part, n).to(device) for part in y) if isinstance(y, tuple) else targets(y, n).to(device)


def rows_of(y: Targets, index: Tensor) -> Targets:
    """The targets of some of the samples."""
    if y is None:
        return None
    return tuple(part[index] for part in y) if isinstance(y, tuple) else y[index]
