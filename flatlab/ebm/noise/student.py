"""Student's t distribution in D dimensions: heavier tails than any normal distribution.

log q(x) = log G((v + D) / 2) - log G(v / 2) - D/2 log(v pi) - log det L - (v + D)/2 log(1 + m / v)
m = |L^-1 (x - loc)|^2,    x = loc + L z sqrt(v / u),  z ~ N(0, I),  u ~ chi^2_v,    covariance v / (v - 2) L L^T
"""

import math
from typing import Self

import torch
from torch import Tensor

from flatlab import checks
from flatlab.ebm.noise.base import Noise, normal
from flatlab.ebm.noise.moments import factor, moments, standardize


class StudentNoise(Noise):
    """t with loc (D,), scale_matrix L L^T (D, D) and df = v > 0; moments of order v and above are infinite."""

    loc: Tensor
    tril: Tensor
    df: Tensor

    def __init__(self, loc: Tensor, scale_matrix: Tensor, df: float) -> None:
        super().__init__()
        self.register_buffer("tril", factor(loc, scale_matrix))
        self.register_buffer("loc", loc.detach().to(self.tril))
        self.register_buffer("df", torch.tensor(checks.positive("df", df)).to(self.tril))
        self.shape = tuple(loc.shape)

    @classmethod
    def fit(cls, x: Tensor, *, df: float = 5.0, shrink: float = 0.0) -> Self:
        """The t distribution with the mean and the covariance of x.

        Args:
            x: (N, D), floating point; the buffers have its dtype.
            df: v > 2, as there is no covariance below.
            shrink: of the covariance, as in `GaussianNoise.fit`.
        """
        if not checks.positive("df", df) > 2:
            raise ValueError(f"df must be > 2 to match a covariance, got {df!r}; give the constructor a scale_matrix")
        mean, cov = moments(x, shrink)
        return cls(mean, cov * (df - 2) / df, df).to(x.dtype)

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        # u / 2; of torch's draws of gamma numbers this one alone takes a generator.
        half = torch._standard_gamma((self.df / 2).repeat(n), generator=generator)
        z = normal(n, self.loc, generator) * (self.df / 2 / half).sqrt().unsqueeze(1)
        return self.loc + z @ self.tril.mT

    def _log_prob(self, x: Tensor) -> Tensor:
        square, log_det = standardize(x, self.loc, self.tril)
        df, dim = self.df.double(), x.shape[1]  # in float32 the two log G of a large v cancel to noise
        constant = torch.lgamma((df + dim) / 2) - torch.lgamma(df / 2) - dim / 2 * (df * math.pi).log()
        tail = ((df + dim) / 2).to(x.dtype) * (square / df.to(x.dtype)).log1p()
        return constant.to(x.dtype) - log_det - tail
