"""Mean, covariance and Cholesky factor: the checks and the linear algebra that several distributions share."""

import math

import torch
from torch import Tensor

from flatlab import checks
from flatlab.ebm.noise.base import floating

FLAT = 1e-12
"""A direction with less than this share of the largest variance has none: what is left there is rounding."""


def moments(x: Tensor, shrink: float = 0.0) -> tuple[Tensor, Tensor]:
    """Mean (D,) and maximum likelihood covariance C (D, D), float64, of the rows of x (N, D).

    shrink in [0, 1] makes it (1 - shrink) C + shrink (tr C / D) I, which is regular where C is not.
    """
    if x.ndim != 2 or len(x) < 2 or x.shape[1] < 1:
        raise ValueError(f"data must be (N, D) with N >= 2 rows, got shape {tuple(x.shape)}")
    if not floating("x", x).isfinite().all():
        raise ValueError("data holds NaN or infinity: take those rows out")
    if checks.nonnegative("shrink", shrink) > 1:
        raise ValueError(f"shrink is a share and must lie in [0, 1], got {shrink!r}")
    x = x.detach().double()
    offsets = x - x[0]  # exactly 0 where a coordinate is constant
    mean = offsets.mean(0)
    cov = (offsets - mean).mT @ (offsets - mean) / len(x)
    return x[0] + mean, (1 - shrink) * cov + shrink * cov.diagonal().mean() * torch.eye(len(cov)).to(cov)


def factor(mean: Tensor, cov: Tensor, *, batch: bool = False) -> Tensor:
    """The lower Cholesky factor of the covariance (D, D) that goes with a mean (D,); of a batch, of (K, D, D), (K, D).

    Raises:
        ValueError: other shapes, or a covariance that is not symmetric, not finite or singular.
    """
    if floating("mean", mean).ndim != 1 + batch or floating("covariance", cov).shape != (*mean.shape, mean.shape[-1]):
        wanted = "(K, D) and (K, D, D)" if batch else "(D,) and (D, D)"
        raise ValueError(f"mean and covariance must be {wanted}, got {tuple(mean.shape)} and {tuple(cov.shape)}")
    wide = cov.detach().double()  # float32 may lack the factor that the exact numbers have
    if not wide.isfinite().all() or not torch.allclose(wide, wide.mT, rtol=0, atol=1e-5 * float(wide.abs().max())):
        raise ValueError("the covariance is not symmetric, or not finite: give (C + C.mT) / 2 of finite numbers")
    variances = torch.linalg.eigvalsh(wide)
    if not (variances[..., 0] > FLAT * variances[..., -1]).all():
        raise ValueError(
            f"the covariance is singular, its smallest eigenvalue is {float(variances[..., 0].min()):.3g}: fit with "
            "shrink > 0, to fewer dims (flatlab.ebm.Whitening), or to more samples than dimensions"
        )
    return torch.linalg.cholesky(wide).to(cov.dtype)


def standardize(x: Tensor, mean: Tensor, tril: Tensor) -> tuple[Tensor, Tensor]:
    """|L^-1 (x - mean)|^2 (..., N) and log det L (..., 1), for x (N, D), means (..., D) and factors L (..., D, D)."""
    mean, tril = mean.to(x.dtype), tril.to(x.dtype)
    z = torch.linalg.solve_triangular(tril, (x - mean.unsqueeze(-2)).mT, upper=False)
    return z.square().sum(-2), tril.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)


def normal_log_prob(x: Tensor, mean: Tensor, tril: Tensor) -> Tensor:
    """log N(x; mean, L L^T), (..., N); the arguments are those of `standardize`."""
    square, log_det = standardize(x, mean, tril)
    return -square / 2 - log_det - x.shape[1] / 2 * math.log(2 * math.pi)
