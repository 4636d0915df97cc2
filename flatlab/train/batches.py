"""What a batch may hold: uint8 images that become floats, codes that stay integers, one target or several a sample."""

import torch
from torch import Tensor

from flatlab import checks


def as_float(x: Tensor) -> Tensor:
    """uint8 in 0..255 as float32 in [0, 1]; floats, and int64 codes of characters, as they are."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x


def targets(y: Tensor, n: int) -> Tensor:
    """Return integer targets of `n` samples: labels (N,), or (N, ...) with one for each position of a sample."""
    several = y.ndim > 1 and y.numel() > 0
    checks.labels(y.flatten(1)[:, 0] if several else y, n)
    return y
