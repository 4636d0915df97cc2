"""Inception score (IS; Salimans et al. 2016, arXiv 1606.03498) of the class probabilities of generated images.

    IS = exp(mean_i KL(p(y | x_i) || p(y))),    p(y) = mean_i p(y | x_i)

From 1 (every image is given the same probabilities) to the number of classes (each image surely of one class, all
classes equally often). It sees no real images, and no variety within a class.
"""

import torch

from flatlab import checks
from flatlab.metrics.arguments import Numbers, features


def inception_score(probs: Numbers, *, splits: int = 1) -> float:
    """Mean IS over `splits` parts of the rows, in their order; official code takes 10 parts, which lowers the value.

    Args:
        probs: (N, K) probabilities of K classes; rows sum to 1.
        splits: number of parts, 1..N, equal in size but for one row.

    Raises:
        TypeError: not numbers.
        ValueError: other shapes, NaN, values below 0, rows that do not sum to 1 to 1e-3, or more parts than rows.
    """
    p = features("probs", probs, least=1)
    off = float((p.sum(1) - 1).abs().max())
    if float(p.min()) < 0 or off > 1e-3:
        raise ValueError(
            f"probs must be probabilities: rows >= 0 that sum to 1, got a least value {float(p.min()):.3g} and sums "
            f"off by up to {off:.3g}; use softmax on logits"
        )
    if checks.at_least("splits", splits, 1) > len(p):
        raise ValueError(f"splits must be at most the number of rows, {len(p)}, got {splits}")
    scores = []
    for part in torch.tensor_split(p, splits):
        marginal = part.mean(0)
        divergence = (torch.special.xlogy(part, part) - torch.special.xlogy(part, marginal)).sum(1)
        scores.append(divergence.mean().exp())
    return float(torch.stack(scores).mean())
