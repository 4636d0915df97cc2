"""Traces and spectral densities of a Hessian from random probes.

    trace:    tr H = E[v . H v]  for v of independent signs (Hutchinson 1990)
    density:  stochastic Lanczos quadrature (Ubaru, Chen, Saad 2017; Ghorbani et al. 2019): the Ritz values of a short
              Lanczos run, weighted by the squared first components of T's eigenvectors, averaged over starting vectors

The number of probes is what the caller asked for, and the standard error says what it was worth. PyHessian stops when
two running means happen to agree, which they may by chance, and gives no error.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flatlab import checks
from flatlab.flatness.directions import draw
from flatlab.flatness.hessian import Hessian, unflatten
from flatlab.flatness.lanczos import lanczos
from flatlab.flatness.landscape import Landscape


@dataclass(frozen=True)
class Trace:
    """An estimate of the trace of a Hessian.

    Attributes:
        mean: the estimate.
        stderr: its standard error over probes; NaN for a single probe.
        samples: (probes,) float64.
        by_tensor: (mean, stderr) of the trace of the diagonal block of each tensor of the space, by its name; the
            means add up to `mean`.
    """

    mean: float
    stderr: float
    samples: Tensor = field(repr=False)
    by_tensor: dict[str, tuple[float, float]] = field(repr=False)


def hutchinson_trace(landscape: Landscape, *, probes: int = 100, generator: torch.Generator | None = None) -> Trace:
    """The trace of the Hessian at the landscape's point, in all and layer by layer.

    The standard error is about sqrt(2 (||H||_F^2 - sum_i H_ii^2) / probes).

    Args:
        landscape: over parameters or inputs.
        probes: random sign vectors, one Hessian-vector product each.
        generator: of the probes.
    """
    checks.at_least("probes", probes, 1)
    hessian, rows = Hessian(landscape), []
    for _ in range(probes):
        vector = draw("rademacher", (hessian.size,), landscape.point[0], generator)
        products = unflatten(vector * (hessian @ vector), landscape.point)
        rows.append(torch.stack([product.sum(dtype=torch.float64) for product in products]))
    blocks = torch.stack(rows).cpu()
    by_tensor = {name: _mean_stderr(blocks[:, i]) for i, name in enumerate(landscape.names)}
    mean, stderr = _mean_stderr(blocks.sum(1))
    return Trace(mean, stderr, blocks.sum(1), by_tensor)


def _mean_stderr(samples: Tensor) -> tuple[float, float]:
    count = len(samples)
    return float(samples.mean()), float(samples.std()) / math.sqrt(count) if count > 1 else math.nan


@dataclass(frozen=True)
class SpectralDensity:
    """The density of a Hessian's eigenvalues: a quadrature rule, and its picture.

    Attributes:
        values: (m,) float64, Ritz values of all probes; their extremes approach those of the spectrum.
        weights: (m,) float64, shares of the spectrum; they sum to 1, and n sum(weights * values) estimates the trace.
        grid: (points,) float64, eigenvalues at which the density is given.
        density: (points,) float64, the rule smoothed by a Gaussian; it integrates to 1.
    """

    values: Tensor
    weights: Tensor
    grid: Tensor = field(repr=False)
    density: Tensor = field(repr=False)


def spectral_density(
    landscape: Landscape,
    *,
    steps: int = 30,
    probes: int = 4,
    points: int = 1000,
    bandwidth: float | None = None,
    generator: torch.Generator | None = None,
) -> SpectralDensity:
    """The distribution of the eigenvalues of the Hessian at the landscape's point.

    Args:
        steps: Lanczos steps per probe. probes: number of random starting vectors.
        points: size of the grid of the smoothed density.
        bandwidth: standard deviation of the smoothing Gaussian. Default: 1 % of the range of the Ritz values.
        generator: where the starting vectors come from.
    """
    checks.at_least("steps", steps, 1)
    checks.at_least("probes", probes, 1)
    checks.at_least("points", points, 2)
    hessian, values, weights = Hessian(landscape), [], []
    for _ in range(probes):
        start = draw("rademacher", (hessian.size,), landscape.point[0], generator)
        tridiagonal, _, _ = lanczos(hessian.__matmul__, start, steps)
        theta, vectors = torch.linalg.eigh(tridiagonal)
        values.append(theta)
        weights.append(vectors[0].square() / probes)
    theta, share = torch.cat(values), torch.cat(weights)
    low, high = float(theta.min()), float(theta.max())
    width = bandwidth if bandwidth is not None else 0.01 * (high - low) or 0.01 * abs(high) or 1.0
    checks.positive("bandwidth", width)
    grid = torch.linspace(low - 5 * width, high + 5 * width, points, dtype=torch.float64)
    bumps = torch.exp(-0.5 * ((grid[:, None] - theta) / width).square()) / (width * math.sqrt(2 * math.pi))
    return SpectralDensity(theta, share, grid, bumps @ share)
