"""What certified bounds are for: worst-case losses to train on, and errors that are proven.

    margins       m_k = z_y - z_k, k != y: a sample is verified if every lower bound is positive
    robust CE     log(1 + sum_k exp(-lower(m_k))) >= the largest cross-entropy in the set    (Wong and Kolter 2018)
    fused CE      log of an upper bound of S = sum_k exp(z_k - z_y), bounded as one number   (Xu et al. 2020)

Fusion: with v_k = z_k - z_y in [vl_k, vu_k], exp(v_k) lies below its chord s_k v_k + t_k, so that one backward pass
with the single row sum_k s_k (e_k - e_y) bounds S. Its cost does not grow with the number of classes as that of K - 1
rows does. It buys speed, not tightness: the unfused bound of the same method is often the smaller one.

While the radius grows, a mixture is trained on: kappa CROWN-IBP + (1 - kappa) IBP, of the margins or, fused, of S.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab import checks
from flatlab.bounds.engine import Bounds
from flatlab.bounds.graph import Program
from flatlab.bounds.relax import tiny
from flatlab.bounds.sets import LpBall
from flatlab.bounds.specs import Margins

METHODS = ("ibp", "crown-ibp", "crown", "forward+backward", "alpha-crown")


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
    spec = Margins(y, _classes(bounds))
    if method == "ibp":
        return bounds.ibp(spec)[0]
    if method == "alpha-crown":
        return bounds.alpha_crown(spec)[0]
    inside = {"crown-ibp": "ibp", "crown": "crown", "forward+backward": "forward"}[method]
    return bounds.lower(spec, intermediate=inside)


def robust_ce(bounds: Bounds, y: Tensor, *, method: str = "crown-ibp", kappa: float = 1.0) -> Tensor:
    """An upper bound of each sample's largest cross-entropy over the set, (B,).

    Args:
        kappa: weight of `method`; the rest is on IBP.
    """
    _kappa(kappa)
    low = margins(bounds, y, method="ibp" if kappa == 0 else method)
    if 0 < kappa < 1 and method != "ibp":
        low = kappa * low + (1 - kappa) * margins(bounds, y, method="ibp")
    return F.softplus(torch.logsumexp(-low, dim=1))


def fused_ce(bounds: Bounds, y: Tensor, *, kappa: float = 1.0) -> Tensor:
    """As `robust_ce` with CROWN-IBP, by loss fusion: one row a sample, however many classes, (B,)."""
    _kappa(kappa)
    spec = Margins(y, _classes(bounds), every=True)
    low, high = bounds.ibp(spec)
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
    bound = (t.sum(1) - bounds.lower(row[:, None])[:, 0]).clamp(min=1e-30)
    bound = torch.minimum(bound, plain)
    return (kappa * bound + (1 - kappa) * plain).log() + top[:, 0]


def verified(bounds: Bounds, y: Tensor, *, method: str = "crown-ibp") -> Tensor:
    """Which samples are proven to be classified as y on the whole set, bool (B,). NaN proves nothing."""
    with torch.no_grad():
        return (margins(bounds, y, method=method) > 0).all(dim=1)


def verified_in_ball(
    program: Program, x: Tensor, y: Tensor, eps: float, *, method: str = "crown-ibp", batch_size: int = 256
) -> Tensor:
    """Which of many images are proven on L_inf balls clipped to [0, 1], bool (N,), a batch at a time.

    Args:
        program: what was captured of a classifier.
        x, y: images (N, ...) in [0, 1] and labels (N,).
        eps: radius.
        method: as in `margins`.
    """
    checks.radius(eps)
    parts = zip(x.split(batch_size), y.split(batch_size), strict=True)
    return torch.cat([verified(Bounds(program, a, LpBall(a, eps, clip=(0, 1))), b, method=method) for a, b in parts])


def verified_error(bounds: Bounds, y: Tensor, *, method: str = "crown-ibp") -> float:
    """The share of samples that are not verified."""
    return 1 - float(verified(bounds, y, method=method).double().mean())


@dataclass(frozen=True)
class EpsSchedule:
    """The radius of certified training by the share of steps taken: 0, then a smooth ramp, then its full value.

    Args:
        eps: the full radius.
        start, length: where the ramp begins, and how long it is, as shares of training in [0, 1].
        kind: "smooth" (a power, then a line, joined without a kink), "linear" or "fixed".
        middle: share of the ramp that is a power.
        power: its exponent, > 1.
    """

    eps: float
    start: float = 0.05
    length: float = 0.6
    kind: str = "smooth"
    middle: float = 0.4
    power: float = 4.0

    def __post_init__(self) -> None:
        checks.nonnegative("eps", self.eps)
        checks.one_of("kind of schedule", self.kind, ("smooth", "linear", "fixed"))
        for name in ("start", "length", "middle"):
            value = checks.nonnegative(name, getattr(self, name))
            if value > 1:
                raise ValueError(f"{name} is a share of training and must lie in [0, 1], got {value:g}")
        if not self.power > 1:
            raise ValueError(f"power must be > 1, got {self.power!r}")

    def __call__(self, fraction: float) -> float:
        """The radius after this share of the steps."""
        if self.kind == "fixed":
            return self.eps
        s = min(1.0, max(0.0, (fraction - self.start) / self.length)) if self.length else float(fraction >= self.start)
        if self.kind == "linear" or s == 0 or s == 1 or self.middle == 0:
            return self.eps * s
        m, b = self.middle, self.power  # a s^b up to m, then a line of the same slope that ends at eps
        a = self.eps / (m**b + b * m ** (b - 1) * (1 - m))
        return a * s**b if s < m else a * (m**b + b * m ** (b - 1) * (s - m))

    def kappa(self, fraction: float) -> float:
        """The weight of CROWN-IBP: 1 at radius 0, falling to 0 as the radius becomes full."""
        return 1.0 if self.eps == 0 else (self.eps - self(fraction)) / self.eps


def _classes(bounds: Bounds) -> int:
    shape = bounds._intervals("ibp")[bounds.output].shape
    if len(shape) != 2 or shape[0] != bounds.batch:
        raise ValueError(f"losses need logits (B, K), the module returns {shape}")
    return shape[1]


def _kappa(kappa: float) -> None:
    if not 0 <= kappa <= 1:
        raise ValueError(f"kappa must lie in [0, 1], got {kappa!r}")
