"""What the critical-momenta memory does where it can be computed: on a quadratic, and on a constant gradient.

On f(x) = h x^2 / 2, with mu = lr * h (for Adam, h is preconditioned by 1 / sqrt(v)) and a first-in-first-out memory of
C momenta,

    m_t = beta1 m_{t-1} + (1 - beta1) mu x_t,      x_{t+1} = x_t - m_t - (1/C) sum_{k=1..C} m_{t-k}

is a linear recurrence, whose modes z^t solve

    (z - 1)(z - beta1) + mu (1 - beta1) z [1 + (1/C) sum_{k=1..C} z^-k] = 0.

A minimum attracts where all roots lie inside the unit circle. C = 0 is plain momentum: stable below
mu = 2 (1 + beta1) / (1 - beta1). C = 1 is stable below mu = 1, whatever beta1 is. At beta1 = 0.9 a memory lowers the
bound from 38 to less than 1. This analysis is ours. The method is that of Malviya et al. 2024 (Promoting Exploration
in Memory-Augmented Adam using Critical Momenta).
"""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from flatlab.checks import one_of

INITS = ("paper", "official", "corrected")


def spectral_radius(mu: float, capacity: int, beta1: float = 0.9) -> float:
    """The largest |z| over the modes: the factor by which |x_t| shrinks or grows each step in the long run.

    Args:
        mu: learning rate times curvature, >= 0.
        capacity: C, the number of momenta in memory; 0 for none.
        beta1: decay of the momentum, in [0, 1).

    Raises:
        ValueError: a number out of these bounds.
    """
    return float(np.abs(_modes(mu, capacity, beta1)).max())


def stable_curvature(capacity: int, beta1: float = 0.9) -> float:
    """The largest mu up to which every smaller mu > 0 is stable, to 12 digits.

    Larger mu may be stable again, so this looks for the first crossing: on a fine grid upwards, then by bisection.
    """
    _check(0.0, capacity, beta1)
    # Beyond this mu the polynomial has a real root below -1. (At C = 1 it has none, but is unstable from 1 on.)
    last = 2 * (1 + beta1) / (1 - beta1) * (capacity / (capacity - 1) if capacity % 2 and capacity > 1 else 1.0)
    grid = np.geomspace(0.1 / (capacity + 10), 1.01 * last, 1500)
    unstable = next(i for i, mu in enumerate(grid) if spectral_radius(mu, capacity, beta1) >= 1)
    low, high = grid[unstable - 1], grid[unstable]
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if spectral_radius(middle, capacity, beta1) < 1 else (low, middle)
    return float(high)


def cycle_size(capacity: int, beta1: float = 0.9) -> float:
    """How far from a minimum an iterate circles that the threshold does not let come to rest, in learning rates.

    A second moment that is built from the aggregate itself, v = mean of u^2, shrinks with the steps until the
    preconditioned curvature reaches `stable_curvature`; there a mode z on the unit circle neither grows nor decays. On
    it |x_{t+1} - x_t| = |z - 1| |x_t|, while steps u / sqrt(v) have a root mean square of lr. So the root mean square
    distance is lr / |z - 1|, whatever the curvature. Adam's v is built from gradients h x instead: its distance is
    lr / `stable_curvature(0, beta1)`.

    Args:
        capacity: C, the number of momenta in memory; 0 for none.
        beta1: decay of the momentum, in [0, 1).
    """
    modes = _modes(stable_curvature(capacity, beta1), capacity, beta1)
    return float(1 / np.abs(modes[np.abs(modes).argmax()] - 1))


def simulate_quadratic(
    mu: float, capacity: int, beta1: float = 0.9, steps: int = 1000, *, start: float = 1.0
) -> NDArray[np.float64]:
    """The iterates x_0 .. x_steps (steps + 1,) of the recurrence above, from m = 0 and C zeros in memory.

    Computed step by step, independently of the polynomial. An optimizer whose memory starts empty, and which divides
    by the number of items in it, differs in the first C steps. Unstable iterates overflow in the end, to inf and nan.

    Args:
        mu: learning rate times curvature, >= 0.
        capacity: C, the number of momenta in memory; 0 for none.
        beta1: decay of the momentum, in [0, 1).
        steps: how many.
        start: x_0.
    """
    _check(mu, capacity, beta1)
    x, m, path = start, 0.0, [start]
    memory = deque([0.0] * capacity, maxlen=capacity)
    for _ in range(steps):
        m = beta1 * m + (1 - beta1) * mu * x
        x -= m + _mean(memory)
        memory.append(m)
        path.append(x)
    return np.array(path)


def overshoot(mu: float, capacity: int, beta1: float = 0.9, steps: int = 1000) -> float:
    """The lowest x_t on the way from x_0 = 1 to the minimum at 0: below zero by how far it is overshot.

    The arguments are those of `simulate_quadratic`.
    """
    return float(simulate_quadratic(mu, capacity, beta1, steps).min())


def first_steps(
    init: str = "paper", beta1: float = 0.9, beta2: float = 0.999, capacity: int = 5, steps: int = 40
) -> NDArray[np.float64]:
    """Lengths (steps,) of the first steps of Adam with critical momenta on a constant gradient, in units of lr.

    With u_t = m_t + mean(memory), v_t = beta2 v_{t-1} + (1 - beta2) u_t^2 and eps = 0; memory is the last C items.

    Args:
        init: how the method starts. "paper": the step is (u_t / (1 - beta1^t)) / sqrt(v_t / (1 - beta2^t)). This
            corrects the start-up of m twice, since v is made from u: the first step is 1 / (1 - beta1). "official":
            as the authors' code, which does not move at step 1, keeps m = v = 0 and stores the gradient itself; the
            second step is sqrt(1 + beta2) / (1 - beta1^2). "corrected": items and u are made from m_t / (1 - beta1^t),
            which is not corrected again; the first step is 1.
        beta1: decay of the momentum, in [0, 1).
        beta2: decay of the second moment, in [0, 1).
        capacity: C, 0 for no memory.
        steps: how many.

    Raises:
        ValueError: an unknown `init`, or a number out of bounds.
    """
    one_of("init", init, INITS)
    _check(0.0, capacity, beta1)
    _check(0.0, capacity, beta2, "beta2")
    m, v, memory, lengths = 0.0, 0.0, deque[float](maxlen=capacity), []
    for t in range(1, steps + 1):
        if init == "official" and t == 1:
            memory.append(1.0)
            lengths.append(0.0)
            continue
        m = beta1 * m + (1 - beta1)
        bias = 1 - beta1**t
        item, divisor = (m / bias, 1.0) if init == "corrected" else (m, bias)
        u = item + _mean(memory)
        v = beta2 * v + (1 - beta2) * u**2
        memory.append(item)
        lengths.append(u / divisor / (v / (1 - beta2**t)) ** 0.5)
    return np.array(lengths)


def _modes(mu: float, capacity: int, beta1: float) -> NDArray[np.complex128]:
    """The roots z (C + 2,) of the polynomial above."""
    _check(mu, capacity, beta1)
    polynomial = np.zeros(capacity + 3)  # times z^C, from the power C + 2 down to 0
    polynomial[:3] = 1, -(1 + beta1), beta1
    polynomial[1] += mu * (1 - beta1)
    polynomial[2 : 2 + capacity] += mu * (1 - beta1) / max(capacity, 1)
    return np.roots(polynomial).astype(np.complex128)


def _mean(memory: deque[float]) -> float:
    return sum(memory) / len(memory) if memory else 0.0


def _check(mu: float, capacity: int, beta: float, name: str = "beta1") -> None:
    if not 0 <= mu < np.inf:
        raise ValueError(f"mu must be a finite number >= 0, got {mu!r}")
    if isinstance(capacity, bool) or int(capacity) != capacity or capacity < 0:
        raise ValueError(f"capacity must be an integer >= 0, got {capacity!r}")
    if not 0 <= beta < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {beta!r}")
