"""Worst-case losses to train on, and errors that are proven.

    margins       m_k = z_y - z_k, k != y: a sample is verified if every lower bound is positive
    robust CE     log(1 + sum_k exp(-lower(m_k))) >= the largest cross-entropy in the set    (Wong and Kolter 2018)
    fused CE      log of an upper bound of S = sum_k exp(z_k - z_y), bounded as one number   (Xu et al. 2020)

Fusion: with v_k = z_k - z_y in [vl_k, vu_k], exp(v_k) lies below its chord s_k v_k + t_k, so that one backward pass
with the single row sum_k s_k (e_k - e_y) bounds S. Its cost does not grow with the number of classes as that of K - 1
rows does. It buys speed, not tightness: the unfused bound of the same method is often the smaller one.

While the radius grows, a mixture is trained on: kappa CROWN-IBP + (1 - kappa) IBP, of the margins or, fused, of S.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab import checks
from flatlab.bounds.bounds import INSIDE, Bounds
from flatlab.bounds.capture import Program
from flatlab.bounds.relax import tiny
from flatlab.bounds.rows import Margins
from flatlab.bounds.sets import LpBall

METHODS = ("ibp", *INSIDE)


def margins(bounds: Bounds, y: Tensor, *, method: str = "crown-ibp") -> Tensor:
    """Lower bounds of z_y - z_k for the K - 1 other classes.

    Args:
        bounds: of a module with logits (B, K).
        y: labels (B,).
        method: ibp, crown-ibp, crown, forward+backward or alpha-crown.

    Returns:
        (B, K - 1).
    """
    checks.one_of("method", method, METHODS)
    return bounds.lower(method, Margins(y, _classes(bounds)))


def robust_ce(bounds: Bounds, y: Tensor, *, method: str = "crown-ibp", kappa: float = 1.0) -> Tensor:
    """An upper bound of each sample's largest cross-entropy over the set, (B,).

    Args:
        bounds: of a module with logits (B, K).
        y: labels (B,).
        method: as in `margins`.
        kappa: weight of `method` in [0, 1]; the rest is on IBP.

    Returns:
        In nats; the same that `torch.nn.functional.cross_entropy` measures.
    """
    _kappa(kappa)
    low = margins(bounds, y, method="ibp" if kappa == 0 else method)
    if 0 < kappa < 1 and method != "ibp":
        low = kappa * low + (1 - kappa) * margins(bounds, y, method="ibp")
    return F.softplus(torch.logsumexp(-low, dim=1))


def fused_ce(bounds: Bounds, y: Tensor, *, kappa: float = 1.0) -> Tensor:
    """As `robust_ce` with CROWN-IBP, by loss fusion: one row a sample, however many classes, (B,).

    Args:
        bounds: of a module with logits (B, K).
        y: labels (B,).
        kappa: weight of CROWN-IBP in [0, 1]; the rest is on IBP.
    """
    _kappa(kappa)
    low, high = bounds.compute("ibp", Margins(y, _classes(bounds), every=True))
    vl, vu = -high, -low  # of z_k - z_y
    top = vu.detach().amax(1, keepdim=True)
    plain = (vu - top).exp().sum(1)
    if kappa == 0:
        return plain.log() + top[:, 0]
    width = vu - vl
    flat = width <= tiny(vu)
    el, eu = (vl - top).exp(), (vu - top).exp()
    s = torch.where(flat, eu, (eu - el) / width.masked_fill(flat, 1.0))
    t = torch.where(flat, eu - s * vu, el - s * vl)
    row = -s.scatter_add(1, y[:, None], -s.sum(1, keepdim=True))  # minus the row: its lower bound is minus an upper one
    bound = (t.sum(1) - bounds.lower("crown-ibp", row[:, None])[:, 0]).clamp(min=1e-30)
    bound = torch.minimum(bound, plain)
    return (kappa * bound + (1 - kappa) * plain).log() + top[:, 0]


def verified(bounds: Bounds, y: Tensor, *, method: str = "crown-ibp") -> Tensor:
    """Which samples are proven to be classified as y on the whole set, bool (B,). NaN proves nothing.

    Args:
        bounds: of a module with logits (B, K).
        y: labels (B,).
        method: as in `margins`.
    """
    with torch.no_grad():
        return (margins(bounds, y, method=method) > 0).all(dim=1)


def verified_in_ball(
    program: Program, x: Tensor, y: Tensor, eps: float, *, method: str = "crown-ibp", batch_size: int = 256
) -> Tensor:
    """Which of many images are proven on L_inf balls clipped to [0, 1], bool (N,), a batch at a time.

    Args:
        program: what was captured of a classifier.
        x, y: images (N, ...) in [0, 1] and labels (N,).
        eps: radius, in the units of the images.
        method: as in `margins`.
        batch_size: images at once; the result does not depend on it.
    """
    checks.radius(eps)
    parts = zip(x.split(batch_size), y.split(batch_size), strict=True)
    return torch.cat([verified(Bounds(program, a, LpBall(a, eps, clip=(0, 1))), b, method=method) for a, b in parts])


def verified_error(bounds: Bounds, y: Tensor, *, method: str = "crown-ibp") -> float:
    """The share of samples that are not verified, in [0, 1].

    Args:
        bounds, y, method: as in `verified`.
    """
    return 1 - float(verified(bounds, y, method=method).double().mean())


def _classes(bounds: Bounds) -> int:
    shape = bounds.output_shape
    if len(shape) != 2 or shape[0] != bounds.problem.batch:
        raise ValueError(f"losses need logits (B, K), the module returns {shape}")
    return shape[1]


def _kappa(kappa: float) -> None:
    if not 0 <= kappa <= 1:
        raise ValueError(f"kappa must lie in [0, 1], got {kappa!r}")
