"""The normal distribution:  log q(x) = -1/2 |L^-1 (x - mean)|^2 - log det L - D/2 log 2 pi,   L L^T = covariance."""

from typing import Self

import torch
from torch import Tensor

from flatlab import checks
from flatlab.ebm.noise.base import Noise, normal
from flatlab.ebm.noise.moments import factor, moments, normal_log_prob


class GaussianNoise(Noise):
    """N(mean, cov) with mean (D,) and cov (D, D), symmetric and regular."""

    mean: Tensor
    tril: Tensor

    def __init__(self, mean: Tensor, cov: Tensor) -> None:
        super().__init__()
        self.register_buffer("tril", factor(mean, cov))
        self.register_buffer("mean", mean.detach().to(self.tril))
        self.shape = tuple(mean.shape)

    @classmethod
    def standard(cls, dim: int, scale: float = 1.0) -> Self:
        """N(0, scale^2 I) over (dim,)."""
        checks.at_least("dim", dim, 1)
        return cls(torch.zeros(dim), checks.positive("scale", scale) ** 2 * torch.eye(dim))

    @classmethod
    def fit(cls, x: Tensor, *, shrink: float = 0.0) -> Self:
        """The normal distribution of maximum likelihood of x (N, D), in the dtype of x, its covariance C shrunk.

        Args:
            x: (N, D), floating point.
            shrink: in [0, 1]; the covariance becomes (1 - shrink) C + shrink (tr C / D) I.

        Raises:
            ValueError: a singular covariance: a coordinate that is constant or a sum of others, or N <= D.
        """
        return cls(*moments(x, shrink)).to(x.dtype)

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        return self.mean + normal(n, self.mean, generator) @ self.tril.mT

    def _log_prob(self, x: Tensor) -> Tensor:
        return normal_log_prob(x, self.mean, self.tril)
