"""How good is an unnormalized model? Estimates that come with their error, or not at all.

Every number about a density needs log Z, and a bad estimate of it flatters the model: importance sampling from a noise
that does not cover the model misses mass, and a log Z that is too small is a likelihood that is too high. So each
estimate here has its error and its effective draws beside it, and `nll_snis` refuses to speak for fewer than a hundred.

    grid         exact in two dimensions, up to the difference to half the resolution
    snis         log mean w(y), y ~ q;   standard error sqrt(1/ess - 1/n) by the delta method
    ais          annealed importance sampling (Neal 2001): for models that no q covers

Effective draws are counted among the draws: a region that no draw hit is not missed. A second method tells.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from flatlab import checks
from flatlab.ebm.base import Energy, checked, energies
from flatlab.ebm.noise import NoiseLike, check_noise, draw
from flatlab.metrics import auroc
from flatlab.samplers import annealed

_ROWS = 32_768  # points that go through a model at once


class TooFewDraws(RuntimeError):
    """The noise does not cover the model well enough to say anything about it."""


class GridLogZ(NamedTuple):
    """log Z, the change of it from half the resolution, and the share of the mass in the outermost cells."""

    log_z: float
    error: float
    edge: float


class LogZ(NamedTuple):
    """log Z, the effective draws behind it, and its standard error."""

    log_z: float
    ess: float
    se: float


class NLL(NamedTuple):
    """Mean negative log-likelihood in nats, that of each sample (N,), and the log Z that it rests on."""

    value: float
    samples: Tensor
    log_z: LogZ


def log_z_grid(
    f: Energy, *, box: tuple[float, float] = (-7.0, 7.0), n: int = 400, device: torch.device | str = "cpu"
) -> GridLogZ:
    """log Z of a two-dimensional model by the midpoint rule.

    Args:
        f: (N, 2) -> (N,), called with float32 points.
        box: ends of both axes; `edge` tells whether it is too small.
        n: cells on each axis, at least 4.
        device: where f is called.

    Raises:
        ValueError: an empty box, too few cells, or energies that are NaN, +inf, or -inf at every point.
    """
    checks.at_least("n", n, 4)
    if not box[0] < box[1]:
        raise ValueError(f"box must be (low, high) with low < high, got {box}")
    found = []
    for cells in (n, n // 2):
        width = (box[1] - box[0]) / cells
        axis = box[0] + width * (torch.arange(cells, device=device) + 0.5)
        values = evaluated(f, torch.cartesian_prod(axis, axis)).view(cells, cells)
        if bool(values.isnan().any() | (values == torch.inf).any()):
            raise ValueError("f is NaN or infinite in the box: it has no log Z there")
        if bool((values == -torch.inf).all()):
            raise ValueError(f"exp f is zero at every point of the box {box}: move the box to the model, or enlarge it")
        found.append((values, float(values.logsumexp((0, 1))) + 2 * math.log(width)))
    (values, log_z), (_, coarse) = found
    inner = float((values[1:-1, 1:-1].logsumexp((0, 1)) - values.logsumexp((0, 1))).exp())
    return GridLogZ(log_z, abs(log_z - coarse), max(0.0, 1 - inner))


def log_z_snis(f: Energy, noise: NoiseLike, n: int, *, generator: torch.Generator | None = None) -> LogZ:
    """log Z by importance sampling.

    Args:
        f: (N, ...) -> (N,); -inf is a density of zero.
        noise: q, with `.sample` and `.log_prob`.
        n: draws.
        generator: of the draws.

    Raises:
        ValueError: n < 1, or weights that are NaN or infinite.
    """
    check_noise(noise)
    checks.at_least("n", n, 1)
    sizes = [min(_ROWS, n - start) for start in range(0, n, _ROWS)]
    parts = [draw(noise, size, generator) for size in sizes]
    return log_z_of(torch.cat([evaluated(f, y) - log_q.double() for y, log_q in parts]))


def nll_snis(
    f: Energy, x: Tensor, noise: NoiseLike, n: int, *, generator: torch.Generator | None = None, least: float = 100.0
) -> NLL:
    """Mean negative log-likelihood of x with log Z by importance sampling.

    Args:
        f, noise, n, generator: as in `log_z_snis`.
        x: data (N, ...).
        least: effective draws below which there is no answer.

    Raises:
        TooFewDraws: fewer effective draws than `least`.
    """
    log_z = log_z_snis(f, noise, n, generator=generator)
    if not log_z.ess >= least:
        raise TooFewDraws(
            f"{log_z.ess:.1f} effective of {n} draws, fewer than {least:g}: the noise does not cover the model, and a "
            "likelihood from it would be too high; widen the noise, cap the model, draw more, or use ais"
        )
    samples = log_z.log_z - evaluated(f, checked(x))
    return NLL(float(samples.mean()), samples, log_z)


def ais(
    f: Energy,
    noise: NoiseLike,
    n: int,
    *,
    temperatures: int = 100,
    steps: int = 1,
    eps: float = 0.25,
    generator: torch.Generator | None = None,
) -> LogZ:
    """log Z by annealed importance sampling, from the noise through q^(1 - beta) exp(f)^beta to the model.

    Args:
        f, generator: as in `log_z_snis`.
        noise: where chains start; its `log_prob` must be differentiable.
        n: chains.
        temperatures: beta takes so many steps of equal size from 0 to 1.
        steps, eps: of MALA at each of them.
    """
    betas = checks.at_least("temperatures", temperatures, 1)
    start, _ = draw(noise, n, generator)
    made = annealed(noise.log_prob, f, start, betas=betas, steps=steps, eps=eps, generator=generator)
    return log_z_of(made.log_weights)


def ood_auroc(f: Energy, x_in: Tensor, x_out: Tensor) -> float:
    """Probability that f is higher at a sample of the distribution than at one of another.

    Args:
        f: (N, ...) -> (N,), a score: log density, or a part of it.
        x_in: samples of the distribution that f models (N, ...).
        x_out: others (M, ...).
    """
    return auroc(evaluated(f, checked(x_in)), evaluated(f, checked(x_out)))


def evaluated(f: Energy, x: Tensor) -> Tensor:
    """f at many points (N, ...), a part at a time, without a graph: (N,) float64."""
    with torch.no_grad():
        return torch.cat([energies(f, part, strict=False).double() for part in x.split(_ROWS)])


def log_z_of(log_weights: Tensor) -> LogZ:
    """log Z from log weights (N,), f - log q at independent draws of q.

    Raises:
        ValueError: weights that are NaN or infinite, or all zero.
    """
    n, log_weights = len(log_weights), log_weights.double()
    if bool(log_weights.isnan().any() | (log_weights == torch.inf).any()):
        raise ValueError("log weights are NaN or infinite: f or the noise's log_prob is, at one of the draws")
    total = log_weights.logsumexp(0)
    if bool(total == -torch.inf):
        raise ValueError("exp f is zero at every draw: the noise does not meet the model; take one that covers it")
    ess = float((2 * total - (2 * log_weights).logsumexp(0)).exp())
    return LogZ(float(total) - math.log(n), ess, math.sqrt(max(0.0, 1 / ess - 1 / n)))
