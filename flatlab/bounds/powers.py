"""Powers z^n: lines around them, and their intervals. At 0, where roots rise infinitely fast, slopes stay finite."""

import torch
from torch import Tensor

from flatlab.bounds import relax
from flatlab.bounds.functions import valley

NEAR = 1e-12
"""The least number at which a root is differentiated. The tangent at any point lies above it everywhere."""


def power(z: Tensor, n: float) -> Tensor:
    """z^n with finite derivatives at 0, where that of a root is taken for 0.

    Args:
        z: numbers, >= 0 unless n is whole.
        n: the exponent.
    """
    if n < 0 or n == int(n):
        return z.pow(n)
    inner = z.clamp(min=torch.finfo(z.dtype).tiny)
    return torch.where(z > 0, inner.sqrt() if n == 0.5 else inner.pow(n), 0.0)


def lines(l: Tensor, u: Tensor, alpha: Tensor | None, n: float) -> relax.Lines:
    """The lines around z^n, see `flatlab.bounds.relax`.

    Args:
        l, u: (*shape) each.
        alpha: (2, ..., *shape) in [0, 1], or None.
        n: the exponent.
    """
    f = lambda z: power(z, n)  # noqa: E731
    if 0 < n < 1:
        root = relax.concave(f, lambda z: n * z.clamp(min=NEAR).pow(n - 1), lambda l, u: (u / 1000).clamp(min=NEAR))
        return root(l, u, alpha)
    df = lambda z: n * power(z, n - 1)  # noqa: E731
    if n == int(n) and n > 0 and int(n) % 2:
        return relax.curved(f, df, lambda l: [torch.zeros_like(l)])(l, u, alpha)
    return relax.convex(f, df)(l, u, alpha)


def interval(l: Tensor, u: Tensor, n: float) -> tuple[Tensor, Tensor]:
    """The least and the largest value of z^n.

    Args:
        l, u: (*shape) each.
        n: the exponent.
    """
    if n == int(n) and n > 0 and int(n) % 2 == 0:
        return valley(lambda z: z.pow(n))(l, u)
    a, b = power(l, n), power(u, n)
    return torch.minimum(a, b), torch.maximum(a, b)
