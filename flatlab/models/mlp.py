"""Multilayer perceptron."""

import math
from collections.abc import Sequence

from torch import nn

from flatlab import checks

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


def mlp(
    shape: Sequence[int], classes: int, *, widths: Sequence[int] = (128, 128), activation: str = "relu"
) -> nn.Sequential:
    """Fully connected layers of the given `widths` over flattened inputs.

    Args:
        shape: of one input, such as (1, 8, 8).
        classes: number of logits.
        widths: of the hidden layers; none gives logistic regression.
        activation: relu, tanh, softplus, silu or gelu. ReLU networks are piecewise linear in x: take a smooth one
            where second derivatives matter.
    """
    act = ACTIVATIONS[checks.one_of("activation", activation, ACTIVATIONS)]
    layers: list[nn.Module] = [nn.Flatten()]
    fan_in = math.prod(shape)
    for width in widths:
        layers += [nn.Linear(fan_in, checks.at_least("widths", width, 1)), act()]
        fan_in = width
    return nn.Sequential(*layers, nn.Linear(fan_in, classes))
