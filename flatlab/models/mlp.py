"""Multilayer perceptron."""

import math
from collections.abc import Sequence

from torch import nn

from flatlab import checks
from flatlab.models.layers import FourierFeatures, activation_class


def mlp(
    shape: Sequence[int],
    classes: int,
    *,
    widths: Sequence[int] = (128, 128),
    activation: str = "relu",
    fourier: int = 0,
    scale: float = 2.0,
) -> nn.Sequential:
    """Fully connected layers of the given `widths` over flattened inputs.

    Args:
        shape: of one input, such as (1, 8, 8).
        classes: number of logits; 1 for an energy.
        widths: of the hidden layers; none gives logistic regression.
        activation: relu, tanh, softplus, silu or gelu. ReLU networks are piecewise linear in x: take a smooth one
            where second derivatives matter.
        fourier: number of random frequencies whose sines and cosines the first layer sees beside the input
            (`FourierFeatures`); 0 for none. Fine structure in few dimensions is learnt sooner with them.
        scale: standard deviation of the frequencies, in radians per unit of x.
    """
    act = activation_class(activation)
    layers: list[nn.Module] = [nn.Flatten()]
    fan_in = math.prod(shape)
    checks.positive("scale", scale)
    if checks.at_least("fourier", fourier, 0):
        layers.append(FourierFeatures(fan_in, fourier, scale))
        fan_in += 2 * fourier
    for width in widths:
        layers += [nn.Linear(fan_in, checks.at_least("widths", width, 1)), act()]
        fan_in = width
    return nn.Sequential(*layers, nn.Linear(fan_in, classes))
