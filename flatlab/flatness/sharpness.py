"""Sharpness in the sense of SAM (Foret et al. 2021) and ASAM (Kwon et al. 2021).

    S_rho  = L(w + rho g / ||g||) - L(w)                     g = grad L(w)
    S_rho  = L(w + rho w^2 g / || |w| g ||) - L(w)           adaptive: invariant to scaling weights against each other

One gradient step replaces the maximum over the ball, and squares and products are elementwise. The official ASAM adds
a constant 0.01 to |w|; here, as in the widely used PyTorch SAM, nothing is added. No weight is ever written.
"""

from dataclasses import replace

import torch
from torch import Tensor

from flatlab import checks
from flatlab.flatness.hessian import flatten
from flatlab.flatness.landscape import Landscape


def sam_sharpness(landscape: Landscape, rho: float = 0.05, *, adaptive: bool = False, per_part: bool = False) -> float:
    """How much the landscape rises over one step of length rho along its gradient; 0 where the gradient vanishes.

    Args:
        rho: length of the step, >= 0.
        adaptive: measure the step relative to the size of each coordinate (ASAM).
        per_part: the mean over the landscape's functions of each one's own sharpness, with its own step:
            m-sharpness, if each function is the loss of m samples.
    """
    checks.nonnegative("rho", rho)
    if per_part:
        parts = [replace(landscape, functions=(function,)) for function in landscape.functions]
        return sum(sam_sharpness(part, rho, adaptive=adaptive) for part in parts) / len(parts)
    here, gradient = landscape.home(), landscape.gradient()
    sizes = tuple(tensor.abs() if adaptive else torch.ones_like(tensor) for tensor in landscape.point)
    slopes = tuple(size * g for size, g in zip(sizes, gradient, strict=True))
    norm = _norm(slopes)
    if norm == 0 or rho == 0:
        return 0.0
    step = tuple(size * slope / norm for size, slope in zip(sizes, slopes, strict=True))
    return landscape.value(*landscape.displaced(step, rho)) - here


def _norm(point: tuple[Tensor, ...]) -> float:
    return float(flatten(point).norm())
