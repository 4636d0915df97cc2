"""Worst-case and first-order flatness of a field of the logits (log p by default).

    Phi_adv(x) = max over ||delta||_inf <= eps of | LSE f(x + delta) - LSE f(x) |
    G_1 = eps ||grad_x LSE f(x)||_1            G_2 = eps ||grad_x LSE f(x)||_2

Phi_adv is approached from below by signed gradient steps, once upwards and once downwards. G_1 is its first-order
approximation (the dual norm of the ball), G_2 the scale of Phi under random signs.
"""

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.flatness.directions import draw
from flatlab.flatness.likelihood import check_field, field_values, finite_logits, rows_at_once, samples
from flatlab.flatness.measures import FlatnessResult, input_gradient, summarize


def worst_case_flatness(
    model: nn.Module,
    x: Tensor,
    eps: float,
    *,
    steps: int = 10,
    step_size: float | None = None,
    restarts: int = 1,
    field: str = "lse",
    y: Tensor | None = None,
    clip: tuple[float, float] | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> FlatnessResult:
    """Phi_adv: the largest change of a field within eps of x in every coordinate, found by projected gradient steps.

    Each search starts uniformly in the ball, where a gradient that vanishes at x has come back, and the largest change
    it meets on its way counts. It maximises, so its error is not a standard error: `stderr` is 0.

    Args:
        model: maps (N, ...) to logits (N, C), in eval mode.
        x: inputs (N, ...), floating.
        eps: radius, in the units of x.
        steps: gradient steps of each search. step_size: their length, by default 2.5 eps / steps.
        restarts: searches upwards, and as many downwards.
        field, y, batch_size: as for `likelihood_flatness`.
        clip: range of inputs to stay in. Default: none, the ball that `likelihood_flatness` looks at too.
        generator: where starts come from, one draw per sample and restart.
    """
    x = samples(model, x)
    check_field(field, y, len(x))
    checks.at_least("steps", steps, 1)
    checks.at_least("restarts", restarts, 1)
    eps = checks.radius(eps)
    length = 2.5 * eps / steps if step_size is None else checks.positive("step_size", step_size)
    low, high = (-torch.inf, torch.inf) if clip is None else clip
    size, worst = rows_at_once(x, batch_size), []
    for first in range(0, len(x), size):
        here = x[first : first + size]
        labels = None if y is None else y[first : first + size]
        with torch.no_grad():
            origin = field_values(field, finite_logits(model, here, first=first), labels)
        best = torch.zeros_like(origin)
        if eps:
            # Restarts innermost in the draws: the numbers of a sample depend on its index alone.
            starts = torch.stack([draw("uniform", (restarts, *x.shape[1:]), x, generator) for _ in range(len(here))])
            for restart, sign in ((r, s) for r in range(restarts) for s in (1.0, -1.0)):
                there = (here + eps * starts[:, restart]).clamp(low, high)
                for step in range(steps + 1):
                    there.requires_grad_(step < steps)
                    with torch.set_grad_enabled(step < steps):
                        values = field_values(field, finite_logits(model, there, first=first), labels)
                    best = best.maximum((values.detach() - origin).abs())
                    if step < steps:
                        moved = there.detach() + sign * length * input_gradient(values, there).sign()
                        there = here + (moved - here).clamp(-eps, eps)
                        there = there.clamp(low, high)
        worst.append(best)
    per_sample = torch.cat(worst)
    config = {
        "measure": "worst_case_flatness",
        "eps": eps,
        "steps": steps,
        "step_size": length,
        "restarts": restarts,
        "field": field,
        "clip": clip,
    }
    return summarize(per_sample, torch.zeros_like(per_sample), config)


def gradient_flatness(
    model: nn.Module,
    x: Tensor,
    eps: float,
    *,
    p: int = 1,
    field: str = "lse",
    y: Tensor | None = None,
    batch_size: int | None = None,
) -> FlatnessResult:
    """G_1 or G_2: eps times the L1 (p=1) or L2 (p=2) norm of the input gradient of a field.

    The other arguments are those of `worst_case_flatness`; nothing is drawn, so `stderr` is 0.
    """
    x = samples(model, x)
    check_field(field, y, len(x))
    eps = checks.radius(eps)
    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, got {p!r}")
    size, norms = rows_at_once(x, batch_size), []
    for first in range(0, len(x), size):
        here = x[first : first + size].detach().requires_grad_()
        with torch.enable_grad():
            logits = finite_logits(model, here, first=first)
            values = field_values(field, logits, None if y is None else y[first : first + size])
        norms.append(input_gradient(values, here).flatten(1).norm(p=p, dim=1))
    per_sample = eps * torch.cat(norms)
    return summarize(
        per_sample,
        torch.zeros_like(per_sample),
        {"measure": "gradient_flatness", "eps": eps, "p": p, "field": field},
    )
