"""What reward variance implies: bounds of gradients, curvature and times, as Razin et al. 2025 prove them, and ours.

Each takes numbers or tensors, and returns a float where all are numbers. Arguments mean the same everywhere:

    var         variance of r_KL under the policy; before training that is the reward variance; rewards lie in [-1, 1]
    gamma, lam  the gain > 0, and the weight of the KL penalty >= 0
    L, J        length of an output; largest spectral norm of the Jacobian of a prefix's logits, 1 for tables of logits
    tabular     whether the policy is one softmax over a table, which has better exponents
    n_prompts   |S|, which slows a table down; without `tabular`, var is the mean over the prompts instead
    rho         of `ratio`
"""

import math

from torch import Tensor

from flatlab import checks
from flatlab.rlhf.arguments import Number, number


def gradient(var: Number, L: int = 1, J: float = 1.0, M: float = 1.0, *, tabular: bool = False) -> float | Tensor:
    """|grad phi|_2 <= 6 M^(1/3) L J Var^(1/3) if |r_KL| <= M, M >= 1 (Proposition 2); |.|_1 <= Var^(1/2) (Lemma 8)."""
    limit = float(number("M", M, 1.0))
    v = number("var", var, high=limit**2)
    return _plain(v**0.5 if tabular else 6 * limit ** (1 / 3) * _size(L, J) * v ** (1 / 3), var)


def gradient_sharp(var: Number, L: int = 1, J: float = 1.0, *, table: bool = False) -> float | Tensor:
    """|grad phi|_2 <= J (L Var / 2)^(1/2); with a vector of logits for each prefix (`table`), (Var / 2)^(1/2). Ours.

    pi (Q - V) has norm at most (Var Q / 2)^(1/2), tight at two outputs of probability 1/2, and the variances of the
    conditional means of r_KL from symbol to symbol add up to Var. Stronger than `gradient` wherever Var <= 1.
    """
    return _plain(_size(1 if table else L**0.5, J) * (number("var", var) / 2) ** 0.5, var)


def hessian(var: Number, lam: float = 0.0) -> float | Tensor:
    """|Hessian of phi|_2 <= 3 |grad phi|_2 + lam / 2 <= 3 (Var / 2)^(1/2) + lam / 2, for one softmax. Ours.

    It is diag(g) - g p' - p g' - lam (diag(p) - p p'), g the gradient: curvature vanishes with the variance, too.
    """
    return _plain(3 * (number("var", var) / 2) ** 0.5 + float(number("lam", lam)) / 2, var)


def variance(
    t: Number, var: Number, L: int = 1, J: float = 1.0, n_prompts: int = 1, *, tabular: bool = False
) -> float | Tensor:
    """How large the variance can be at time t, from `var` at t = 0: inf from where on nothing is known.

    Var / (1 - 8 L^2 J^2 Var^(1/3) t)^3 while |r_KL| <= 8 (proof of Theorem 4); Var / (1 - Var^(1/2) t / (2 |S|))^2
    (proof of Proposition 3).
    """
    v, time, size = number("var", var, high=1.0), number("t", t), _size(L, J)
    rate = v**0.5 / (2 * checks.at_least("n_prompts", n_prompts, 1)) if tabular else 8 * size**2 * v ** (1 / 3)
    return _plain(v / (1 - rate * time).clamp(min=0) ** (2 if tabular else 3), t, var)


def movement(t: Number, var: Number, L: int = 1, J: float = 1.0) -> float | Tensor:
    """How far theta can be at time t: 3 / (2 L J) ln 1 / (1 - 8 L^2 J^2 Var^(1/3) t), as `variance` (Theorem 4)."""
    v, time, size = number("var", var, high=1.0), number("t", t), _size(L, J)
    return _plain(-1.5 / size * (1 - 8 * size**2 * v ** (1 / 3) * time).clamp(min=0).log(), t, var)


def time_lower(
    var: Number,
    gamma: float,
    lam: float = 0.0,
    L: int = 1,
    J: float = 1.0,
    n_prompts: int = 1,
    *,
    tabular: bool = False,
) -> float | Tensor:
    """A time before which no expected reward, the ground truth's included, has risen by gamma; inf where var = 0.

    min {1 - exp(-gamma / 9), 1 - exp(-7 / (3 lam))} / (8 L^2 J^2) Var^(-1/3) (Theorems 1 and 4); for a table
    2 |S| (1 - exp(-gamma / 2)) Var^(-1/2) (Proposition 3). `var` is that of the initial policy.
    """
    v, weight, size = number("var", var, high=1.0), float(number("lam", lam)), _size(L, J)
    if tabular:
        prompts = checks.at_least("n_prompts", n_prompts, 1)
        return _plain(-2 * prompts * math.expm1(-checks.positive("gamma", gamma) / 2) * v**-0.5, var)
    held = 1.0 if weight == 0 else -math.expm1(-7 / (3 * weight))
    return _plain(min(-math.expm1(-checks.positive("gamma", gamma) / 9), held) / (8 * size**2) * v ** (-1 / 3), var)


def ratio(v0: float, gamma: float, reward: float) -> float:
    """rho = (V_G(0) + gamma + 1) / (r_G(y) + 1) in (0, 1), for an output with `reward` = r_G(y) > v0 + gamma."""
    number("reward", reward, v0 + checks.positive("gamma", gamma), 1.0)
    return float((number("v0", v0, -1.0, 1.0) + gamma + 1) / (reward + 1))


def time_upper_inaccurate(p0: Number, rho: float, n_prompts: int = 1) -> float | Tensor:
    """4 |S| / (1 - rho)^4 (1 / p0 - 1 / rho): by when a reward model that is right about y alone succeeds (Theorem 5).

    p0 is the initial probability of y; lam is at most `lam_upper(p0, rho, p_min)`.
    """
    return _upper(p0, rho, 4, 4, n_prompts)


def time_upper_policy(c: Number, rho: float, n_prompts: int = 1) -> float | Tensor:
    """2 |S| / (1 - rho)^3 (1 / c - 1 / rho): by when the reward +1 at y, -1 elsewhere succeeds (Theorem 6).

    c is the initial probability of y, or less; lam is at most `lam_upper(c, rho, p_min, policy=True)`.
    """
    return _upper(c, rho, 2, 3, n_prompts)


def time_upper_set(p0: Number, size: int, delta: float, rho: float, n_prompts: int = 1) -> float | Tensor:
    """4 |S| |Y+| / ((1 - rho) delta) (1 / p0 - 1 / rho), for outputs Y+ that both rewards like (Proposition 4).

    p0 is the initial probability of Y+, `size` = |Y+|, delta = (1 - rho) (max over Y+ of r_RM - V_RM(0)) - spread of
    r_RM over Y+, > 0. Holds where lam, and the initial mass that r_RM likes and r_G does not, are small.
    """
    return _upper(p0, rho, 4 * checks.at_least("size", size, 1) / checks.positive("delta", delta), 1, n_prompts)


def lam_upper(p: float, rho: float, p_min: float, *, policy: bool = False) -> float:
    """The KL penalty up to which `time_upper_inaccurate` holds, or `time_upper_policy` with `policy`.

    p (1 - rho)^4 / (8 (1 / (2 e) - 2 ln p_min)), or p (1 - rho)^3 / (16 (...)); p_min is the least initial probability.
    """
    power, factor = (3, 16) if policy else (4, 8)
    _upper(p, rho, 1, 1, 1)
    least = float(number("p_min", p_min, high=1.0, strict=True))
    return p * (1 - rho) ** power / (factor * (0.5 / math.e - 2 * math.log(least)))


def time_of_one_output(p0: float, p1: float, outputs: int) -> float:
    """The exact time in which one right output goes from p0 to p1: reward +1 there, -1 elsewhere, lam = 0. Ours.

    From dp/dt = 2 p^2 (1 - p)^2 K / (K - 1), the other outputs being equally likely. As p0 -> 0 the variance is
    4 p0 (1 - p0), so that the time goes as 1 / Var: faster than the lower bounds say.
    """
    if not 0 < p0 <= p1 < 1 or outputs < 2:
        raise ValueError(f"need 0 < p0 <= p1 < 1 and outputs >= 2, got p0={p0:g}, p1={p1:g}, outputs={outputs}")
    before, after = ((2 * p - 1) / (p * (1 - p)) + 2 * math.log(p / (1 - p)) for p in (p0, p1))
    return (outputs - 1) / (2 * outputs) * (after - before)


def _upper(p0: Number, rho: float, factor: float, power: int, n_prompts: int) -> float | Tensor:
    p = number("the initial probability", p0, high=float(number("rho", rho, high=1.0, strict=True)), strict=True)
    return _plain(factor * checks.at_least("n_prompts", n_prompts, 1) / (1 - rho) ** power * (1 / p - 1 / rho), p0)


def _size(L: float, J: float) -> float:
    return float(number("L", L, 1.0)) * checks.positive("J", J)


def _plain(found: Tensor, *given: Number) -> float | Tensor:
    return found if any(isinstance(value, Tensor) for value in given) else float(found)
