"""Pre-activation residual networks for 32x32 images (He et al. 2016, Zagoruyko and Komodakis 2016).

Normalisation, activation, convolution, in this order, twice per block; the shortcut is the identity, or a 1x1
convolution of the activated input where the shape changes. `preact_resnet18` is the network of the fast adversarial
training literature, `wide_resnet` (28-10, 34-10) that of the robustness tables.

Both take `norm="group"` in place of batch normalisation: GroupNorm (Wu and He 2018) normalises an image by itself, over
groups of its channels, so that a prediction depends neither on the rest of the batch nor on running statistics that one
method moves more often than another, or that hold for one domain alone. There are 8 groups: with the 32 of that paper
a group of a narrow network would be a channel or two. Where 8 does not divide the channels there are as many groups as
the largest power of two up to 8 that does.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from flatlab import checks
from flatlab.models.layers import NORMS, hidden_head, normalize_colour


class PreActBlock(nn.Module):
    """Two 3x3 convolutions with their shortcut: (N, fan_in, H, W) -> (N, width, H/stride, W/stride)."""

    def __init__(
        self, fan_in: int, width: int, stride: int, make_norm: Callable[[int], nn.Module] = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.norm1 = make_norm(fan_in)
        self.conv1 = nn.Conv2d(fan_in, width, 3, stride, 1, bias=False)
        self.norm2 = make_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        changes = stride != 1 or fan_in != width
        self.shortcut = nn.Conv2d(fan_in, width, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.norm1(x).relu()
        identity = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(self.norm2(self.conv1(active)).relu()) + identity


def _features(channels: int, stem: int, stages: Sequence[tuple[int, int, int]], norm: str) -> list[nn.Module]:
    """Stem and stages of (width, blocks, first stride), up to the last activation."""
    make_norm = NORMS[checks.one_of("norm", norm, NORMS)]
    layers = normalize_colour(channels)
    layers.append(nn.Conv2d(channels, stem, 3, 1, 1, bias=False))
    fan_in = stem
    for width, blocks, first in stages:
        for block in range(blocks):
            layers.append(PreActBlock(fan_in, width, first if block == 0 else 1, make_norm))
            fan_in = width
    return [*layers, make_norm(fan_in), nn.ReLU()]


def _pooled_head(features: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes)]


def preact_resnet18(shape: Sequence[int], classes: int, *, width: int = 64, norm: str = "batch") -> nn.Sequential:
    """PreActResNet-18: four stages of two blocks (11.2 million weights at width 64).

    Args:
        shape: (C, H, W) of one input.
        classes: number of logits.
        width: channels of the first stage; the last has 8 times as many.
        norm: "batch" or "group".
    """
    stages = [(width, 2, 1), (2 * width, 2, 2), (4 * width, 2, 2), (8 * width, 2, 2)]
    return nn.Sequential(*_features(shape[0], width, stages, norm), *_pooled_head(8 * width, classes))


def wide_resnet(
    shape: Sequence[int],
    classes: int,
    *,
    depth: int = 28,
    widen: int = 10,
    pooling: bool = True,
    hidden: int = 512,
    norm: str = "batch",
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
        norm: "batch" or "group".
    """
    checks.at_least("depth", depth, 10)
    checks.at_least("widen", widen, 1)
    if (depth - 4) % 6:
        raise ValueError(f"depth must be 6 n + 4, such as 16, 28 or 34, got {depth}")
    blocks = (depth - 4) // 6
    channels, rows, columns = shape
    stages = [(16 * widen, blocks, 1), (32 * widen, blocks, 2), (64 * widen, blocks, 2)]
    layers = _features(channels, 16, stages, norm)
    if pooling:
        return nn.Sequential(*layers, *_pooled_head(64 * widen, classes))
    return nn.Sequential(*layers, *hidden_head(64 * widen * -(-rows // 4) * -(-columns // 4), hidden, classes))
