"""Frechet distance of two normal distributions (Dowson and Landau 1982), the heart of FID (Heusel et al. 2017).

    d^2 = |mu1 - mu2|^2 + tr(A + B - 2 (A^{1/2} B A^{1/2})^{1/2}),    A, B the covariances

It is the squared Wasserstein distance W_2^2; the value is d^2, as for FID. With A = R^T R and B = S^T S the last trace
is the sum of the singular values of R S^T, which needs no complex numbers and no regular covariances. Of a regular
covariance, R is the Cholesky factor; of another, the eigenvectors scaled by the roots of the eigenvalues; of a sample,
the triangular factor of the centred rows, so that no digits are lost to roots of eigenvalues that are zero but for
rounding.

Other ways to the trace, to compare with (`method`): the eigenvalues of A^{1/2} B A^{1/2} ("eigh") or of A B ("eigvals",
as torchmetrics), and the Newton-Schulz iteration for the root of A B ("newton"; matrix products alone). The root of the
product by Schur's method (TTUR's code, pytorch-fid) is left out: it is complex where covariances are singular.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from flatlab import checks
from flatlab.metrics.arguments import Numbers, features, numbers

_METHODS = ("auto", "eigh", "cholesky", "eigvals", "newton")


def frechet_distance(mu1: Numbers, cov1: Numbers, mu2: Numbers, cov2: Numbers, *, method: str = "auto") -> float:
    """d^2 >= 0 of N(mu1, cov1) and N(mu2, cov2), in float64; what rounding takes below 0 is 0.

    In full rank all methods agree to 1e-9 relative. Singular covariances cost "eigh", "eigvals" and "newton" half the
    digits (a zero eigenvalue that rounding moves to 1e-16 has the root 1e-8), and "auto" as well where only the
    covariances are known; `fid` of the samples loses none.

    Args:
        mu1, mu2: (D,); one number where D = 1.
        cov1, cov2: (D, D), symmetric, perhaps singular; negative eigenvalues as small as rounding errors count as 0.
            One number, the variance, where D = 1.
        method: "auto" (singular values of factors), "cholesky" (the same of regular covariances alone), "eigh",
            "eigvals" or "newton".

    Raises:
        TypeError: not numbers.
        ValueError: other shapes, NaN or infinity, a matrix that is not symmetric or has negative eigenvalues, an
            unknown method, a singular covariance for "cholesky".
    """
    checks.one_of("method", method, _METHODS)
    a, b = (torch.atleast_1d(numbers(name, mean)) for name, mean in (("mu1", mu1), ("mu2", mu2)))
    if a.ndim != 1 or not len(a) or a.shape != b.shape:
        raise ValueError(f"means must both be (D,) with D >= 1, got {tuple(a.shape)} and {tuple(b.shape)}")
    first, second = covariance("cov1", cov1, len(a)), covariance("cov2", cov2, len(a))
    if method in ("auto", "cholesky"):
        roots = [_factor(name, cov, method) for name, cov in (("cov1", first), ("cov2", second))]
        return between(Moments(a, roots[0]), Moments(b, roots[1]))
    root, _ = _root("cov1", first), _root("cov2", second)  # the second for its check
    if method == "eigh":
        trace = torch.linalg.eigvalsh(root @ second @ root.T).clamp(min=0).sqrt().sum()
    elif method == "eigvals":
        trace = torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt().sum()
    else:
        trace = _newton(first @ second)
    return _distance((a - b).square().sum() + first.trace() + second.trace() - 2 * trace)


class Moments(NamedTuple):
    """Mean (D,), and a root R (any, D) with R^T R the covariance."""

    mean: Tensor
    root: Tensor

    @classmethod
    def of_sample(cls, name: str, rows: Numbers) -> "Moments":
        """The mean and the unbiased covariance of features (N, D), N >= 2; errors name the sample."""
        found = features(name, rows)
        mean = found.mean(0)
        return cls(mean, torch.linalg.qr((found - mean) / (len(found) - 1) ** 0.5, mode="r").R)

    @classmethod
    def of_covariance(cls, name: str, mean: Tensor, matrix: Tensor) -> "Moments":
        """Of a mean (D,) and a covariance (D, D), regular or not."""
        return cls(mean, _factor(name, matrix, "auto"))


def between(a: Moments, b: Moments) -> float:
    """d^2 >= 0 of two normal distributions."""
    spread = a.root.square().sum() + b.root.square().sum() - 2 * torch.linalg.svdvals(a.root @ b.root.T).sum()
    return _distance((a.mean - b.mean).square().sum() + spread)


def _distance(found: Tensor) -> float:
    if not found.isfinite():
        raise ValueError(f"the distance is {float(found)} in double precision: scale the features down")
    return max(0.0, float(found))


def covariance(name: str, matrix: Numbers, d: int | None = None) -> Tensor:
    """A symmetric matrix (D, D) as float64; `d` is the D wanted, and a number stands for (1, 1)."""
    found = numbers(name, matrix)
    found = found.reshape(1, 1) if found.ndim < 2 and found.numel() == 1 else found
    if found.ndim != 2 or not len(found) or found.shape != (d or len(found),) * 2:
        raise ValueError(f"{name} must be {(d, d) if d else '(D, D)'}, a covariance, got shape {tuple(found.shape)}")
    if float((found - found.T).abs().max()) > 1e-5 * float(found.abs().max()):
        raise ValueError(f"{name} is no covariance: it must be symmetric")
    return (found + found.T) / 2


def eigenvalues(name: str, values: Tensor) -> Tensor:
    """Ascending eigenvalues of a covariance, those below 0 by no more than rounding as 0; ValueError for others."""
    if float(values[0]) < -1e-5 * len(values) * float(values.abs().max()):
        raise ValueError(f"{name} is no covariance: it has the negative eigenvalue {float(values[0]):.3g}")
    return values.clamp(min=0)


def _factor(name: str, matrix: Tensor, method: str) -> Tensor:
    """R with R^T R = matrix: Cholesky's, or for "auto" that of the eigenvectors where there is no other."""
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if not failed:
        return lower.T
    if method == "cholesky":
        raise ValueError(f'{name} is singular, which method="cholesky" cannot take: use method="auto"')
    return _root(name, matrix)


def _root(name: str, matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return eigenvalues(name, values).sqrt()[:, None] * vectors.T


def _newton(product: Tensor, iterations: int = 100) -> Tensor:
    """Trace of the root of A B. The iterates' trace rises to it, until rounding takes over: then the last one counts.

    Of eigenvalues far below the largest the rise is slow, a factor 1.5 an iteration.
    """
    size = product.norm()
    best = torch.zeros_like(size)
    identity = torch.eye(len(product), dtype=product.dtype, device=product.device)
    root, inverse = product / size, identity
    for _ in range(iterations):
        step = (3 * identity - inverse @ root) / 2
        root, inverse = root @ step, step @ inverse
        if not root.trace() > best:  # written so that NaN ends it too, such as 0 / 0 of a product that is 0
            break
        best = root.trace()
    return best * size.sqrt()
