"""Targeted DLR attack over the strongest wrong classes, as in AutoAttack (Croce & Hein 2020).

For each of the `classes` wrong classes with the highest clean logits, projected ascent on the targeted DLR loss, on the
samples that still resist. AutoAttack runs APGD, with an adaptive step; this is PGD with its fixed one. It finds what
untargeted losses miss: on small networks the last two points of robust accuracy.
"""

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.attacks import losses
from flatlab.attacks.arguments import Box, batch, clean_logits, differentiable, uniform_noise
from flatlab.attacks.ascent import SignAscent


def dlr_targeted(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    classes: int = 9,
    steps: int = 50,
    step_size: float | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    clip: Box = (0.0, 1.0),
) -> Tensor:
    """Adversarial inputs (N, ...): any wrong prediction counts, and a sample stops at its first one.

    Args:
        model: maps inputs (N, ...) in [0, 1] to logits (N, C), C >= 4; must be in eval mode. Not a stacked model.
        x: inputs (N, ...) in [0, 1].
        y: labels (N,), int64.
        eps: L_inf radius in units of x; 0 returns x.
        classes: how many wrong classes to aim at, at most C - 1 of them.
        steps, step_size: per class; the default step is 2.5 * eps / steps.
        generator: source of random starts, one uniform tensor of x's shape per class; None uses the global one.
        batch_size: rows per pass; changes nothing else.
        clip: box that iterates stay in, or None.

    Raises:
        ValueError: C < 4, and what `pgd` raises.
    """
    eps = checks.radius(eps)
    steps = checks.at_least("steps", steps, 1)
    classes = checks.at_least("classes", classes, 1)
    step = 2.5 * eps / steps if step_size is None else checks.positive("step_size", step_size)
    rows_per_pass = len(x) if batch_size is None else checks.at_least("batch_size", batch_size, 1)
    x, y = batch(model, x, y, clip)
    if eps == 0:
        return x.clone()
    ascent = SignAscent(model, losses.objective("dlr", targeted=True), eps, step, steps, clip)
    with differentiable(x, y) as (x, y):
        logits = clean_logits(model, x, y, rows_per_pass)
        losses.dlr(logits[:1], y[:1], (y[:1] + 1) % logits.shape[1])  # raises for C < 4, before any work
        ranked = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)
        adv, alive = x.clone(), (logits.argmax(1) == y).nonzero().squeeze(1)
        for rank in range(min(classes, logits.shape[1] - 1)):
            delta = uniform_noise(x, eps, generator)  # for all samples: dropping one changes no other's start
            survivors = []
            for rows in alive.split(rows_per_pass):
                start = ascent.begin(x[rows], delta[rows])
                found = ascent.run_until_fooled(x[rows], y[rows], start, ranked[rows, rank])
                adv[rows] = found
                survivors.append(rows[~ascent.score(found, y[rows])[0]])
            alive = torch.cat(survivors) if survivors else alive
    return adv
