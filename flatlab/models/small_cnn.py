"""Two strided convolutions and two linear layers: the usual small network for MNIST-sized images."""

from collections.abc import Sequence

from torch import nn


def small_cnn(
    shape: Sequence[int], classes: int, *, widths: Sequence[int] = (8, 16), hidden: int = 100
) -> nn.Sequential:
    """Convolutions 4x4 with stride 2 of the given `widths`, then a hidden layer; H and W must divide by 2^len(widths).

    Args:
        shape: of one input, such as (1, 28, 28).
        classes: number of logits.
        widths: channels of the convolutions.
        hidden: units of the linear layer.
    """
    channels, height, width = shape
    factor = 2 ** len(widths)
    if height % factor or width % factor:
        raise ValueError(f"image size {height}x{width} must divide by {factor}; resize the images, or use fewer widths")
    layers: list[nn.Module] = []
    for out in widths:
        layers += [nn.Conv2d(channels, out, 4, stride=2, padding=1), nn.ReLU()]
        channels = out
    flat = channels * (height // factor) * (width // factor)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, classes))
