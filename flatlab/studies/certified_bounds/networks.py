"""Networks with random weights, whose bounds 04_certified_bounds checks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Network:
    """An untrained network whose bounds are checked.

    Attributes:
        label, model, options: its name in tables, and how `flatlab.models` builds it.
        shape: of one input.
        eps: radius of the L_inf ball around each input.
    """

    label: str
    model: str
    shape: tuple[int, ...]
    eps: float
    options: Mapping[str, Any] = field(default_factory=dict)


NETWORKS = (
    Network("MLP", "mlp", (1, 8, 8), 0.05, {"widths": (64, 64)}),
    Network("CNN", "small_cnn", (1, 8, 8), 0.05, {"widths": (8, 16), "kernel": 3, "strides": (1, 2), "hidden": 32}),
    Network("CNN-7, BatchNorm", "cnn7", (1, 8, 8), 0.02, {"width": 4, "hidden": 32}),
    Network("DenseNet", "densenet", (3, 8, 8), 0.01, {"blocks": (2, 2, 2), "growth": 4, "hidden": 16}),
    Network("ResNeXt", "resnext", (3, 8, 8), 0.01, {"width": 4, "hidden": 16}),
    Network("WideResNet", "wide_resnet", (3, 8, 8), 0.005, {"depth": 10, "widen": 1, "hidden": 16, "pooling": False}),
    Network("PreActResNet-18", "preact_resnet18", (3, 8, 8), 0.002, {"width": 4}),
    Network("LSTM", "text_lstm", (6, 8), 0.05, {"vocabulary": 10, "hidden": 16}),
    Network("Transformer", "text_transformer", (6, 8), 0.02, {"vocabulary": 10, "heads": 2, "ff": 16}),
    Network(
        "Transformer, LayerNorm",
        "text_transformer",
        (6, 8),
        0.02,
        {"vocabulary": 10, "heads": 2, "ff": 16, "norm": "full"},
    ),
)
"""Four classes, random weights: every kind of layer, none of them trained to be easy."""
