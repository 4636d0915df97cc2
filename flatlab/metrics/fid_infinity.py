"""FID of infinitely many fakes, by extrapolation (Chong and Forsyth 2020, arXiv 1911.07023).

    FID_N = FID_inf + slope / N

FID of N fakes is too high by about slope / N: FIDs of subsets of one pool, at several N, lie on a line in 1/N, and its
value at 1/N = 0 has no first-order bias by the number of fakes. The real sample is taken as it is; what its size adds
stays. Official code draws Sobol points through a generator, which lowers the noise; here any pool will do.
"""

from dataclasses import dataclass

import numpy as np
import torch

from flatlab import checks
from flatlab.metrics.arguments import Numbers, features, same_columns
from flatlab.metrics.frechet import Moments, between


@dataclass(frozen=True)
class FIDInfinity:
    """A line through FIDs.

    Attributes:
        value: FID at 1/N = 0; it may lie below 0 where the true one is about 0.
        se: standard error of `value` by the scatter about the line alone. The subsets share rows with each other, and
            the pool and the real sample are fixed: over other samples `value` varies more than `se` says.
        slope: of FID against 1/N.
    """

    value: float
    se: float
    slope: float


def fid_infinity(real: Numbers, fake: Numbers, *, points: int = 10, seed: int = 0) -> FIDInfinity:
    """Fit FID = value + slope / N to random subsets of the fakes, by least squares.

    Args:
        real: features (N, D).
        fake: a pool of features (M, D), M >= 4 points.
        points: number of subsets, >= 3, of evenly spaced sizes from M / points, or 2 D if that is more (below it the
            bias is no line), but no more than M / 2, to M.
        seed: of the draws of the subsets.

    Raises:
        ValueError: as for `fid`, and a pool too small for the points.
    """
    checks.at_least("points", points, 3)
    reference, pool = Moments.of_sample("real", real), features("fake", fake, least=4 * points)
    same_columns(real=reference.mean, fake=pool)
    m, d = pool.shape
    generator = torch.Generator().manual_seed(seed)
    sizes = np.linspace(max(m // points, min(2 * d, m // 2)), m, points).round().astype(int)
    rows = [torch.randperm(m, generator=generator)[:size].to(pool.device) for size in sizes]
    found = [between(reference, Moments.of_sample("fake", pool[some])) for some in rows]
    design = np.stack([np.ones(points), 1 / sizes], 1)
    (value, slope), *_ = np.linalg.lstsq(design, np.array(found), rcond=None)
    variance = np.square(found - design @ (value, slope)).sum() / (points - 2)
    return FIDInfinity(float(value), float(np.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0])), float(slope))
