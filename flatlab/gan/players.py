"""Generators and critics for images of 8 to 64 pixels a side: perceptrons and the DCGAN (Radford et al. 2016).

A generator maps z (N, z_dim), standard normal, to images (N, C, H, W) in [-1, 1] and knows its `z_dim`; a critic maps
images to (N, 1), one number each. All are chains of layers, so that several of them can be stacked and trained side by
side (`flatlab.models.stacked`).

The DCGAN is that of Heusel et al. 2017: 5x5 convolutions of stride 2, batch normalisation in every layer but the
critic's first, leaky ReLU of slope 0.2 in the critic, weights from N(0, 0.02^2). There z is uniform on [-1, 1]; here it
is normal. From 8 pixels on, the side is halved until it is 2, or 4 for images of 64 pixels.
"""

from itertools import pairwise

import torch
from torch import nn

from flatlab import checks

SLOPE = 0.2  # of leaky ReLU


class MLPGenerator(nn.Sequential):
    """Two hidden layers with ReLU, and tanh.

    Args:
        image_size: pixels a side.
        channels: of an image.
        z_dim: numbers in z.
        width: of the hidden layers.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, image_size: int, channels: int = 1, z_dim: int = 16, width: int = 64) -> None:
        pixels = checks.at_least("channels", channels, 1) * checks.at_least("image_size", image_size, 1) ** 2
        super().__init__(
            nn.Linear(checks.at_least("z_dim", z_dim, 1), checks.at_least("width", width, 1)),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, pixels),
            nn.Tanh(),
            nn.Unflatten(1, (channels, image_size, image_size)),
        )
        self.z_dim = z_dim


class MLPDiscriminator(nn.Sequential):
    """Two hidden layers with leaky ReLU.

    Args:
        image_size: pixels a side.
        channels: of an image.
        width: of the hidden layers.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, image_size: int, channels: int = 1, width: int = 64) -> None:
        pixels = checks.at_least("channels", channels, 1) * checks.at_least("image_size", image_size, 1) ** 2
        super().__init__(
            nn.Flatten(),
            nn.Linear(pixels, checks.at_least("width", width, 1)),
            nn.LeakyReLU(SLOPE),
            nn.Linear(width, width),
            nn.LeakyReLU(SLOPE),
            nn.Linear(width, 1),
        )


class DCGANGenerator(nn.Sequential):
    """A linear layer to the smallest side, then transposed convolutions that double it; widths fall to `width`.

    Args:
        image_size: pixels a side: 8, 16, 32 or 64.
        channels: of an image.
        z_dim: numbers in z.
        width: channels before the last layer; the paper's networks have 64.

    Raises:
        ValueError: another size, or a number below 1.
    """

    def __init__(self, image_size: int, channels: int = 1, z_dim: int = 100, width: int = 64) -> None:
        start, widths = _pyramid(image_size, width)
        outwards = [*reversed(widths), checks.at_least("channels", channels, 1)]
        layers: list[nn.Module] = []
        for before, after in pairwise(outwards):
            layers += [nn.BatchNorm2d(before), nn.ReLU()]
            layers.append(nn.ConvTranspose2d(before, after, 5, 2, padding=2, output_padding=1))
        super().__init__(
            nn.Linear(checks.at_least("z_dim", z_dim, 1), widths[-1] * start**2),
            nn.Unflatten(1, (widths[-1], start, start)),
            *layers,
            nn.Tanh(),
        )
        self.z_dim = z_dim
        self.apply(_small_weights)


class DCGANDiscriminator(nn.Sequential):
    """Convolutions that halve the side while the widths double, then a linear layer.

    Args:
        image_size: pixels a side: 8, 16, 32 or 64.
        channels: of an image.
        width: channels after the first layer; the paper's networks have 64.
        norm: with batch normalisation, which penalties on slopes do not allow.

    Raises:
        ValueError: another size, or a number below 1.
    """

    def __init__(self, image_size: int, channels: int = 1, width: int = 64, *, norm: bool = True) -> None:
        start, widths = _pyramid(image_size, width)
        layers: list[nn.Module] = []
        for before, after in pairwise([checks.at_least("channels", channels, 1), *widths]):
            batch_norm = [nn.BatchNorm2d(after)] if norm and layers else []
            layers += [nn.Conv2d(before, after, 5, 2, padding=2), *batch_norm, nn.LeakyReLU(SLOPE)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(widths[-1] * start**2, 1))
        self.apply(_small_weights)


def _pyramid(image_size: int, width: int) -> tuple[int, list[int]]:
    """The smallest side, and the widths from the layer next to the image inwards."""
    if image_size not in (8, 16, 32, 64):
        raise ValueError(f"image_size must be 8, 16, 32 or 64, got {image_size!r}: resize the images")
    start = 4 if image_size == 64 else 2
    halvings = (image_size // start).bit_length() - 1
    return start, [checks.at_least("width", width, 1) * 2**k for k in range(halvings)]


@torch.no_grad()
def _small_weights(layer: nn.Module) -> None:
    """Initial weights of the paper; biases are 0."""
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        layer.weight.normal_(0, 0.02)
        assert layer.bias is not None
        layer.bias.zero_()
