"""Frechet distance of two normal distributions (Dowson and Landau 1982), and of two samples of features.

    d^2 = |mu_a - mu_b|^2 + tr(A + B - 2 (A^{1/2} B A^{1/2})^{1/2})

For features of Inception this is FID (Heusel et al. 2017); the value is d^2, as there. With A = R_a^T R_a and
B = R_b^T R_b the last trace is the sum of the singular values of R_a R_b^T, which needs no complex numbers and no
regular covariances. Of a covariance, R are the eigenvectors scaled by the roots of the eigenvalues; of a sample, the
centred rows or their triangular factor, so that no digits are lost to roots of eigenvalues that are zero but for
rounding. The distance of finite samples is biased upwards: compare samples of equal size.
"""

import torch
from torch import Tensor

from flatlab import checks


def fid(a: Tensor, b: Tensor) -> float:
    """d^2 >= 0 of the means and unbiased covariances of features a (N, D) and b (M, D), in float64.

    Raises:
        ValueError: fewer than two rows, other numbers of features, NaN or infinity.
    """
    (mean_a, root_a), (mean_b, root_b) = _sample("a", a), _sample("b", b)
    if len(mean_a) != len(mean_b):
        raise ValueError(f"a and b must have the same features, got {len(mean_a)} and {len(mean_b)} columns")
    return _distance(mean_a, root_a, mean_b, root_b)


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """d^2 >= 0 of N(mean_a, cov_a) and N(mean_b, cov_b), in float64.

    Args:
        mean_a, mean_b: (D,).
        cov_a, cov_b: (D, D), symmetric, perhaps singular; negative eigenvalues as small as rounding errors count as 0.

    Raises:
        ValueError: other shapes, NaN or infinity, a matrix that is not symmetric or has negative eigenvalues.
    """
    a, b = mean_a.double(), mean_b.double()
    if a.ndim != 1 or not len(a) or a.shape != b.shape:
        raise ValueError(f"means must both be (D,) with D >= 1, got {tuple(a.shape)} and {tuple(b.shape)}")
    _finite("mean_a", a)
    _finite("mean_b", b)
    return _distance(a, _root("cov_a", cov_a.double(), len(a)), b, _root("cov_b", cov_b.double(), len(b)))


def _distance(mean_a: Tensor, root_a: Tensor, mean_b: Tensor, root_b: Tensor) -> float:
    spread = root_a.square().sum() + root_b.square().sum() - 2 * torch.linalg.svdvals(root_a @ root_b.T).sum()
    return max(0.0, float((mean_a - mean_b).square().sum() + spread))


def _sample(name: str, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,), and R (min(N, D), D) with R^T R the unbiased covariance."""
    if rows.ndim != 2:
        raise ValueError(f"{name} must be features (N, D), got shape {tuple(rows.shape)}")
    n = checks.at_least(f"the number of rows of {name}", len(rows), 2)
    rows = rows.detach().double()
    _finite(name, rows)
    centred = (rows - rows.mean(0)) / (n - 1) ** 0.5
    return rows.mean(0), torch.linalg.qr(centred, mode="r").R if n > rows.shape[1] else centred


def _root(name: str, covariance: Tensor, features: int) -> Tensor:
    """R (D, D) with R^T R = covariance."""
    if covariance.shape != (features, features):
        raise ValueError(f"{name} must be {(features, features)} as the means are, got {tuple(covariance.shape)}")
    _finite(name, covariance)
    size = float(covariance.abs().max())
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    if float((covariance - covariance.T).abs().max()) > 1e-5 * size or float(values[0]) < -1e-5 * size * features:
        raise ValueError(f"{name} is no covariance: it must be symmetric, without negative eigenvalues")
    return values.clamp(min=0).sqrt()[:, None] * vectors.T


def _finite(name: str, values: Tensor) -> None:
    if not values.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity: leave out what has no features")
