"""Weights on a grid of few bits."""

import copy

import torch
from torch import nn

from flatlab import checks


def round_weights(model: nn.Module, bits: int) -> nn.Module:
    """A copy of `model` whose weight matrices and kernels are rounded to a symmetric grid.

    Args:
        bits: per weight, >= 2: 2^(bits - 1) - 1 steps up to the largest absolute value of each tensor. Vectors such as
            biases stay as they are.
    """
    steps = 2 ** (checks.at_least("bits", bits, 2) - 1) - 1
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for weight in rounded.parameters():
            if weight.ndim > 1:
                unit = weight.abs().max().clamp(min=torch.finfo(weight.dtype).tiny) / steps
                weight.copy_((weight / unit).round() * unit)
    return rounded
