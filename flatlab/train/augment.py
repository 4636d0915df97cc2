"""Augmentation of a whole batch at once, on the device where it lies."""

import torch.nn.functional as F
from torch import Tensor

from flatlab.streams import Streams


def crop_flip(x: Tensor, streams: Streams, *, pad: int = 4) -> Tensor:
    """Random crops after zero padding by `pad` pixels, and horizontal flips with probability 1/2.

    Args:
        x: (N, C, H, W) of any type.
        streams: random streams; each seed's block of rows draws from its own.
        pad: pixels added on each side before cropping back to (H, W).
    """
    n, channels, height, width = x.shape
    shifts = streams.integers((n, 2), 2 * pad + 1)
    flips = streams.integers((n, 1), 2).bool()
    rows = shifts[:, :1] + streams.arange(height)
    columns = shifts[:, 1:] + streams.arange(width)
    columns = columns.where(~flips, columns.flip(1))
    padded = F.pad(x, (pad, pad, pad, pad))
    rows = rows[:, None, :, None].expand(n, channels, height, padded.shape[-1])
    columns = columns[:, None, None, :].expand(n, channels, height, width)
    return padded.gather(2, rows).gather(3, columns)
