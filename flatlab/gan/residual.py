"""The residual generator and critic of WGAN-GP for images (Gulrajani et al. 2017).

    up      x -> conv1(2x) + conv3(relu(BN(conv3(2x of relu(BN(x))))))
    down    x -> conv1(mean of 2x2 of x) + mean of 2x2 of conv3(relu(LN(conv3(relu(LN(x))))))

The blocks are those of the authors' code for images of 64 pixels, all of one width; their networks for CIFAR-10 have
128 channels, z of 128 numbers, and Adam with betas (0, 0.9). The critic has layer normalisation (LN), over the channels
and pixels of a sample with a scale for each channel: batch normalisation (BN) would mix samples, and its penalty is on
the slope at each.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks


class ResNetGenerator(nn.Sequential):
    """z (N, z_dim) -> images (N, C, H, W): a linear layer to 4x4, then residual blocks, each of which doubles the side.

    Args:
        image_size: pixels a side: 8, 16, 32 or 64.
        channels: of an image.
        z_dim: numbers in z.
        width: channels of every block.

    Raises:
        ValueError: another size, or a number below 1.
    """

    def __init__(self, image_size: int, channels: int = 3, z_dim: int = 128, width: int = 128) -> None:
        doublings = _doublings(image_size)
        checks.at_least("width", width, 1)
        super().__init__(
            nn.Linear(checks.at_least("z_dim", z_dim, 1), width * 16),
            nn.Unflatten(1, (width, 4, 4)),
            *[_Up(width) for _ in range(doublings)],
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, checks.at_least("channels", channels, 1), 3, padding=1),
            nn.Tanh(),
        )
        self.z_dim = z_dim


class ResNetDiscriminator(nn.Sequential):
    """Images (N, C, H, W) -> (N, 1): residual blocks that halve the side down to 4x4, then a linear layer.

    Args:
        image_size: pixels a side: 8, 16, 32 or 64.
        channels: of an image.
        width: channels of every block.

    Raises:
        ValueError: another size, or a number below 1.
    """

    def __init__(self, image_size: int, channels: int = 3, width: int = 128) -> None:
        doublings = _doublings(image_size)
        checks.at_least("width", width, 1)
        super().__init__(
            nn.Conv2d(checks.at_least("channels", channels, 1), width, 3, padding=1),
            *[_Down(width) for _ in range(doublings)],
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(width * 16, 1),
        )


def _doublings(image_size: int) -> int:
    if image_size not in (8, 16, 32, 64):
        raise ValueError(f"image_size must be 8, 16, 32 or 64, got {image_size!r}: resize the images")
    return (image_size // 4).bit_length() - 1


class _Up(nn.Module):
    """Doubles the side: the nearest pixel, then 3x3 convolutions; the shortcut is a 1x1 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.third, self.shortcut = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.third(self.second(F.interpolate(self.first(x), scale_factor=2)))
        return F.interpolate(self.shortcut(x), scale_factor=2) + inner


class _Down(nn.Module):
    """Halves the side: 3x3 convolutions, then means of 2x2 pixels; the shortcut is a 1x1 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.GroupNorm(1, width),  # one group: layer normalisation
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(1, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.inner(x), 2) + self.shortcut(F.avg_pool2d(x, 2))
