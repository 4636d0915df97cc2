"""Flatness in the space of weights that is proven.

For weights W_1 .. W_L and L(D) the mean cross-entropy of a data set at W_1 + D_1 .. W_L + D_L,

    random_gap   <=   weight_attack   <=   max of L(D) over ||D_i|| <= rho for every i   <=   certified_flatness

where the first two are measured by `flatlab.flatness`. The proof is by linear relaxation with the weights as perturbed
inputs (Xu et al. 2020, arXiv 2002.12920, sections 3 and 4.3). It bounds the worst case of each sample, and the mean of
worst cases is at least the worst case of the mean. Bounds in float32 hold up to rounding; `model.double()` makes that
negligible.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks, modes
from flatlab.bounds.bounds import Bounds
from flatlab.bounds.capture import Program
from flatlab.bounds.losses import METHODS, margins
from flatlab.bounds.sets import LpBall
from flatlab.bounds.weights import weight_balls


@dataclass(frozen=True, eq=False)
class CertifiedFlatness:
    """What `certified_flatness` proves.

    Attributes:
        loss: mean cross-entropy at the weights as they are, in nats.
        certified_loss: no weights in the balls have a larger mean cross-entropy.
        gap: certified_loss - loss, >= 0: an upper bound of the sharpness.
        per_sample: (N,), the same for the cross-entropy of each sample by itself.
    """

    loss: float
    certified_loss: float
    gap: float
    per_sample: Tensor


def certified_flatness(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    rho: float,
    *,
    p: float = 2,
    method: str = "crown-ibp",
    input_eps: float = 0.0,
    clip: tuple[float, float] | None = None,
    names: Sequence[str] | None = None,
    batch_size: int = 256,
) -> CertifiedFlatness:
    """Prove how much the mean cross-entropy can rise when every weight moves within a ball around itself.

    Args:
        model: maps x to logits (N, K); in eval mode, and left as it is.
        x: inputs (N, ...), floating point.
        y: labels (N,), int64.
        rho: radius of the ball around each weight matrix or kernel, >= 0, in the units of the weights.
        p: of the balls, 1, 2 or inf, over all entries of a weight.
        method: ibp, crown-ibp, crown or alpha-crown, from the quickest to the tightest; each margin takes the better
            of this and ibp.
        input_eps: moreover, each number of each input may move by so much, >= 0.
        clip: range of valid inputs, for `input_eps`; None for no limits.
        names: of the parameters that move; None for the weights of all linear layers and convolutions. Biases stay.
        batch_size: samples at once. The result does not depend on it.

    Returns:
        The mean loss, its certified bound, the difference, and the bound of each sample.

    Raises:
        RuntimeError: BatchNorm or Dropout in train mode.
        ValueError: a radius, method or label out of range, or no weights to perturb.
        UnsupportedOperator: the model has an operator without a rule, or uses a perturbed parameter in one other than
            linear layers and convolutions.
    """
    checks.nonnegative("rho", rho)
    checks.nonnegative("input_eps", input_eps)
    checks.one_of("method", method, [m for m in METHODS if m != "forward+backward"])
    checks.at_least("batch_size", batch_size, 1)
    modes.require_eval(model)
    checks.labels(y, len(checks.inputs(x, box=False)))
    program = Program(model, x[:1])
    clean, proven = [], []
    with torch.no_grad():
        balls = weight_balls(model, rho, p=p, names=names)
        for xb, yb in zip(x.split(batch_size), y.split(batch_size), strict=True):
            around = LpBall(xb, input_eps, clip=clip) if input_eps else None
            plain = F.cross_entropy(model(xb), yb, reduction="none")
            clean.append(plain)
            bounds = Bounds(program, xb, around, weights=balls)
            low = torch.maximum(margins(bounds, yb, method=method), margins(bounds, yb, method="ibp"))
            proven.append(torch.maximum(F.softplus(torch.logsumexp(-low, dim=1)), plain))
    per_sample = torch.cat(proven)
    loss, certified = (float(torch.as_tensor(t).double().mean()) for t in (torch.cat(clean), per_sample))
    return CertifiedFlatness(loss, certified, certified - loss, per_sample)
