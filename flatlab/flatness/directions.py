"""Directions in any space: random, adversarial, and normalised filter by filter.

Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets": a random direction d in weight space is rescaled per
output filter to the length of that filter,  d_i <- d_i ||w_i|| / ||d_i||, so that slices of networks whose weights
differ in scale can be compared. Biases and other one-dimensional tensors get no displacement. As in the official
code a small constant guards the division; unlike there it guards every variant.

Random numbers are drawn in float32 on the generator's device (the CPU by default) and then moved, so that one seed
gives the same direction on every device and in every precision.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flatlab import checks, modes
from flatlab.flatness.landscape import Point
from flatlab.flatness.likelihood import finite_logits, rows_at_once, samples

Like = TypeVar("Like", Tensor, Point)

LAWS = ("rademacher", "gaussian", "uniform")
"""Laws of random directions: signs; standard normal; uniform on [-1, 1]. All coordinates independent."""


def draw(law: str, shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """A tensor of `shape` with independent coordinates of one of `LAWS`, in the dtype and on the device of `like`."""
    device = generator.device if generator is not None else torch.device("cpu")
    size = tuple(shape)
    checks.one_of("law", law, LAWS)
    if law == "rademacher":
        values = torch.randint(2, size, generator=generator, device=device, dtype=torch.float32).mul_(2).sub_(1)
    elif law == "gaussian":
        values = torch.randn(size, generator=generator, device=device, dtype=torch.float32)
    else:
        values = torch.rand(size, generator=generator, device=device, dtype=torch.float32).mul_(2).sub_(1)
    return values.to(device=like.device, dtype=like.dtype)


def rademacher(like: Like, *, generator: torch.Generator | None = None) -> Like:
    """Independent signs, -1 or +1 with equal probability, shaped like a tensor or a tuple of tensors."""
    return _shaped("rademacher", like, generator)


def gaussian(like: Like, *, generator: torch.Generator | None = None) -> Like:
    """Independent standard normal numbers, shaped like a tensor or a tuple of tensors."""
    return _shaped("gaussian", like, generator)


def _shaped(law: str, like: Like, generator: torch.Generator | None) -> Like:
    if isinstance(like, Tensor):
        return draw(law, like.shape, like, generator)
    return tuple(draw(law, tensor.shape, tensor, generator) for tensor in like)


def gradient_sign(model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int | None = None) -> Tensor:
    """The fast-gradient-sign direction: sign of the input gradient of the cross-entropy, shaped like x.

    Args:
        x: inputs (N, ...); y: labels (N,).
        batch_size: rows given to the model at once.
    """
    x = samples(model, x)
    checks.labels(y, len(x))
    modes.require_gradients(x)
    signs = []
    for start in range(0, len(x), size := rows_at_once(x, batch_size)):
        rows = x[start : start + size].detach().requires_grad_()
        with torch.enable_grad():
            logits = finite_logits(model, rows, first=start)
            checks.labels(y, len(x), logits.shape[1])
            loss = F.cross_entropy(logits, y[start : start + size].long(), reduction="sum")
        signs.append(torch.autograd.grad(loss, rows)[0].sign())
    return torch.cat(signs)


def filter_normalize(direction: Sequence[Tensor], weights: Sequence[Tensor]) -> Point:
    """Give each output filter (index along the first dimension) of `direction` the L2 norm of the filter in `weights`.

    Tensors with fewer than two dimensions (biases, normalisation layers) become zero.
    """
    if [t.shape for t in direction] != [t.shape for t in weights]:
        raise ValueError(
            f"direction and weights differ in shape: {[tuple(t.shape) for t in direction]} and "
            f"{[tuple(t.shape) for t in weights]}"
        )
    return tuple(_scaled(d, w) for d, w in zip(direction, weights, strict=True))


def _scaled(direction: Tensor, weight: Tensor) -> Tensor:
    if weight.ndim < 2:
        return torch.zeros_like(direction)
    norms = [t.detach().flatten(1).norm(dim=1) for t in (weight, direction)]
    ratio = norms[0] / (norms[1] + 1e-10)
    return direction * ratio.reshape(-1, *[1] * (weight.ndim - 1))


def filter_normalized_direction(model: nn.Module, *, generator: torch.Generator | None = None) -> Point:
    """A Gaussian direction in the space of `over_parameters(model, ...)`, normalised filter by filter."""
    weights = tuple(modes.at_least_float32(p.detach()) for p in model.parameters() if p.requires_grad)
    return filter_normalize(gaussian(weights, generator=generator), weights)
