"""Kernel inception distance (KID; Binkowski et al. 2018, arXiv 1801.01401): unbiased MMD^2 of features.

    k(x, y) = (gamma x.y + coef)^degree
    KID = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

Its expectation is 0 for equal distributions whatever N and M are, so that it may be negative, and it needs no
correction where FID does. Other code averages over random subsets to save memory; here kernels are summed in blocks
of rows, so that every pair counts once and nothing is random.
"""

from torch import Tensor

from flatlab import checks
from flatlab.metrics.arguments import Numbers, features, same_columns

_ROWS = 1024  # of a block: kernels of 1024 x M in memory at a time


def kid(real: Numbers, fake: Numbers, *, degree: int = 3, gamma: float | None = None, coef: float = 1.0) -> float:
    """Unbiased MMD^2 with a polynomial kernel, in float64; time grows with (N + M)^2.

    Args:
        real: features (N, D), N >= 2.
        fake: features (M, D), M >= 2.
        degree: of the polynomial, >= 1.
        gamma: factor of the inner product, > 0; None for 1 / D.
        coef: constant of the kernel, >= 0.

    Raises:
        TypeError: not numbers.
        ValueError: too few rows, other shapes, NaN or infinity, other numbers of features, or such options.
    """
    x, y = features("real", real), features("fake", fake)
    same_columns(real=x, fake=y)
    checks.at_least("degree", degree, 1)
    checks.nonnegative("coef", coef)
    scale = 1 / x.shape[1] if gamma is None else checks.positive("gamma", gamma)

    def kernel(inner: Tensor) -> Tensor:
        return (scale * inner + coef) ** degree

    def total(a: Tensor, b: Tensor) -> float:
        return float(sum(kernel(part @ b.T).sum() for part in a.split(_ROWS)))

    def within(a: Tensor) -> float:
        return (total(a, a) - float(kernel(a.square().sum(1)).sum())) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * total(x, y) / (len(x) * len(y))
