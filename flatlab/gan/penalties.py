"""Penalties on the slopes of a critic.

    gradient penalty   E (||grad D(x^)|| - 1)^2,   x^ = x + e (G(z) - x),  e ~ U(0, 1) a sample    Gulrajani et al. 2017
    R1, R2             E ||grad D(x)||^2 on images, on generated images                            Mescheder et al. 2018

A slope is that of one sample, so the critic must not mix samples: it may have no batch normalisation. The penalties are
differentiable once more, with respect to the critic's weights.
"""

import torch
from torch import Tensor, nn

from flatlab import checks

_SMALL = 1e-12  # added to squared slopes under the root, which has no derivative at 0


def gradient_penalty(D: nn.Module, real: Tensor, fake: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """The mean over samples of (slope - 1)^2 between pairs of an image and a generated one, a scalar with a graph.

    Args:
        D: the critic, (N, ...) -> (N,) or (N, 1), without batch normalisation.
        real, fake: (N, ...) of one shape, and some.
        generator: of the place between the two, one number a sample; on the device of `real`.

    Raises:
        ValueError: shapes that differ, or no samples.
    """
    checks.at_least("len(real)", len(real), 1)
    e = torch.rand(len(real), generator=generator, device=real.device, dtype=real.dtype)
    return one_centred(D, between(real, fake, e)).mean()


def between(real: Tensor, fake: Tensor, e: Tensor) -> Tensor:
    """Points between pairs of samples (N, ...), at the fractions e (N,) of the way from real to fake."""
    if real.shape != fake.shape:
        raise ValueError(f"real and fake must have one shape, got {tuple(real.shape)} and {tuple(fake.shape)}")
    return torch.lerp(real, fake, e.view(-1, *[1] * (real.ndim - 1)))


def one_centred(D: nn.Module, x: Tensor) -> Tensor:
    """(slope - 1)^2 of the critic at each sample, (N,)."""
    return ((squared_slopes(D, x) + _SMALL).sqrt() - 1).square()


def squared_slopes(D: nn.Module, x: Tensor) -> Tensor:
    """||grad D||^2 at each sample of x (N, ...), with a graph back to the critic's weights, (N,)."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():  # a view: counters of operations refuse gradients in a leaf that a module was called with
        (slope,) = torch.autograd.grad(D(x.view_as(x)).sum(), x, create_graph=True)
    return slope.flatten(1).square().sum(1)
