"""Residual network of grouped convolutions (Xie et al. 2017) in the small form of certified training (Xu et al. 2020).

As there, a block normalises once, after its first convolution, and a hidden layer over all positions takes the place
of the usual pooling.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from flatlab import checks
from flatlab.models.layers import hidden_head, normalize_colour


class _Block(nn.Module):
    """Convolutions 1x1, grouped 3x3, 1x1 and a shortcut: (N, fan_in, H, W) -> (N, 2 inner, H/stride, W/stride)."""

    def __init__(self, fan_in: int, inner: int, groups: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, inner, 1, bias=False)
        self.norm = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=groups)
        self.conv3 = nn.Conv2d(inner, 2 * inner, 1)
        changes = stride != 1 or fan_in != 2 * inner
        self.shortcut = nn.Conv2d(fan_in, 2 * inner, 1, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.shortcut is None else self.shortcut(x)
        hidden = self.conv2(self.norm(self.conv1(x)).relu()).relu()
        return (self.conv3(hidden) + identity).relu()


def resnext(
    shape: Sequence[int],
    classes: int,
    *,
    blocks: Sequence[int] = (1, 1, 1),
    cardinality: int = 2,
    width: int = 32,
    hidden: int = 512,
) -> nn.Sequential:
    """Stages of blocks; each stage after the first halves the sides of the image and doubles the channels.

    Args:
        shape: of one input, such as (3, 32, 32).
        classes: number of logits.
        blocks: of each stage.
        cardinality: groups of the grouped convolutions.
        width: channels of each group in the first stage.
        hidden: units of the linear layer.
    """
    channels, rows, columns = shape
    checks.at_least("len(blocks)", len(blocks), 1)
    inner = checks.at_least("cardinality", cardinality, 1) * checks.at_least("width", width, 1)
    fan_in = 16
    layers = [*normalize_colour(channels), nn.Conv2d(channels, fan_in, 3, padding=1), nn.ReLU()]
    for stage, count in enumerate(blocks):
        for block in range(checks.at_least("blocks", count, 1)):
            stride = 2 if stage and block == 0 else 1
            layers.append(_Block(fan_in, inner * 2**stage, cardinality, stride))
            fan_in, rows, columns = 2 * inner * 2**stage, -(-rows // stride), -(-columns // stride)
    return nn.Sequential(*layers, *hidden_head(fan_in * rows * columns, hidden, classes))
