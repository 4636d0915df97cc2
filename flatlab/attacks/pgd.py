"""Projected gradient descent, Madry, Makelov, Schmidt, Tsipras, Vladu 2018.

Starts at a uniform point of the L_inf ball and repeats x <- project(x + a sign grad_x L(f(x), y)), with
a = 2.5 eps / steps by default, the authors' rule for evaluation. The last iterate is returned. Libraries mostly
disagree about accuracy because of step sizes: foolbox takes eps / 30 where nothing is said.
"""

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.attacks import losses
from flatlab.attacks.arguments import Box, batch, differentiable, uniform_noise
from flatlab.attacks.ascent import SignAscent
from flatlab.attacks.losses import Loss


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    loss: Loss = "ce",
    targets: Tensor | None = None,
    random_start: bool = True,
    start: Tensor | None = None,
    early_stop: bool = False,
    generator: torch.Generator | None = None,
    clip: Box = (0.0, 1.0),
) -> Tensor:
    """Adversarial inputs (N, ...) by projected gradient ascent in the L_inf ball.

    Args:
        model: maps inputs (N, ...) in [0, 1] to logits (N, C); must be in eval mode.
        x: inputs (N, ...) in [0, 1].
        y: labels (N,), int64.
        eps: L_inf radius in units of x; 0 returns x.
        steps: gradient steps per restart.
        step_size: in units of x; default 2.5 * eps / steps.
        restarts: random starts; each sample keeps its best, which is one that fools the model if there is one,
            and among those the one with the highest loss.
        loss: "ce", "dlr", "margin", or a function of logits (N, C) and labels (N,) that returns (N,) to maximise.
        targets: classes (N,) to move to; a sample is then fooled when the model predicts its target. The cross-entropy
            and the margin reach more of them than DLR does.
        random_start: start uniformly in the ball, otherwise at x.
        start: explicit first perturbation (N, ...), instead of a random one; projected onto ball and box.
        early_stop: drop a sample from the computation once it fools the model. Faster, and at least as strong,
            but samples then stop at the first success, not where the loss is high: leave it off to measure energies.
            Not for stacked models, whose batches have a fixed layout.
        generator: source of random starts; None uses torch's global one, drawing one uniform tensor of x's shape
            per restart and nothing else, as foolbox and torchattacks do.
        clip: box that iterates stay in, or None.

    Raises:
        TypeError: integer images, labels that are not integers.
        ValueError: out-of-range arguments, inputs outside the box, a loss unknown or needing more classes,
            non-finite logits (with the batch index).
        RuntimeError: BatchNorm or Dropout in train mode.
    """
    eps = checks.radius(eps)
    steps = checks.at_least("steps", steps, 1)
    restarts = checks.at_least("restarts", restarts, 1)
    step = 2.5 * eps / steps if step_size is None else checks.positive("step_size", step_size)
    objective = losses.objective(loss, targeted=targets is not None)
    if restarts > 1 and (start is not None or not random_start):
        raise ValueError(f"restarts={restarts} would all find the same point: they need random starts")
    x, y = batch(model, x, y, clip)
    _check_shapes(x, y, start, targets)
    if eps == 0:
        return x.clone()

    ascent = SignAscent(model, objective, eps, step, steps, clip)
    given = None if targets is None else targets.long()
    with differentiable(x, y, given) as (x, y, *rest):
        goal = rest[0] if rest else None
        if start is not None:
            return _run(ascent, x, y, start.detach().to(x).clamp(-eps, eps), goal, early_stop)
        if restarts == 1:
            delta = uniform_noise(x, eps, generator) if random_start else None
            return _run(ascent, x, y, delta, goal, early_stop)
        return _best_of(ascent, x, y, goal, restarts, early_stop, generator)


def _run(
    ascent: SignAscent, x: Tensor, y: Tensor, delta: Tensor | None, targets: Tensor | None, early_stop: bool
) -> Tensor:
    adv = ascent.begin(x, delta)
    if early_stop:
        return ascent.run_until_fooled(x, y, adv, targets, hit_target=True)
    return ascent.run(x, y, adv, targets)


def _best_of(
    ascent: SignAscent,
    x: Tensor,
    y: Tensor,
    targets: Tensor | None,
    restarts: int,
    early_stop: bool,
    generator: torch.Generator | None,
) -> Tensor:
    """Run every restart, on survivors only under `early_stop`, and keep the best per sample."""
    best = _run(ascent, x, y, uniform_noise(x, ascent.eps, generator), targets, early_stop)
    fooled, value = ascent.score(best, y, targets)
    for _ in range(restarts - 1):
        # Drawn for all samples, so that dropping one changes no other's start.
        delta = uniform_noise(x, ascent.eps, generator)
        rows = (~fooled).nonzero().squeeze(1) if early_stop else torch.arange(len(x), device=x.device)
        if not len(rows):
            break
        goal = None if targets is None else targets[rows]
        adv = _run(ascent, x[rows], y[rows], delta[rows], goal, early_stop)
        now_fooled, now_value = ascent.score(adv, y[rows], goal)
        better = torch.where(now_fooled == fooled[rows], now_value > value[rows], now_fooled)
        rows = rows[better]
        best[rows], fooled[rows], value[rows] = adv[better], now_fooled[better], now_value[better]
    return best


def _check_shapes(x: Tensor, y: Tensor, start: Tensor | None, targets: Tensor | None) -> None:
    if start is not None and start.shape != x.shape:
        raise ValueError(f"start must have the shape of x, {tuple(x.shape)}, got {tuple(start.shape)}")
    if targets is not None:
        same = checks.labels(targets, len(x)) == y
        if same.any():
            raise ValueError(f"targets must differ from labels, first equal at batch index {int(same.nonzero()[0])}")
