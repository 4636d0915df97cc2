"""From the rewards of k responses a prompt to what each is worth: RLOO's and GRPO's advantages.

    RLOO   A_i = R_i - mean of the others = k/(k-1) (R_i - mean)          (Ahmadian et al. 2024)
    GRPO   A_i = (R_i - mean) / (s + eps)                                (Shao et al. 2024)

An offset of a whole prompt cancels in both. GRPO divides by the deviation of the prompt ("group"), of all responses
("batch"), or not at all ("none"); by that of the prompt, the scale of the rewards cancels as well, and of two responses
only the order counts.
"""

import torch
from torch import Tensor

from flatlab import checks


def rloo_advantages(rewards: Tensor, kl: Tensor | float = 0.0) -> Tensor:
    """RLOO's advantages (..., k) of rewards (..., k) less a penalty of the same shape; equal rewards give 0.

    Raises:
        ValueError: k < 2, a NaN or an infinite reward.
    """
    centred = _centred(rewards, kl)
    return centred * (rewards.shape[-1] / (rewards.shape[-1] - 1))


def grpo_advantages(rewards: Tensor, scale: str = "group", eps: float = 1e-6) -> Tensor:
    """GRPO's advantages (..., k) of rewards (..., k); equal rewards give 0.

    Args:
        rewards: (..., k).
        scale: "group", "batch" or "none".
        eps: added to the deviation.

    Raises:
        ValueError: k < 2, a NaN or an infinite reward, an unknown scale.
    """
    checks.one_of("scale", scale, ("group", "batch", "none"))
    centred, small = _centred(rewards), checks.nonnegative("eps", eps)
    if scale == "none":
        return centred
    deviation = rewards.std(-1, keepdim=True) if scale == "group" else rewards.std()
    return torch.where(centred == 0, 0.0, centred / (deviation + small))


def _centred(rewards: Tensor, kl: Tensor | float = 0.0) -> Tensor:
    """Rewards less penalty and the mean of their group, exactly 0 where all of a group are equal."""
    if rewards.ndim < 1 or rewards.shape[-1] < 2:
        raise ValueError(f"rewards must be (..., k) with k >= 2 responses a prompt, got {tuple(rewards.shape)}")
    if not rewards.isfinite().all():
        raise ValueError("rewards holds NaN or infinity: every response needs a finite number")
    total = rewards - kl
    flat = total.amax(-1, keepdim=True) == total.amin(-1, keepdim=True)
    return torch.where(flat, 0.0, total - total.mean(-1, keepdim=True))
