"""Three small games on which the theorem about two time scales can be watched.

Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", sections 2, 4
and A2.3. A slow player (rate a(n)) and a fast one (rate b(n)) follow noisy gradients. The theorem asks for
a(n) = o(b(n)), sums of a and b that diverge and sums of squares that do not; the paper's experiments, and the first
toy, hold the rates constant instead.

    saddle           f(x, y) = (1 + x^2) (100 - y^2), x descends and y ascends (figure 4)
    quadratic_game   f(theta, w) = -a/2 theta^2 + b theta w - c/2 w^2, theta descends and w ascends (ours)
    network_flow     four sources share three links, log utility, a price for each link (figure 1 and A2.3, after Zhang
                     et al. 2007; the capacities are ours)

In the quadratic game with a > 0 the slow player's limit is a stationary point and a local min-max, but no local Nash
point: for a fixed w it is a maximum in theta. Only a large enough b/a makes it attract.

All settings and all runs are computed in one loop, in float64. Run r sees the same noise in every setting, so that
settings can be compared run by run.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from flatlab import checks

Rate = float | Tensor
_BLOCK = 1024  # steps whose noise is drawn at once
_CAPACITIES = np.array([1.0, 2.0, 1.0])  # of the three links
_ROUTES = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]], dtype=float)  # link by source: the fourth uses all links
_ROOT = math.sqrt(2)
OPTIMUM = (1 / _ROOT, 1 + 1 / _ROOT, 1 / _ROOT, 1 - 1 / _ROOT, _ROOT, 2 - _ROOT, _ROOT)
"""Of the network flow: the rates of the four sources, then the prices of the three links."""


def saddle(
    lr_x: Rate,
    lr_y: Rate,
    n: int = 5000,
    sigma: float = 1.0,
    *,
    order: str = "simultaneous",
    runs: int | None = None,
    record: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The path of (x, y) from (0.5, -0.4) on f = (1 + x^2) (100 - y^2).

    Args:
        lr_x, lr_y: constant rates > 0, numbers or tensors that broadcast to a shape S.
        n: number of steps.
        sigma: standard deviation of the noise in each partial derivative.
        order: "simultaneous", both from the old point, as in the paper's Eq. 1; or "sequential", y from the new x, as
            in the official code.
        runs: R independent runs; None for one, without an axis for it.
        record: rising step numbers in 0..n to return, W of them; all n + 1 by default.
        generator: of the noise.

    Returns:
        (*S, R, W, 2) float64.

    Raises:
        ValueError: a number out of bounds, an unknown order.
    """
    sequential = checks.one_of("order", order, ("simultaneous", "sequential")) == "sequential"

    def update(z: np.ndarray, noise: np.ndarray, rate_x: np.ndarray, rate_y: np.ndarray) -> None:
        x, y = z
        moved = x - rate_x * (2 * x * (100 - y * y) + noise[0])
        seen = moved if sequential else x
        y -= rate_y * (2 * y * (1 + seen * seen) + noise[1])
        x[...] = moved

    return _chains(update, (0.5, -0.4), (lr_x, lr_y), n, sigma, None, runs, record, generator)


def saddle_deviation(lr_x: float, lr_y: float, sigma: float = 1.0) -> tuple[float, float]:
    """Standard deviations of x and y that `saddle` settles to near (0, 0), exact for the linearised steps.

    There x shrinks by 1 - 200 lr_x and y by 1 - 2 lr_y at each step. Infinite where that is no contraction: from
    lr_x = 0.01 on, a bound that has nothing to do with the ratio of the rates.

    Args:
        lr_x, lr_y: constant rates > 0.
        sigma: standard deviation of the noise in each partial derivative.
    """
    sd = checks.nonnegative("sigma", sigma)
    pairs = ((checks.positive("lr_x", lr_x), 200.0), (checks.positive("lr_y", lr_y), 2.0))
    x, y = (lr * sd / math.sqrt(1 - (1 - h * lr) ** 2) if h * lr < 2 else math.inf for lr, h in pairs)
    return x, y


def quadratic_game(
    a: Rate,
    b: Rate,
    c: Rate,
    lr_g: Rate,
    lr_d: Rate,
    n: int,
    sigma: float = 0.1,
    *,
    decay: tuple[Rate, Rate, float] | None = None,
    runs: int | None = None,
    record: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The path of (theta, w) from (1, 0) on f = -a/2 theta^2 + b theta w - c/2 w^2, both updated from the old point.

    Args:
        a, b, c: of f; numbers or tensors that broadcast with the rates to a shape S.
        lr_g: rate > 0 of theta, which descends.
        lr_d: rate > 0 of w, which ascends.
        n: number of steps.
        sigma: standard deviation of the noise in each partial derivative.
        decay: (p, q, n0): the rates are lr_g (1 + n/n0)^-p and lr_d (1 + n/n0)^-q. None holds them constant. p and q
            may be tensors as well.
        runs: R independent runs; None for one, without an axis for it.
        record: rising step numbers in 0..n to return, W of them; all n + 1 by default.
        generator: of the noise.

    Returns:
        (*S, R, W, 2) float64, infinite or NaN once a chain has overflowed.

    Raises:
        ValueError: a number out of bounds.
    """
    shape = _shape(a, b, c, lr_g, lr_d, *(decay or ())[:2])
    of_a, of_b, of_c = (_array(value, shape) for value in (a, b, c))

    def update(z: np.ndarray, noise: np.ndarray, rate_g: np.ndarray, rate_d: np.ndarray) -> None:
        theta, w = z
        step = (of_a * theta - of_b * w + noise[0]) * rate_g
        w += (of_b * theta - of_c * w + noise[1]) * rate_d
        theta += step

    return _chains(update, (1.0, 0.0), (lr_g, lr_d), n, sigma, decay, runs, record, generator, shape)


def game_eigenvalues(a: float, b: float, c: float, tau: float) -> Tensor:
    """The eigenvalues (2,) complex128 of the quadratic game's flow theta' = a theta - b w, w' = tau (b theta - c w).

    Args:
        a, b, c: of the game.
        tau: lr_d / lr_g > 0. Time is in units of 1 / lr_g: a step multiplies by 1 + lr_g times an eigenvalue.
    """
    middle = (a - checks.positive("tau", tau) * c) / 2
    root = torch.tensor(middle**2 - tau * (b * b - a * c), dtype=torch.complex128).sqrt()
    return middle + torch.stack([root, -root])


def critical_ratio(a: float, b: float, c: float) -> float:
    """The ratio lr_d / lr_g above which, and for every larger one, the quadratic game's flow is attracted to (0, 0).

    The trace a - tau c must be negative and the determinant tau (b^2 - a c) positive. So it is a / c where
    b^2 > a c, c > 0 and a > 0; zero (every ratio) where b^2 > a c, a <= 0 <= c and not both are zero; and infinite
    otherwise: no ratio settles the game where b^2 <= a c, a >= 0 >= c, and only ratios below a / c do where both are
    negative, which is the same game with the players exchanged.

    Args:
        a, b, c: of the game, any finite numbers.
    """
    if not all(map(math.isfinite, (a, b, c))):
        raise ValueError(f"a, b, c must be finite numbers, got {a!r}, {b!r}, {c!r}")
    if b * b <= a * c or c < 0 or (c == 0 and a >= 0):
        return math.inf
    return max(0.0, a / c) if c > 0 else 0.0


def network_flow(
    lr_x: Rate,
    lr_p: Rate,
    n: int,
    sigma: float = 1.0,
    *,
    bias: float = 0.0,
    decay: tuple[Rate, Rate, float] | None = None,
    runs: int | None = None,
    record: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """How far sources and prices are from the optimum of max sum_i log x_i, under the links' capacities (1, 2, 1).

    Sources 1, 2 and 3 use one link each, source 4 all three. Sources ascend and prices descend the Lagrangian
    sum_i log x_i - sum_l p_l (load_l - capacity_l):

        x_i += lr_x (1 / x_i - sum of the prices on its route + noise + bias)      kept in [0.1, 10]
        p_l -= lr_p (capacity of link l - its load + noise + bias)                 kept in [0, 10]

    from x = p = 1. The optimum is `OPTIMUM`; the flow is stable for every ratio of the rates.

    Args:
        lr_x, lr_p: rates > 0, numbers or tensors that broadcast to a shape S.
        n: number of steps.
        sigma: standard deviation of the noise in each partial derivative.
        bias: added to each partial derivative at every step, as by an estimate that is wrong on average.
        decay: (p, q, n0): the rates are lr_x (1 + n/n0)^-p and lr_p (1 + n/n0)^-q. None holds them constant.
        runs: R independent runs; None for one, without an axis for it.
        record: rising step numbers in 0..n to return, W of them; all n + 1 by default.
        generator: of the noise.

    Returns:
        (*S, R, W) float64: the norm of (x, p) - optimum over the norm of the optimum.

    Raises:
        ValueError: a number out of bounds.
    """
    if not math.isfinite(bias):
        raise ValueError(f"bias must be finite, got {bias!r}")

    def update(z: np.ndarray, noise: np.ndarray, rate_x: np.ndarray, rate_p: np.ndarray) -> None:
        x, p = z[:4], z[4:]
        free = _CAPACITIES.reshape(3, *[1] * (x.ndim - 1)) - np.tensordot(_ROUTES, x, 1)
        x += rate_x * (1 / x - np.tensordot(_ROUTES.T, p, 1) + noise[:4] + bias)
        p -= rate_p * (free + noise[4:] + bias)
        np.clip(x, 0.1, 10, out=x)
        np.clip(p, 0, 10, out=p)

    path = _chains(update, (1.0,) * 7, (lr_x, lr_p), n, sigma, decay, runs, record, generator)
    optimum = path.new_tensor(OPTIMUM)
    return (path - optimum).norm(dim=-1) / optimum.norm()


def _chains(
    update: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None],
    start: Sequence[float],
    rates: tuple[Rate, Rate],
    n: int,
    sigma: float,
    decay: tuple[Rate, Rate, float] | None,
    runs: int | None,
    record: Sequence[int] | None,
    generator: torch.Generator | None,
    shape: tuple[int, ...] | None = None,
) -> Tensor:
    """The recorded states (*S, R, W, D) of the chains that `update` moves in place, from `start` (D,).

    The state is (D, *S, R), a row of noise (D, 1, ..., R), a rate (*S, 1). The loop is numpy's: on arrays as small as
    these its calls cost a third of torch's.
    """
    checks.at_least("n", n, 1)
    checks.nonnegative("sigma", sigma)
    count = checks.at_least("runs", 1 if runs is None else runs, 1)
    p, q, n0 = (0.0, 0.0, 1.0) if decay is None else decay
    checks.positive("n0 of decay", n0)
    shape = _shape(*rates, p, q) if shape is None else shape
    first, second = (_array(rate, shape) for rate in rates)
    if not ((first > 0).all() and (second > 0).all() and np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError(f"rates must be finite numbers > 0, got {rates[0]!r} and {rates[1]!r}")
    wanted = list(range(n + 1)) if record is None else [int(step) for step in record]
    if not wanted or wanted[0] < 0 or wanted[-1] > n or any(a >= b for a, b in pairwise(wanted)):
        raise ValueError(f"record must hold rising step numbers in 0..{n}, got {record!r}")
    slots = {step: slot for slot, step in enumerate(wanted)}
    state = np.empty((len(start), *shape, count))
    state[...] = np.reshape(start, (-1, *[1] * (len(shape) + 1)))
    path = np.empty((len(wanted), *state.shape))
    if 0 in slots:
        path[0] = state
    powers = _array(p, shape), _array(q, shape)
    with np.errstate(over="ignore", invalid="ignore"):
        for begin in range(0, n, _BLOCK):
            size = min(_BLOCK, n - begin)
            draws = torch.randn(size, len(start), count, generator=generator, dtype=torch.float64).numpy() * sigma
            noise = draws.reshape(size, len(start), *[1] * len(shape), count)
            time = (1 + np.arange(begin, begin + size) / n0).reshape(-1, *[1] * (len(shape) + 1))
            fall_1, fall_2 = (rate * time**-power for rate, power in zip((first, second), powers, strict=True))
            for step in range(size):
                update(state, noise[step], fall_1[step], fall_2[step])
                slot = slots.get(begin + step + 1)
                if slot is not None:
                    path[slot] = state
    out = torch.from_numpy(np.ascontiguousarray(np.moveaxis(path, (0, 1), (-2, -1))))
    return out if runs is not None else out.squeeze(-3)


def _shape(*values: Rate) -> tuple[int, ...]:
    return np.broadcast_shapes(*(np.shape(np.asarray(value)) for value in values))


def _array(value: Rate, shape: tuple[int, ...]) -> np.ndarray:
    """A number or tensor as (*shape, 1): the last axis is that of the runs."""
    return np.broadcast_to(np.asarray(value, dtype=float), shape)[..., None]
