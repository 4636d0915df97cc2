"""Best-of-N: draw N outputs, keep the one that the reward model likes best.

Only the ranks of r_RM enter, so that a perfectly accurate reward model is optimal for it, whatever its variance (Razin
et al. 2025, Proposition 1).
"""

from torch import Tensor

from flatlab import checks
from flatlab.rlhf import arguments


def best_of_n(p: Tensor, r_rm: Tensor, r_g: Tensor, n: int) -> float | Tensor:
    """The exact expected ground truth reward of the best of n samples; of equally good ones, the first drawn is kept.

    The sum over values of r_RM of (C^n - C_below^n) E[r_G | value], C the probability of at most that value.

    Args:
        p: probabilities (..., K).
        r_rm, r_g: rewards (..., K): those that choose, and those that count.
        n: samples, >= 1.

    Returns:
        A float for one policy, otherwise a tensor of the leading axes.
    """
    prob = arguments.probabilities("p", p)
    model, truth = (arguments.rewards(name, r, prob.shape[-1]) for name, r in (("r_rm", r_rm), ("r_g", r_g)))
    checks.at_least("n", n, 1)
    above = model[..., None, :] - model[..., :, None]
    below, tied = ((prob[..., None, :] * mask).sum(-1) for mask in (above < 0, above == 0))
    share = prob / tied.clamp(min=1e-300)
    found = (share * ((below + tied) ** n - below**n) * truth).sum(-1)
    return found if found.ndim else float(found)
