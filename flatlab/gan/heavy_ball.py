"""Adam as a heavy ball with friction.

Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", section 3.
Adam's first moment is the memory of a ball with mass (Gadat et al. 2018, the paper's Eq. 4), with beta1 = 1 - a r:

    theta_{n+1} = theta_n - a m_n          m_{n+1} = m_n + a r (grad f(theta_n) - m_n) = (1 - a r) m_n + a r grad f

Where the second moment v stays as it is, Adam follows theta'' + gamma theta' + grad f(theta) = 0 (theorem 2). For a
constant rate lr, with the effective rate h = lr / sqrt(v), an iteration and the friction are, in the ball's own time,

    dt = sqrt(h (1 - beta1))          gamma = sqrt((1 - beta1) / h)          error O(dt)

(derived here; the paper leaves its a(t) abstract). Friction falls when the rate or beta1 rises, so that it is not the
learning rate: with a small rate the ball is overdamped and follows the gradient. The energy |theta'|^2 / 2 + f falls at
the speed gamma |theta'|^2. On a curvature k the steps with momentum overshoot the minimum from
h k = (1 - sqrt(beta1)) / (1 + sqrt(beta1)) on, and diverge from h k = 2 (1 + beta1) / (1 - beta1) on.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from flatlab import checks

Gradient = Callable[[Tensor], Tensor]


def friction(lr: float, beta1: float, v: float = 1.0) -> float:
    """gamma = sqrt((1 - beta1) / (lr / sqrt(v))) of the ball that Adam follows.

    Args:
        lr: Adam's rate > 0.
        beta1: its memory, in [0, 1).
        v: its second moment > 0; 1 for plain momentum.
    """
    return math.sqrt((1 - _memory(beta1)) / _effective(lr, v))


def time_step(lr: float, beta1: float, v: float = 1.0) -> float:
    """The ball's time sqrt((1 - beta1) lr / sqrt(v)) in an iteration of Adam; the arguments are those of `friction`."""
    return math.sqrt((1 - _memory(beta1)) * _effective(lr, v))


def overshoot_threshold(beta1: float) -> float:
    """Rate times curvature above which the steps overshoot a quadratic's minimum: (1 - sqrt(b)) / (1 + sqrt(b))."""
    root = math.sqrt(_memory(beta1))
    return (1 - root) / (1 + root)


def stability_threshold(beta1: float) -> float:
    """Rate times curvature from which on the steps diverge on a quadratic: 2 (1 + beta1) / (1 - beta1)."""
    return 2 * (1 + _memory(beta1)) / (1 - beta1)


def hbf_ode(
    grad: Gradient, x0: Tensor, gamma: float, t: Tensor, v0: float | Tensor = 0.0, *, tol: float = 1e-10
) -> tuple[Tensor, Tensor]:
    """Positions and velocities of theta'' + gamma theta' + grad f(theta) = 0, by an explicit method of order 8.

    Args:
        grad: the gradient at many points at once; what it does to one must not depend on the others.
        x0: starts, any shape, computed in float64.
        gamma: friction >= 0.
        t: rising times (T,), T >= 2, none before 0, when the ball starts.
        v0: velocities at time 0, a number or a tensor that broadcasts to the shape of x0.
        tol: relative and absolute error allowed in a step.

    Returns:
        Two tensors (T, *x0.shape) in float64.

    Raises:
        ValueError: a number out of bounds, times that do not rise.
        RuntimeError: the method gives up, as where grad is not finite.
    """
    from scipy.integrate import solve_ivp  # imported here so that the room needs torch and numpy alone

    checks.nonnegative("gamma", gamma)
    times = t.double()
    if times.ndim != 1 or len(times) < 2 or not (times[0] >= 0 and (times.diff() > 0).all()):
        raise ValueError(
            f"t must hold two or more rising times (T,) from 0 on, got shape {tuple(t.shape)}: {t.tolist()[:5]}"
        )
    x0 = x0.double()
    start = torch.stack([x0, torch.as_tensor(v0, dtype=torch.float64).expand_as(x0)])

    def velocity(_: float, flat: np.ndarray) -> np.ndarray:
        x, speed = torch.from_numpy(flat).view(start.shape)
        return torch.stack([speed, -gamma * speed - grad(x)]).flatten().numpy()

    end = float(times[-1])
    solved = solve_ivp(velocity, (0.0, end), start.flatten().numpy(), "DOP853", times.numpy(), rtol=tol, atol=tol)
    if not solved.success:
        raise RuntimeError(f"the integration stopped before t={end:g}: {solved.message}")
    x, speed = torch.from_numpy(solved.y.T.copy()).view(len(times), *start.shape).unbind(1)
    return x, speed


def adam_path(
    grad: Gradient,
    x0: Tensor,
    *,
    lr: float | Tensor,
    betas: tuple[float, float] = (0.9, 0.999),
    n: int,
    eps: float = 1e-8,
    v: float | Tensor | None = None,
    bias_correction: bool = True,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The iterates of Adam from many starts at once, each coordinate a chain of its own.

        m = b1 m + (1 - b1) g      v = b2 v + (1 - b2) g^2      x -= lr m / (sqrt(v) + eps),  g = grad(x) + noise z

    Args:
        grad: the gradient at the points, with their shape.
        x0: starts, any shape, computed in their dtype.
        lr: rate > 0, a number or a tensor that broadcasts to the shape of x0.
        betas: b1 in [0, 1), b2 in [0, 1]. b2 = 1 freezes v: momentum with the effective rate lr / sqrt(v).
        n: number of steps.
        eps: as in Adam.
        v: None starts at zero, as Adam does; a number or a tensor > 0 is a warm start.
        bias_correction: divide by 1 - b^n the moments that start at zero, as Adam does. The paper's recursions do not.
        noise: standard deviation of the noise in the gradient.
        generator: of the noise.

    Returns:
        (n + 1, *x0.shape).

    Raises:
        ValueError: a number out of bounds; b2 = 1 without v.
    """
    checks.at_least("n", n, 1)
    checks.nonnegative("noise", noise)
    checks.nonnegative("eps", eps)
    beta1, beta2 = _memory(betas[0]), betas[1]
    if not 0 <= beta2 <= 1:
        raise ValueError(f"beta2 must lie in [0, 1], got {beta2!r}")
    if beta2 == 1 and v is None:
        raise ValueError("beta2=1 freezes the second moment, which starts at zero: give its value with v=")
    if not bool((torch.as_tensor(lr) > 0).all()) or not (v is None or bool((torch.as_tensor(v) > 0).all())):
        raise ValueError(f"lr and v must be > 0, got lr={lr!r}, v={v!r}")
    path = x0.new_empty(n + 1, *x0.shape)
    path[0] = x0
    m = torch.zeros_like(x0)
    second = torch.zeros_like(x0) if v is None else torch.as_tensor(v).to(x0).expand_as(x0).clone()
    for step in range(1, n + 1):
        x = path[step - 1]
        g = grad(x)
        if noise:
            g = g + noise * torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
        m = beta1 * m + (1 - beta1) * g
        second = beta2 * second + (1 - beta2) * g.square()
        size = lr / (1 - beta1**step) if bias_correction else lr
        seen = second / (1 - beta2**step) if bias_correction and v is None else second
        path[step] = x - size * m / (seen.sqrt() + eps)
    return path


def _memory(beta1: float) -> float:
    if not 0 <= beta1 < 1:
        raise ValueError(f"beta1 must lie in [0, 1), got {beta1!r}")
    return beta1


def _effective(lr: float, v: float) -> float:
    return checks.positive("lr", lr) / math.sqrt(checks.positive("v", v))
