"""Input transforms that are not differentiable, as modules around a classifier.

A defense that rounds or compresses its input blocks gradient attacks without being robust (Athalye, Carlini, Wagner
2018). With `bpda=True` the backward pass pretends that the transform is the identity (backward pass differentiable
approximation, also called straight-through gradient): this is the network to attack. With `bpda=False` the gradient is
the true one, exactly zero: attacks fail, and a robust accuracy measured that way means nothing.
"""

import io

import numpy as np
import torch
from torch import Tensor, nn

from flatlab import checks

_MAX_SIDE = 65_500  # pixels of a JPEG file


class BitDepth(nn.Module):
    """`model` behind rounding each pixel to 2^bits levels (Xu, Evans, Qi 2018).

    Args:
        model: (N, ...) in [0, 1] -> logits.
        bits: 1 to 16; 8 leaves 8-bit images as they are.
        bpda: straight-through gradients.
    """

    def __init__(self, model: nn.Module, *, bits: int, bpda: bool = True) -> None:
        super().__init__()
        if checks.at_least("bits", bits, 1) > 16:
            raise ValueError(f"bits must lie in 1..16, got {bits}")
        self.model, self.bits, self.bpda = model, bits, bpda
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        return self.model(straight_through(x, reduce_bits(x, self.bits), bpda=self.bpda))


class Jpeg(nn.Module):
    """`model` behind JPEG compression in memory (Guo et al. 2018), by Pillow, on the CPU.

    Args:
        model: (N, C, H, W) in [0, 1], C = 1 or 3, -> logits.
        quality: 1 (smallest file) to 100.
        bpda: straight-through gradients.
    """

    def __init__(self, model: nn.Module, *, quality: int, bpda: bool = True) -> None:
        super().__init__()
        if checks.at_least("quality", quality, 1) > 100:
            raise ValueError(f"quality must lie in 1..100, got {quality}")
        self.model, self.quality, self.bpda = model, quality, bpda
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        return self.model(straight_through(x, compress(x, self.quality), bpda=self.bpda))


def reduce_bits(x: Tensor, bits: int) -> Tensor:
    """Each value of x in [0, 1] rounded to the nearest of 2^bits evenly spaced levels, detached."""
    levels = 2**bits - 1
    return (x.detach() * levels).round_().div_(levels)


def compress(x: Tensor, quality: int) -> Tensor:
    """Images (N, C, H, W) in [0, 1] after 8-bit rounding and JPEG, detached; values outside are clipped first.

    Raises:
        ValueError: images that have neither 1 nor 3 channels.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"JPEG needs images (N, C, H, W) with C = 1 or 3, got shape {tuple(x.shape)}")
    pixels = (x.detach().clamp(0, 1) * 255).round_().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = _grey(pixels[..., 0], quality)[..., None] if x.shape[1] == 1 else _colour(pixels, quality)
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).to(x).div_(255)


def _colour(pixels: np.ndarray, quality: int) -> np.ndarray:
    """(N, H, W, 3), one file per image: the colours of a JPEG are stored at half the resolution, across blocks."""
    return np.stack([_round_trip(image, quality) for image in pixels])


def _grey(pixels: np.ndarray, quality: int) -> np.ndarray:
    """(N, H, W), many images per file: grey 8 x 8 blocks are coded each by itself, so the pixels are the same."""
    _, height, width = pixels.shape
    # The codec fills the last blocks of an image by repeating its edge; done here, each image fills whole blocks.
    padded = np.pad(pixels, ((0, 0), (0, -height % 8), (0, -width % 8)), mode="edge")
    per_file = _MAX_SIDE // padded.shape[1]
    files = [padded[first : first + per_file] for first in range(0, len(padded), per_file)]
    decoded = [_round_trip(file.reshape(-1, file.shape[2]), quality).reshape(file.shape) for file in files]
    return np.concatenate(decoded)[:, :height, :width]


def _round_trip(image: np.ndarray, quality: int) -> np.ndarray:
    from PIL import Image

    with io.BytesIO() as file:
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))


def straight_through(x: Tensor, transformed: Tensor, *, bpda: bool) -> Tensor:
    """The values of `transformed`, with the gradient of x if `bpda`, and with a zero gradient otherwise."""
    # x - x is zero to the last bit, so the values are those of the transform. Multiplied by 0 it keeps x in the graph:
    # without it autograd would complain about an input that was not used, where the truth is a gradient of zero.
    return transformed + (1.0 if bpda else 0.0) * (x - x.detach())
