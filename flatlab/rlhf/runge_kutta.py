"""One adaptive step of many systems at once, each with a step size of its own.

The embedded pair of Dormand and Prince 1980, orders 5 and 4. It is explicit, which is what a softmax policy asks for:
without a KL penalty the curvature is at most three times the gradient, so that a step may always move the logits by a
fixed amount, however flat the reward is and however long the flow takes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def attempt(
    velocity: Callable[[Tensor], Tensor], theta: Tensor, slope: Tensor, size: Tensor, rtol: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Try a step.

    Args:
        velocity: of points (B, D), row by row.
        theta: where the step starts (B, D).
        slope: the velocity there.
        size: of the step (B,).
        rtol: error that a step may make in a coordinate, relative to 1 + |coordinate|.

    Returns:
        Where it ends (B, D), the velocity there, (B,) whether the error is small enough, and (B,) the factor by which
        the next step should be longer.
    """
    h, stages = size[:, None], theta.new_empty(7, *theta.shape)
    stages[0] = slope
    end = theta
    for i, row in enumerate(_STAGES):
        end = theta + h * (theta.new_tensor(row) @ stages[: i + 1].flatten(1)).view_as(theta)
        stages[i + 1] = velocity(end)
    error = h * (theta.new_tensor(_ERROR) @ stages.flatten(1)).view_as(theta)
    ratio = (error.abs() / (rtol * (1 + end.abs()))).amax(1)
    factor = (0.9 * ratio.clamp(min=1e-12) ** -0.2).clamp(0.2, 5.0)
    return end, stages[6], ratio <= 1, factor.where(ratio.isfinite(), torch.full_like(factor, 0.2))


def first_size(slope: Tensor) -> Tensor:
    """A first step that moves no coordinate by more than 0.01."""
    return 0.01 / slope.abs().amax(1).clamp(min=torch.finfo(slope.dtype).tiny)
