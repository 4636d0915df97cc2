"""By how much FID is too high of finite samples (second order; the covariance part is that of the Bures metric).

Two samples of sizes n1, n2 of one normal distribution whose covariance has eigenvalues l have a true FID of 0, and

    E FID = (1/n1 + 1/n2) (sum_i l_i + 1/2 sum_ij l_i l_j (1 + [i = j]) / (l_i + l_j)) + smaller terms

The first sum is E|m1 - m2|^2. For the second: d^2(C, C + E) = 1/2 sum_ij E_ij^2 / (l_i + l_j) to second order in E, in
the basis of the eigenvectors, and the elements of the difference of the two sample covariances have the variances
l_i l_j (1 + [i = j]) (1/n1 + 1/n2). For l = 1 and n1 = n2 = N that is (2 D + D (D + 1) / 2) / N. In simulations with
N >= 100 D the mean lies up to 3 % below; with N <= D, where covariances are singular, the formula is an upper estimate.
"""

import torch

from flatlab import checks
from flatlab.metrics.arguments import Numbers
from flatlab.metrics.frechet import covariance, eigenvalues


def fid_bias(cov: Numbers, n1: int, n2: int | None = None) -> float:
    """Expected FID of two samples of one normal distribution, to second order.

    Args:
        cov: covariance (D, D) of the distribution, or an estimate of it; in the units of the features squared.
        n1, n2: sizes of the samples; `n2=None` for moments that are known exactly.

    Raises:
        ValueError: no covariance, or a size below 2.
    """
    rate = sum(1 / checks.at_least(name, n, 2) for name, n in (("n1", n1), ("n2", n2)) if n is not None)
    values = eigenvalues("cov", torch.linalg.eigvalsh(covariance("cov", cov)))
    total = values[:, None] + values
    pairs = torch.where(total > 0, values[:, None] * values / total.where(total > 0, 1), 0)
    return rate * float(values.sum() + (pairs.sum() + pairs.trace()) / 2)
