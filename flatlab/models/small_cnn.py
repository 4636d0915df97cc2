"""A few convolutions and two linear layers: the usual small network for MNIST-sized images."""

import math
from collections.abc import Sequence

from torch import nn

from flatlab import checks
from flatlab.models.layers import NORMS, activation_class, hidden_head


def small_cnn(
    shape: Sequence[int],
    classes: int,
    *,
    widths: Sequence[int] = (8, 16),
    hidden: int = 100,
    kernel: int = 4,
    strides: Sequence[int] | None = None,
    activation: str = "relu",
    norm: str = "none",
) -> nn.Sequential:
    """Padded convolutions of the given `widths`, then a hidden layer; H and W must divide by the product of strides.

    Args:
        shape: of one input, such as (1, 28, 28).
        classes: number of logits.
        widths: channels of the convolutions.
        hidden: units of the linear layer.
        kernel: side of the convolutions' windows, 3 or 4; they are padded by 1.
        strides: of the convolutions, each 2 if not given. kernel=3, strides=(1, 2) and widths=(16, 32) make the small
            network of certified training.
        activation: as in `mlp`.
        norm: after each convolution: "none", "batch", or "group" (see `resnet`).
    """
    channels, height, width = shape
    if kernel not in (3, 4):
        raise ValueError(f"kernel must be 3 or 4, got {kernel!r}")
    strides = [2] * len(widths) if strides is None else strides
    if len(strides) != len(widths):
        raise ValueError(f"strides must have one entry per width, got strides={strides} and widths={widths}")
    factor = math.prod(checks.at_least("strides", stride, 1) for stride in strides)
    if height % factor or width % factor:
        raise ValueError(f"image size {height}x{width} must divide by {factor}; resize the images, or use fewer widths")
    act = activation_class(activation)
    checks.one_of("norm", norm, ("none", *NORMS))
    layers: list[nn.Module] = []
    for out, stride in zip(widths, strides, strict=True):
        layers.append(nn.Conv2d(channels, checks.at_least("widths", out, 1), kernel, stride, padding=1))
        if norm != "none":
            layers.append(NORMS[norm](out))
        layers.append(act())
        channels, height, width = out, (height + 2 - kernel) // stride + 1, (width + 2 - kernel) // stride + 1
    return nn.Sequential(*layers, *hidden_head(channels * height * width, hidden, classes, activation=activation))
