"""Densely connected network (Huang et al. 2017) in the small form of certified training (Xu et al. 2020).

Every layer sees the channels of all layers before it in its block. Between blocks a transition halves the channels and
the sides of the image; a hidden layer over all positions takes the place of the usual pooling.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.models.layers import hidden_head, normalize_colour


class _DenseLayer(nn.Module):
    """What came in, and convolutions 1x1 and 3x3 of it: (N, fan_in, H, W) -> (N, fan_in + growth, H, W)."""

    def __init__(self, fan_in: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(fan_in)
        self.conv1 = nn.Conv2d(fan_in, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv2(self.norm2(self.conv1(self.norm1(x).relu())).relu())
        return torch.cat([x, new], 1)


def densenet(
    shape: Sequence[int], classes: int, *, blocks: Sequence[int] = (2, 4, 4), growth: int = 32, hidden: int = 512
) -> nn.Sequential:
    """Blocks of dense layers with transitions in between; H and W must divide by 2^(len(blocks) - 1).

    Args:
        shape: of one input, such as (3, 32, 32).
        classes: number of logits.
        blocks: layers of each block.
        growth: channels that each layer adds; the first block starts from twice as many.
        hidden: units of the linear layer.
    """
    channels, rows, columns = shape
    checks.at_least("len(blocks)", len(blocks), 1)
    fan_in = 2 * checks.at_least("growth", growth, 1)
    factor = 2 ** (len(blocks) - 1)
    if rows % factor or columns % factor:
        raise ValueError(f"image size {rows}x{columns} must divide by {factor}; resize the images, or use fewer blocks")
    layers = [*normalize_colour(channels), nn.Conv2d(channels, fan_in, 3, padding=1, bias=False)]
    for index, count in enumerate(blocks):
        if index:
            halve = nn.Conv2d(fan_in, fan_in // 2, 1, bias=False)
            layers += [nn.BatchNorm2d(fan_in), nn.ReLU(), halve, nn.AvgPool2d(2)]
            fan_in //= 2
        for _ in range(checks.at_least("blocks", count, 1)):
            layers.append(_DenseLayer(fan_in, growth))
            fan_in += growth
    layers += [nn.BatchNorm2d(fan_in), nn.ReLU()]
    return nn.Sequential(*layers, *hidden_head(fan_in * (rows // factor) * (columns // factor), hidden, classes))
