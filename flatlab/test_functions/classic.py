"""The classic test functions: Ackley, Levy and Goldstein-Price (see Surjanovic and Bingham's virtual library)."""

import math
from functools import partial

import torch
from torch import Tensor

from flatlab import checks
from flatlab.test_functions.base import Surface


def ackley(dims: int = 2) -> Surface:
    """Ackley's function: a cone with ripples of period 1, on [-5, 5]^D; its minimum, 0 at the origin, is a cusp.

        f(x) = -20 exp(-0.2 sqrt(mean x^2 + 1e-16)) - exp(mean cos 2 pi x) + 20 + e

    The 1e-16 is ours and makes the gradient at the origin 0 instead of 0/0; the value there is then 4e-8. Curvature
    at the cusp is of order 1e8 and means nothing: do not report it.
    """
    minima = torch.zeros(1, checks.at_least("dims", dims, 1), dtype=torch.float64)
    return Surface("ackley", _ackley, dims, (-5.0, 5.0), minima)


def levy(dims: int = 2) -> Surface:
    """Levy's function: a valley with ripples, on [-10, 10]^D; its minimum is 0 at (1, .., 1).

    f(x) = sin(pi w_1)^2 + sum_{i<D} (w_i - 1)^2 (1 + 10 sin(pi w_i + 1)^2) + (w_D - 1)^2 (1 + sin(2 pi w_D)^2)
    with w = 1 + (x - 1) / 4. Of its many minima none is flatter than the global one (2.2438 at D = 2).
    """
    minima = torch.ones(1, checks.at_least("dims", dims, 1), dtype=torch.float64)
    return Surface("levy", _levy, dims, (-10.0, 10.0), minima)


def goldstein_price(log: bool = True) -> Surface:
    """Goldstein and Price's polynomial of degree 8 in two variables, on [-2, 2]^2; four minima are known.

    With `log`, (ln f - 8.693) / 2.427, the scaling of Picheny et al. 2013, which has mean 0 and variance 1 on the box;
    without, f itself, which reaches 1e6. The global minimum at (0, -1), 3 or -3.1291, is the sharpest of the four on
    the log scale: here "flatter" and "better" contradict each other.
    """
    minima = torch.tensor([[0.0, -1.0], [-0.6, -0.4], [1.8, 0.2], [1.2, 0.8]], dtype=torch.float64)
    return Surface("goldstein_price", partial(_goldstein_price, log=log), 2, (-2.0, 2.0), minima)


def _ackley(x: Tensor) -> Tensor:
    radius = (x.square().mean(dim=-1) + 1e-16).sqrt()
    return -20 * (-0.2 * radius).exp() - (2 * math.pi * x).cos().mean(dim=-1).exp() + 20 + math.e


def _levy(x: Tensor) -> Tensor:
    w = 1 + (x - 1) / 4
    inner, last = w[..., :-1], w[..., -1]
    middle = ((inner - 1).square() * (1 + 10 * (math.pi * inner + 1).sin().square())).sum(dim=-1)
    end = (last - 1).square() * (1 + (2 * math.pi * last).sin().square())
    return (math.pi * w[..., 0]).sin().square() + middle + end


def _goldstein_price(x: Tensor, *, log: bool) -> Tensor:
    x, y = x.unbind(dim=-1)
    first = 19 - 14 * x + 3 * x * x - 14 * y + 6 * x * y + 3 * y * y
    second = 18 - 32 * x + 12 * x * x + 48 * y - 36 * x * y + 27 * y * y
    value = (1 + (x + y + 1).square() * first) * (30 + (2 * x - 3 * y).square() * second)
    return (value.log() - 8.693) / 2.427 if log else value
