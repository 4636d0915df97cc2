"""Area under the ROC curve as a rank statistic (Hanley and McNeil 1982).

    AUROC = P(s > t) + P(s = t) / 2,    s a score of `inside`, t one of `outside`, drawn independently

1 where a threshold separates the two, 1/2 where the scores say nothing. It is the Mann-Whitney statistic U / (N M):
counted in integers, so that it is exact, also with ties.
"""

import torch
from torch import Tensor


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Probability that a score of `inside` (N,) exceeds one of `outside` (M,), ties half. Scores may be infinite.

    An energy is lower inside: give its negative.

    Raises:
        ValueError: no scores, scores that are not one number a sample, or NaN.
    """
    s, t = _scores("inside", inside), _scores("outside", outside).sort().values
    below, upto = torch.searchsorted(t, s), torch.searchsorted(t, s, right=True)
    return int((below + upto).sum()) / (2 * len(s) * len(t))


def _scores(name: str, scores: Tensor) -> Tensor:
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"{name} must hold one score a sample, (N,) with N >= 1, got shape {tuple(scores.shape)}")
    scores = scores.detach().double()
    if scores.isnan().any():
        raise ValueError(f"{name} holds {int(scores.isnan().sum())} NaN, which have no rank: leave them out")
    return scores
