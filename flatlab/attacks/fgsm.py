"""Fast gradient sign method, Goodfellow, Shlens, Szegedy 2015: x + eps sign grad_x L(f(x), y), inside the box."""

from torch import Tensor, nn

from flatlab import checks
from flatlab.attacks import losses
from flatlab.attacks.arguments import Box, batch, differentiable
from flatlab.attacks.ascent import SignAscent
from flatlab.attacks.losses import Loss


def fgsm(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, loss: Loss = "ce", clip: Box = (0.0, 1.0)) -> Tensor:
    """Adversarial inputs (N, ...) after one step of size `eps`, without a random start.

    Args:
        model: maps inputs (N, ...) in [0, 1] to logits (N, C); must be in eval mode.
        x: inputs (N, ...) in [0, 1].
        y: labels (N,), int64.
        eps: L_inf radius in units of x; 0 returns x.
        loss: "ce", "dlr", "margin", or a function of logits (N, C) and labels (N,) that returns (N,).
        clip: box that the result stays in, or None.

    Raises:
        TypeError: integer images or labels that are not integers.
        ValueError: out-of-range arguments, inputs outside the box, non-finite logits (with the batch index).
        RuntimeError: BatchNorm or Dropout in train mode.
    """
    eps = checks.radius(eps)
    objective = losses.objective(loss)
    x, y = batch(model, x, y, clip)
    if eps == 0:
        return x.clone()
    with differentiable(x, y) as (x, y):
        return SignAscent(model, objective, eps, eps, 1, clip).run(x, y, x.clone())
