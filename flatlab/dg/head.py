"""Per-sample gradients of a linear softmax head, in closed form: no second pass, no hooks.

With features h_i, logits W h_i + b and r_i = softmax(logits_i) - onehot(y_i), the gradients of sample i's cross-entropy
are

    dW_i = r_i h_i^T      db_i = r_i      |dW_i|^2 = |r_i|^2 |h_i|^2

All of it is differentiable by plain autograd, through the features too.
"""

from collections.abc import Sequence

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


def head_moments(features: Tensor, residual: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The mean of the head's gradients and the mean of their squares over the rows of each domain, (E, C, d + 1).

    The last column is the bias. No sample's gradient is made: sums of r_c h_j are one product of matrices a domain.

    Args:
        features: (N, d), the domains one after the other.
        residual: (N, C), see `head_residuals`.
        sizes: rows of each of the E domains, N together.
    """
    extended = torch.cat([features, features.new_ones(len(features), 1)], dim=1)  # F.pad is slow
    r, h = (_by_domain(tensor, sizes) for tensor in (residual, extended))
    # Rows beyond the end of a domain are zero, so sums are not changed by them.
    counts = sizes[0] if len(set(sizes)) == 1 else torch.tensor(sizes, device=h.device).view(-1, 1, 1)
    return r.mT @ h / counts, r.square().mT @ h.square() / counts


def _by_domain(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    """(N, k) as (E, n, k), n being the largest size, with zeros at the end of the others."""
    if len(set(sizes)) == 1:
        return tensor.view(len(sizes), sizes[0], -1)
    return torch.nn.utils.rnn.pad_sequence(list(tensor.split(list(sizes))), batch_first=True)
