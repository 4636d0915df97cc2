"""Pre-activation residual networks for 32x32 images (He et al. 2016, Zagoruyko and Komodakis 2016).

Normalisation, activation, convolution, in this order, twice per block; the shortcut is the identity, or a 1x1
convolution of the activated input where the shape changes. `preact_resnet18` is the network of the fast adversarial
training literature, `wide_resnet` (28-10, 34-10) that of the robustness tables.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from flatlab import checks
from flatlab.models.layers import hidden_head, normalize_colour


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


def _features(channels: int, stem: int, stages: Sequence[tuple[int, int, int]]) -> list[nn.Module]:
    """Stem and stages of (width, blocks, first stride), up to the last activation."""
    layers = normalize_colour(channels)
    layers.append(nn.Conv2d(channels, stem, 3, 1, 1, bias=False))
    fan_in = stem
    for width, blocks, first in stages:
        for block in range(blocks):
            layers.append(PreActBlock(fan_in, width, first if block == 0 else 1))
            fan_in = width
    return [*layers, nn.BatchNorm2d(fan_in), nn.ReLU()]


def _pooled_head(features: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes)]


def preact_resnet18(shape: Sequence[int], classes: int, *, width: int = 64) -> nn.Sequential:
    """PreActResNet-18: four stages of two blocks (11.2 million weights at width 64).

    Args:
        shape: (C, H, W) of one input.
        classes: number of logits.
        width: channels of the first stage; the last has 8 times as many.
    """
    stages = [(width, 2, 1), (2 * width, 2, 2), (4 * width, 2, 2), (8 * width, 2, 2)]
    return nn.Sequential(*_features(shape[0], width, stages), *_pooled_head(8 * width, classes))


def wide_resnet(
    shape: Sequence[int], classes: int, *, depth: int = 28, widen: int = 10, pooling: bool = True, hidden: int = 512
) -> nn.Sequential:
    """WRN-`depth`-`widen`: three stages of (depth - 4) / 6 blocks (28-10 has 36.5 million weights).

    Args:
        shape: of one input, such as (3, 32, 32).
        classes: number of logits.
        depth: 6 n + 4, such as 10, 16, 28 or 34.
        widen: the stages have 16, 32 and 64 times as many channels.
        pooling: average the last channels over the image; without, a layer of `hidden` units sees every position, as
            in certified training (10-8 has 21.5 million weights so).
        hidden: units of that layer.
    """
    checks.at_least("depth", depth, 10)
    checks.at_least("widen", widen, 1)
    if (depth - 4) % 6:
        raise ValueError(f"depth must be 6 n + 4, such as 16, 28 or 34, got {depth}")
    blocks = (depth - 4) // 6
    channels, rows, columns = shape
    layers = _features(channels, 16, [(16 * widen, blocks, 1), (32 * widen, blocks, 2), (64 * widen, blocks, 2)])
    if pooling:
        return nn.Sequential(*layers, *_pooled_head(64 * widen, classes))
    return nn.Sequential(*layers, *hidden_head(64 * widen * -(-rows // 4) * -(-columns // 4), hidden, classes))
