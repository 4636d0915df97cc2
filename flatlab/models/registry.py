"""Names of the networks, so that a preset can say which one it trains."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from flatlab import checks
from flatlab.models.mlp import mlp
from flatlab.models.resnet import preact_resnet18, wide_resnet
from flatlab.models.small_cnn import small_cnn

_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "small_cnn": small_cnn,
    "preact_resnet18": preact_resnet18,
    "wide_resnet": wide_resnet,
}


def available() -> tuple[str, ...]:
    """Names that `build` takes."""
    return tuple(_BUILDERS)


def build(
    name: str, shape: Sequence[int], classes: int, *, seed: int = 0, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """A freshly initialised network; the same seed gives the same weights, and torch's global state is untouched.

    Args:
        name: one of `available()`.
        shape: (C, H, W) of one input.
        classes: number of logits.
        seed: of the initial weights.
        options: keyword options of the builder, such as {"widths": (64, 64)}.
    """
    builder = _BUILDERS[checks.one_of("model", name, _BUILDERS)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return builder(shape, classes, **(options or {}))
