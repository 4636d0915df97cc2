"""Which of two samples of fakes is nearer to the real one: the difference of two FIDs, with an interval.

    FID(real, a) - FID(real, b)

FID is a smooth function of means and covariances, so that each row z has an influence on it (the delta method): with
the linear part T of the optimal transport from z's distribution to the other one, T C T = C_other, and c = z - m,

    IF(z) = 2 c . (m - m_other) + c . (I - T) c, less its mean,    Var FID = sum over samples of Var IF / n

Real rows serve both FIDs: theirs is the difference of two influences. The bias, second order in 1 / n, is not small: at
D = 32 and n = 300 it took the coverage of 95 % intervals down to 75 %. The jackknife of Quenouille (1956) removes it:
(folds - 1) times what leaving out one fold changes on average, for each sample, is subtracted. Resampling with
repetition (bootstrap) is no way out: it has the bias once more, and its percentile intervals covered 50 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

import torch
from torch import Tensor

from flatlab import checks
from flatlab.metrics.arguments import Numbers, features, same_columns
from flatlab.metrics.frechet import Moments, between


@dataclass(frozen=True)
class FIDDifference:
    """FID(real, a) - FID(real, b), corrected for its bias, and the ends of its interval. Below 0, a is nearer."""

    value: float
    low: float
    high: float


def fid_difference(
    real: Numbers, a: Numbers, b: Numbers, *, folds: int = 10, level: float = 0.95, seed: int = 0
) -> FIDDifference:
    """Estimate FID(real, a) - FID(real, b) from three independent samples of independent rows.

    The 95 % interval covered the truth in 92 to 97 % of 400 simulations each at D = 8, 16 and 32 with 300 to 1000 rows
    (true differences from 0 to 4.3, normal and heavy-tailed rows, a and b of equal and of other sizes; once 99 %).
    Where a and b are both almost as the real rows it is too wide (98 to 100 %): there the variance is second order,
    and the delta method overstates it. With fewer than 9 D rows it was not tried.

    Args:
        real: features (N, D).
        a, b: features (M, D) and (K, D) of the two kinds of fakes; all with at least 2 rows a fold.
        folds: of the jackknife, >= 2; more make `value` less noisy, and cost 4 FIDs each.
        level: of the interval, in (0, 1).
        seed: of the split into folds.

    Raises:
        TypeError: not numbers.
        ValueError: too few rows, other shapes, NaN or infinity, other numbers of features, or such options.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), such as 0.95, got {level!r}")
    least = 2 * checks.at_least("folds", folds, 2)
    x, y, z = (features(name, rows, least=least) for name, rows in (("real", real), ("a", a), ("b", b)))
    same_columns(real=x, a=y, b=z)
    mx, my, mz = (Moments.of_sample("rows", rows) for rows in (x, y, z))
    to_a, to_b = between(mx, my), between(mx, mz)

    generator = torch.Generator().manual_seed(seed)
    without = [_without_each_fold(rows, folds, generator) for rows in (x, y, z)]
    bias = fmean(between(m, my) - between(m, mz) for m in without[0]) - (to_a - to_b)
    bias += fmean(between(mx, m) for m in without[1]) - to_a
    bias -= fmean(between(mx, m) for m in without[2]) - to_b
    value = to_a - to_b - (folds - 1) * bias

    (x_to_a, y_to_x), (x_to_b, z_to_x) = _influences(x, mx, y, my), _influences(x, mx, z, mz)
    variance = sum(float(rows.var()) / len(rows) for rows in (x_to_a - x_to_b, y_to_x, z_to_x))
    half = NormalDist().inv_cdf((1 + level) / 2) * variance**0.5
    return FIDDifference(value, value - half, value + half)


def _without_each_fold(rows: Tensor, folds: int, generator: torch.Generator) -> Sequence[Moments]:
    fold = torch.randperm(len(rows), generator=generator).to(rows.device) % folds
    return [Moments.of_sample("rows", rows[fold != j]) for j in range(folds)]


def _influences(x: Tensor, mx: Moments, y: Tensor, my: Moments) -> tuple[Tensor, Tensor]:
    """Of each row of x, (N,), and of y, (M,), on their FID, but for a constant."""
    left, sizes, right = torch.linalg.svd(mx.root @ my.root.T, full_matrices=False)
    inverse = torch.where(sizes > 1e-10 * sizes[0], 1 / sizes, 0)[:, None]  # no transport out of directions not seen
    p, q = left.T @ mx.root, right @ my.root
    return _influence(x - mx.mean, mx.mean - my.mean, q.T @ (inverse * q)), _influence(
        y - my.mean, my.mean - mx.mean, p.T @ (inverse * p)
    )


def _influence(c: Tensor, away: Tensor, transport: Tensor) -> Tensor:
    return 2 * c @ away + (c * (c - c @ transport)).sum(1)
