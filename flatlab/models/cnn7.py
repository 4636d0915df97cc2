"""Five convolutions and two linear layers: the reference network of certified training (Xu et al. 2020)."""

from collections.abc import Sequence

from torch import nn

from flatlab import checks
from flatlab.models.layers import hidden_head, normalize_colour


def cnn7(
    shape: Sequence[int], classes: int, *, width: int = 64, hidden: int = 512, batch_norm: bool = True
) -> nn.Sequential:
    """Convolutions 3x3 of w, w, 2w, 2w, 2w channels, the third with stride 2, then a hidden layer over all positions.

    On 3x32x32 with the defaults it has 17.2 million weights, all but 0.4 million of them in the hidden layer.

    Args:
        shape: of one input, such as (3, 32, 32).
        classes: number of logits.
        width: w, channels of the first two convolutions.
        hidden: units of the linear layer.
        batch_norm: normalise between each convolution and its ReLU.
    """
    channels, rows, columns = shape
    checks.at_least("width", width, 1)
    layers = normalize_colour(channels)
    for out, stride in ((width, 1), (width, 1), (2 * width, 2), (2 * width, 1), (2 * width, 1)):
        layers.append(nn.Conv2d(channels, out, 3, stride, 1, bias=not batch_norm))
        layers += [nn.BatchNorm2d(out), nn.ReLU()] if batch_norm else [nn.ReLU()]
        channels = out
    return nn.Sequential(*layers, *hidden_head(channels * -(-rows // 2) * -(-columns // 2), hidden, classes))
