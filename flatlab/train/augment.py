"""Augmentation of a whole batch at once, on the device where it lies."""

import torch.nn.functional as F
from torch import Tensor

from flatlab.rng import SeedGenerators


def crop_flip(x: Tensor, rng: SeedGenerators, *, pad: int = 4) -> Tensor:
    """Random crops after zero padding by `pad` pixels, and horizontal flips with probability 1/2.

    Args:
        x: (N, C, H, W) of any type.
        rng: one generator a seed; each seed's block of rows draws from its own.
        pad: pixels added on each side before cropping back to (H, W).
    """
    n, channels, height, width = x.shape
    shifts = rng.integers((n, 2), 2 * pad + 1)
    flips = rng.integers((n, 1), 2).bool()
    rows = shifts[:, :1] + rng.arange(height)
    columns = shifts[:, 1:] + rng.arange(width)
    columns = columns.where(~flips, columns.flip(1))
    padded = F.pad(x, (pad, pad, pad, pad))
    rows = rows[:, None, :, None].expand(n, channels, height, padded.shape[-1])
    columns = columns[:, None, None, :].expand(n, channels, height, width)
    return padded.gather(2, rows).gather(3, columns)
