"""An attempt to refute bounds: the most that attacked points of a set leave the interval that was proven for them.

Every set can say where a linear function is least over it (`Box.worst`), and so the method of Frank and Wolfe attacks
on any of them: step towards the worst point of the gradient, beginning at extreme points of random directions. All
iterates lie in the convex hull of the set, for which the bounds hold as well.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flatlab import checks, modes
from flatlab.bounds.sets import Box, L0Ball, LpBall, Synonyms


def audit(
    model: nn.Module,
    region: Box,
    low: Tensor,
    high: Tensor,
    *,
    steps: int = 20,
    starts: int = 4,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Attack each bound of each output.

    Args:
        model: maps (N, ...) to (N, K), samples independent of each other.
        region: the set around B inputs.
        low, high: bounds (B, K).
        steps: of the attack on each bound.
        starts: how many beginnings it has.
        generator: of random directions, on the CPU.

    Returns:
        The smallest and the largest value found, (B, K) each: sound bounds satisfy low <= smallest and largest <= high.
    """
    checks.at_least("steps", steps, 0)
    checks.at_least("starts", starts, 1)
    batch, outputs = low.shape
    smallest, largest = torch.full_like(low, torch.inf), torch.full_like(high, -torch.inf)
    rows = 2 * outputs
    sign = torch.ones(rows, 1, device=low.device, dtype=low.dtype)
    sign[outputs:] = -1
    pick = torch.arange(rows, device=low.device) % outputs
    with modes.evaluating(model):
        for _ in range(starts):
            noise = torch.randn(rows, *region.center.shape, generator=generator).to(region.center)
            x = region.worst(noise)
            for step in range(steps + 1):
                x = x.detach().requires_grad_()
                with torch.enable_grad():
                    value = model(x.flatten(0, 1)).reshape(rows, batch, outputs)
                    chosen = value[torch.arange(rows), :, pick] * sign
                    slope = torch.autograd.grad(chosen.sum(), x)[0]
                smallest = torch.minimum(smallest, value.detach().amin(0))
                largest = torch.maximum(largest, value.detach().amax(0))
                x = x.detach() + 2 / (step + 2) * (region.worst(slope) - x.detach())
    return smallest, largest


def violation(low: Tensor, high: Tensor, smallest: Tensor, largest: Tensor) -> float:
    """How far the values leave the bounds, relative to 1 + their size; 0 or less if nowhere (rounding: about 1e-6)."""
    size = 1 + torch.maximum(smallest.abs(), largest.abs())
    return float(torch.maximum((low - smallest) / size, (largest - high) / size).max())


def refute(
    model: nn.Module, region: Box, found: Sequence[tuple[Tensor, Tensor]], **options: Any
) -> tuple[float, tuple[Tensor, Tensor]]:
    """Attack several bounds of the same outputs, the last of them the tightest: `audit`, with its options, on that one.

    Returns:
        The largest `violation` of any of them, and the attacked values.
    """
    attacked = audit(model, region, *found[-1], **options)
    return max(violation(*ends, *attacked) for ends in found), attacked


def every_set(x: Tensor, eps: float, *, generator: torch.Generator) -> dict[str, Box]:
    """One set of each kind around points in [0, 1], of comparable size.

    Args:
        x: (B, T, D) in [0, 1]; words of a sentence where sets are of words.
        eps: the radius of the L_inf ball that the others are comparable to.
        generator: of three random synonyms for each word, on the CPU.
    """
    noise = eps * torch.randn(*x.shape[:2], 3, x.shape[2], generator=generator).to(x)
    known = torch.ones(*x.shape[:2], 3, dtype=torch.bool, device=x.device)
    return {
        "Linf, clipped": LpBall(x, eps, clip=(0, 1)),
        "L2": LpBall(x, 4 * eps, 2),
        "L2, clipped": LpBall(x, 4 * eps, 2, clip=(0, 1)),
        "L1": LpBall(x, 8 * eps, 1),
        "L1, clipped": LpBall(x, 8 * eps, 1, clip=(0, 1)),
        "L0": L0Ball(x, 1),
        "box": Box(x - eps, x + eps / 2),
        "synonyms": Synonyms(x, x[:, :, None] + noise, known, 2),
    }


def attainment(region: Box, a: Tensor) -> float:
    """By how much the worst points of linear functions a (S, B, ...) miss their bound, or their set; 0 if nowhere."""
    worst = region.worst(a)
    missed = ((a * worst).flatten(2).sum(2) - region.lower(a)).abs().max()
    outside = torch.maximum(region.low - worst, worst - region.high).max()
    if isinstance(region, LpBall):
        length = (worst - region.x).flatten(2).norm(p=region.p, dim=2)
        outside = torch.maximum(outside, (length - region.eps.max()).max())
    return max(0.0, float(missed), float(outside))


def gradient_error(value: Callable[[], Tensor], weights: Sequence[Tensor], *, generator: torch.Generator) -> float:
    """How far the gradient of a scalar is from central differences of length 1e-6, along a random direction.

    Args:
        value: computes the scalar from the present weights.
        weights: float64 leaves; written to, and put back.
        generator: of the direction.

    Returns:
        The difference of both slopes, relative to 1 + the slope.
    """
    d = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]
    slope = float(sum((g * v).sum() for g, v in zip(torch.autograd.grad(value(), weights), d, strict=True)))
    before, ends = [w.detach().clone() for w in weights], []
    with torch.no_grad():
        for sign in (1, -1):
            for w, old, v in zip(weights, before, d, strict=True):
                w.copy_(old + sign * 1e-6 * v)
            ends.append(float(value()))
        for w, old in zip(weights, before, strict=True):
            w.copy_(old)
    return abs((ends[0] - ends[1]) / 2e-6 - slope) / (1 + abs(slope))
