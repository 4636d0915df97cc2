"""The two terms that reward models and policies are trained with: Bradley-Terry's loss, and the KL to the reference."""

import torch
from torch import Tensor
from torch.nn import functional as F

from flatlab import checks


def bradley_terry_loss(
    chosen: Tensor, rejected: Tensor, center: float = 0.01, margin: Tensor | float | None = None
) -> Tensor:
    """The mean of -ln sigma(chosen - rejected - margin) + center (chosen + rejected)^2, in nats.

    The first term cannot see an offset of a prompt; the second, which fixes it, is Eisenstein et al.'s (2023).

    Args:
        chosen, rejected: rewards (N,) of the better and the worse output.
        center: weight of the second term, >= 0.
        margin: by how much the better should win, (N,) or a number.
    """
    if chosen.shape != rejected.shape or chosen.ndim != 1 or not len(chosen):
        raise ValueError(
            f"chosen and rejected must be (N,) with N >= 1, got {tuple(chosen.shape)} and {tuple(rejected.shape)}"
        )
    wanted = torch.as_tensor(0.0 if margin is None else margin, dtype=chosen.dtype, device=chosen.device)
    if wanted.ndim and wanted.shape != chosen.shape:
        raise ValueError(f"margin must be a number or ({len(chosen)},), got {tuple(wanted.shape)}")
    if not (chosen.isfinite() & rejected.isfinite() & wanted.isfinite()).all():
        raise ValueError("chosen, rejected and margin must be finite: the reward model has diverged")
    weight = checks.nonnegative("center", center)
    return (weight * (chosen + rejected) ** 2 - F.logsigmoid(chosen - rejected - wanted)).mean()


def kl_penalty(logp: Tensor, ref_logp: Tensor, kind: str = "k1") -> Tensor:
    """Estimates of KL(p || ref) from samples of p, elementwise, in nats; with d = logp - ref_logp:

        k1 = d,      k2 = d^2 / 2,      k3 = exp(-d) - 1 + d        (Schulman 2020, Approximating KL divergence)

    k1 and k3 are unbiased, k2 is not; k2 and k3 are never negative. As a loss, differentiated through logp, each is
    something else: the mean gradient of k1 is 0 (as part of a reward it is right), that of k2 is the gradient of
    KL(p || ref), that of k3 is the gradient of KL(ref || p).

    Args:
        logp: ln p of what was sampled, any shape; sums over tokens for whole outputs, after masking.
        ref_logp: ln ref of the same.
        kind: "k1", "k2" or "k3".
    """
    checks.one_of("kind", kind, ("k1", "k2", "k3"))
    if logp.shape != ref_logp.shape:
        raise ValueError(f"logp and ref_logp need one shape, got {tuple(logp.shape)} and {tuple(ref_logp.shape)}")
    d = logp - ref_logp
    if kind == "k1":
        return d
    return d**2 / 2 if kind == "k2" else torch.expm1(-d) + d
