"""The mean of a Gaussian: where NCE is flat, MECO is noisy, and both can be computed.

Data N(R, 1), noise q = N(0, s^2), and the model p(x) ~ exp f(x) with f(x) = b x + log N(x; 0, 1): its mean is b, its
log Z is b^2 / 2. NCE and eNCE learn c beside it; their optimum is b = R, c = R^2 / 2. With G = f - c - log q and
T = (x, -1):

    NCE    1/2 E_data log(1 + e^-G) + 1/2 E_q log(1 + e^G)
           Hessian at the optimum, s = 1:   1/2 int p q / (p + q) T T'  <=  1/4 e^(-R^2/8) M
    eNCE   1/2 E_data e^(-G/2) + 1/2 E_q e^(G/2)
           Hessian at the optimum, s = 1:   1/4 e^(-R^2/8) M,       M = [[1 + R^2/4, -R/2], [-R/2, 1]]
    MLE    (b - R)^2 / 2 + const, whatever R and q

The likelihood does not know q; its estimate does. Of weights w = p/q with the model N(t, 1) and q = N(t - d, s^2),

    1 + chi^2 = E_q[w^2] = s^2 / sqrt(2 s^2 - 1) exp(d^2 / (2 s^2 - 1))           (s^2 > 1/2, else infinite)
    V = Var_q(w (y - t)) = (1 + chi^2) (s^2 / (2 s^2 - 1) + d^2 / (2 s^2 - 1)^2)

so that stochastic gradient descent with steps 1/t and m draws a batch ends at T m E(b_T - R)^2 -> 1 + V.

Landscape: Liu, Rosenfeld, Ravikumar and Risteski 2022; variance: our derivation. NCE by the trapezoid rule, which for
such integrands converges exponentially; everything in float64.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab import checks

Numbers = Tensor | float


class Population(NamedTuple):
    """A loss of infinitely many samples: value (...), gradient (..., 2) in (b, c), Hessian (..., 2, 2)."""

    value: Tensor
    grad: Tensor
    hess: Tensor


def nce_population(b: Numbers, c: Numbers, R: Numbers, *, s: Numbers = 1.0, spacing: float = 0.02) -> Population:
    """NCE's loss.

    Args:
        b, c: where, any shapes that broadcast with R and s.
        R: mean of the data.
        s: standard deviation of the noise.
        spacing: of the trapezoid rule; 0.1 is good to ten digits for |b| <= 10.
    """
    b, c, R, s = _float64(b, c, R, s)
    x, data, noise = _densities(R, s, spacing)
    gap = b[..., None] * x - c[..., None] + (1 / s.square() - 1)[..., None] / 2 * x.square() + s.log()[..., None]
    share = gap.sigmoid()
    value = (data * F.softplus(-gap) + noise * F.softplus(gap)).sum(-1) / 2
    slope = (share * noise - (1 - share) * data) / 2
    bend = (data + noise) * share * (1 - share) / 2
    mixed = -(bend @ x)
    hess = torch.stack([bend @ x.square(), mixed, mixed, bend.sum(-1)], -1).unflatten(-1, (2, 2))
    return Population(value, torch.stack([slope @ x, -slope.sum(-1)], -1), hess)


def ence_population(b: Numbers, c: Numbers, R: Numbers) -> Population:
    """eNCE's loss for the noise N(0, 1), in closed form.

    Args:
        b, c: where, any shapes that broadcast with R.
        R: mean of the data.
    """
    b, c, R = _float64(b, c, R)
    one = (c / 2 - b * R / 2 + b.square() / 8).exp() / 2
    two = (-c / 2 + b.square() / 8).exp() / 2
    left, right = b / 4 - R / 2, b / 4
    grad = torch.stack([one * left + two * right, (one - two) / 2], -1)
    mixed = one * left / 2 - two * right / 2
    rows = [one * (left.square() + 0.25) + two * (right.square() + 0.25), mixed, mixed, (one + two) / 4]
    return Population(one + two, grad, torch.stack(rows, -1).unflatten(-1, (2, 2)))


def mle_population(b: Numbers, c: Numbers, R: Numbers) -> Population:
    """The negative log-likelihood in nats, which c is no part of.

    Args:
        b: where, any shape that broadcasts with c and R.
        c: of no effect.
        R: mean of the data.
    """
    b, c, R = _float64(b, c, R)
    gap, zero = b - R, torch.zeros_like(b)
    hess = torch.stack([zero + 1, zero, zero, zero], -1).unflatten(-1, (2, 2))
    value = gap.square() / 2 + math.log(2 * math.pi * math.e) / 2
    return Population(value, torch.stack([gap, zero], -1), hess)


def chi2(delta: Numbers, s: Numbers) -> Tensor:
    """chi^2 = Var_q(w) / Z^2 of the weights of a model N(t, 1) under q = N(t - delta, s^2); inf for s^2 <= 1/2."""
    delta, s = _float64(delta, s)
    spread = 2 * s.square() - 1
    found = s.square() / spread.clamp(min=0).sqrt() * (delta.square() / spread).exp()
    return torch.where(spread > 0, found - 1, torch.inf)


def gradient_variance(delta: Numbers, s: Numbers) -> Tensor:
    """V = Var_q(w (y - t)): of the noise's part of the gradient, one draw, at the optimum; inf for s^2 <= 1/2."""
    delta, s = _float64(delta, s)
    spread = 2 * s.square() - 1
    found = (1 + chi2(delta, s)) * (s.square() / spread + delta.square() / spread.square())
    return torch.where(spread > 0, found, torch.inf)


def best_width(delta: Numbers) -> Tensor:
    """The width s of q = N(t - delta, s^2) with the least chi^2: where its derivative in s^2 vanishes."""
    (delta,) = _float64(delta)
    # d/dv of log v - log(2v - 1)/2 + delta^2/(2v - 1) = 0  <=>  2 v^2 - (3 + 2 delta^2) v + 1 = 0
    half = 3 + 2 * delta.square()
    return ((half + (half.square() - 8).sqrt()) / 4).sqrt()


def _densities(R: Tensor, s: Tensor, spacing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes (X,), and the densities of data and noise there times the spacing, (..., X)."""
    checks.positive("spacing", spacing)
    reach = 12 * max(1.0, float(s.max()))
    low, high = min(0.0, float(R.min())) - reach, max(0.0, float(R.max())) + reach
    x = torch.linspace(low, high, math.ceil((high - low) / spacing) + 1, dtype=torch.float64)
    step, root = float(x[1] - x[0]), math.sqrt(2 * math.pi)
    data = (-(x - R[..., None]).square() / 2).exp() * (step / root)
    noise = (-(x / s[..., None]).square() / 2).exp() * (step / root) / s[..., None]
    return x, data, noise


def _float64(*values: Numbers) -> list[Tensor]:
    return list(torch.broadcast_tensors(*(torch.as_tensor(value, dtype=torch.float64) for value in values)))
