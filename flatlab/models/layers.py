"""Layers that torch does not have, and parts that several networks share."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from flatlab import checks

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training images


class Normalize(nn.Module):
    """Subtract the mean and divide by the standard deviation of each channel: (..., C, H, W) -> the same shape."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std, default=0) <= 0:
            raise ValueError(f"mean and std must have one entry per channel and std > 0, got {mean} and {std}")
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def normalize_colour(channels: int) -> list[nn.Module]:
    """The first layer of a network for photographs: normalisation of three channels, nothing for other numbers."""
    return [Normalize(MEAN, STD)] if channels == 3 else []


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(8, channels), channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "group": _group_norm}
"""Makers of normalisation layers for a number of channels; GroupNorm has up to 8 groups, a power of two."""


def activation_class(name: str) -> type[nn.Module]:
    """The layer called relu, tanh, softplus, silu or gelu; ValueError with the nearest name if there is none."""
    return ACTIVATIONS[checks.one_of("activation", name, ACTIVATIONS)]


def hidden_head(features: int, hidden: int, classes: int, *, activation: str = "relu") -> list[nn.Module]:
    """The last layers of a network without pooling: (N, ...) of `features` numbers -> `hidden` units -> logits."""
    checks.at_least("hidden", hidden, 1)
    layers = [nn.Flatten(), nn.Linear(features, hidden), activation_class(activation)()]
    return [*layers, nn.Linear(hidden, classes)]


class FourierFeatures(nn.Module):
    """Waves of random frequencies beside their argument (Tancik et al. 2020): (N, dim) -> (N, dim + 2 features).

        x -> [x, sin(x W), cos(x W)],    W (dim, features) with entries N(0, scale^2), drawn once and not trained

    There is no factor of 2 pi in front of x W, as there is in the paper. W comes from torch's global stream, as initial
    weights do, and is part of the `state_dict`.

    Args:
        dim: numbers of one input.
        features: number of frequencies.
        scale: their standard deviation, in radians per unit of x: details of size 1 / scale can be told apart.

    Raises:
        ValueError: an argument out of range.
    """

    frequencies: Tensor

    def __init__(self, dim: int, features: int = 32, scale: float = 1.0) -> None:
        super().__init__()
        shape = checks.at_least("dim", dim, 1), checks.at_least("features", features, 1)
        self.register_buffer("frequencies", torch.randn(shape) * checks.positive("scale", scale))

    def forward(self, x: Tensor) -> Tensor:
        waves = x @ self.frequencies
        return torch.cat([x, waves.sin(), waves.cos()], dim=-1)


class CentreNorm(nn.Module):
    """Layer normalisation without the division by the standard deviation: (..., width) -> the same shape.

    It is affine in x, so that bounds pass through it without loss; the division makes them explode.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) * self.weight + self.bias


class Residual(nn.Module):
    """Layers beside a connection that skips them (He et al. 2016): x -> x + scale * body(x), all of one shape.

    Args:
        *layers: the body, one after another; at least one.
        scale: of the body, finite; the published code of WGAN-GP (Gulrajani et al. 2017) takes 0.3 for text.

    Raises:
        ValueError: no layer, or a scale that is not finite.
    """

    def __init__(self, *layers: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        checks.at_least("len(layers)", len(layers), 1)
        if not math.isfinite(scale):
            raise ValueError(f"scale must be a finite number, got {scale!r}")
        self.body, self.scale = nn.Sequential(*layers), scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.body(x)


def without_cudnn(needed: bool) -> AbstractContextManager[None]:
    """Without cuDNN if needed: its LSTM has no gradient in eval mode and no second one, torch's kernels have both."""
    return _cudnn_off() if needed else nullcontext()  # which torch.export of 2.6 can follow


@contextmanager
def _cudnn_off() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before = cudnn.enabled
    cudnn.enabled = False
    try:
        yield
    finally:
        cudnn.enabled = before


class MapLogits(nn.Module):
    """A classifier with its logits passed through `function`: the same network in another gauge or scale."""

    def __init__(self, model: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.model(x))
