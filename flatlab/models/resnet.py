"""Pre-activation residual networks for 32x32 images (He et al. 2016, Zagoruyko and Komodakis 2016).

Normalisation, activation, convolution, in this order, twice per block; the shortcut is the identity, or a 1x1
convolution of the activated input where the shape changes. `preact_resnet18` is the network of the fast adversarial
training literature, `wide_resnet` (28-10, 34-10) that of the robustness tables.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from flatlab import checks
from flatlab.models.layers import Normalize

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training images


class PreActBlock(nn.Module):
    """Two 3x3 convolutions with their shortcut: (N, fan_in, H, W) -> (N, width, H/stride, W/stride)."""

    def __init__(self, fan_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(fan_in)
        self.conv1 = nn.Conv2d(fan_in, width, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        changes = stride != 1 or fan_in != width
        self.shortcut = nn.Conv2d(fan_in, width, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.norm1(x).relu()
        identity = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(self.norm2(self.conv1(active)).relu()) + identity


def _resnet(shape: Sequence[int], classes: int, stem: int, stages: Sequence[tuple[int, int, int]]) -> nn.Sequential:
    """Stem, stages of (width, blocks, first stride), then pooled features to logits."""
    channels = shape[0]
    layers: list[nn.Module] = [Normalize(MEAN, STD)] if channels == 3 else []
    layers.append(nn.Conv2d(channels, stem, 3, 1, 1, bias=False))
    fan_in = stem
    for width, blocks, first in stages:
        for block in range(blocks):
            layers.append(PreActBlock(fan_in, width, first if block == 0 else 1))
            fan_in = width
    layers += [nn.BatchNorm2d(fan_in), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(fan_in, classes)]
    return nn.Sequential(*layers)


def preact_resnet18(shape: Sequence[int], classes: int, *, width: int = 64) -> nn.Sequential:
    """PreActResNet-18: four stages of two blocks, `width` to 8 `width` channels (11.2 million weights at 64)."""
    return _resnet(shape, classes, width, [(width, 2, 1), (2 * width, 2, 2), (4 * width, 2, 2), (8 * width, 2, 2)])


def wide_resnet(shape: Sequence[int], classes: int, *, depth: int = 28, widen: int = 10) -> nn.Sequential:
    """WRN-`depth`-`widen`: three stages of (depth - 4) / 6 blocks (28-10 has 36.5 million weights)."""
    checks.at_least("depth", depth, 10)
    if (depth - 4) % 6:
        raise ValueError(f"depth must be 6 n + 4, such as 16, 28 or 34, got {depth}")
    blocks = (depth - 4) // 6
    return _resnet(shape, classes, 16, [(16 * widen, blocks, 1), (32 * widen, blocks, 2), (64 * widen, blocks, 2)])
