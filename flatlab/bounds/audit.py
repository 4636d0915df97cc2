"""An attempt to refute bounds: the smallest and largest outputs that an attack finds in a set, to compare with them.

Every set can say where a linear function is least over it (`Box.worst`), and so the method of Frank and Wolfe attacks
on any of them: step towards the worst point of the gradient, beginning at extreme points of random directions. All
iterates lie in the convex hull of the set, for which the bounds hold as well.
"""

import torch
from torch import Tensor, nn

from flatlab import checks, modes
from flatlab.bounds.sets import Box


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
    """How far attacked values lie outside of the bounds, at most, relative to 1 + their size.

    Args:
        low, high: the bounds, (B, K).
        smallest, largest: what `audit` found, (B, K).

    Returns:
        0 or less if no value leaves its bounds; rounding in float32 may give about 1e-6.
    """
    size = 1 + torch.maximum(smallest.abs(), largest.abs())
    return float(torch.maximum((low - smallest) / size, (largest - high) / size).detach().max())
