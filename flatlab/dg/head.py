"""Per-sample gradients of a linear softmax head, in closed form: no second pass, no hooks.

With features h_i, logits W h_i + b and r_i = softmax(logits_i) - onehot(y_i), the gradients of sample i's cross-entropy
are

    dW_i = r_i h_i^T      db_i = r_i      |dW_i|^2 = |r_i|^2 |h_i|^2

All of it is differentiable by plain autograd, through the features too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab import checks

_LOW = (torch.float16, torch.bfloat16)


def head_gradients(features: Tensor, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Each sample's gradient of the head's weight (n, C*d), row by row, and of its bias (n, C).

    Args:
        features: (n, d), what the classifier sees.
        logits: (n, C).
        y: labels (n,) in 0..C-1.

    Returns:
        Half precision comes back as float32.
    """
    features, residual = head_residuals(features, logits, y)
    return (residual[:, :, None] * features[:, None, :]).flatten(1), residual


def head_residuals(features: Tensor, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """h (n, d) and r (n, C) of `head_gradients`, in float32 at least; the arguments are those of `head_gradients`."""
    if features.ndim != 2 or logits.ndim != 2 or len(features) != len(logits):
        raise ValueError(
            f"features and logits must be (n, d) and (n, C), got {tuple(features.shape)} and {tuple(logits.shape)}"
        )
    checks.labels(y, len(logits))
    features, logits = (t.float() if t.dtype in _LOW else t for t in (features, logits))
    return features, logits.softmax(1) - F.one_hot(y.long(), logits.shape[1]).to(logits)


def head_mean(features: Tensor, residual: Tensor) -> Tensor:
    """The mean over samples of the gradients of weight and bias, (C*d + C,)."""
    return torch.cat([(residual.T @ features).flatten(), residual.sum(0)]) / len(residual)


def head_variance(features: Tensor, residual: Tensor, about: Tensor | None = None) -> Tensor:
    """The mean over samples of (gradient - about)^2 for weight and bias, (C*d + C,), without making every gradient.

    Args:
        features: (n, d).
        residual: (n, C), see `head_residuals`.
        about: (C*d + C,); by default their mean, so that it is the variance, not corrected for n.
    """
    own = head_mean(features, residual)
    centre = own if about is None else about
    return head_mean(features.square(), residual.square()) - 2 * centre * own + centre.square()
