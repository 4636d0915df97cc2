"""The descent of many starts on a test surface: one parameter (S, D), one optimizer, the sum of S values as the loss.

The gradient of that sum is, row by row, the gradient of each start alone. So an optimizer that treats coordinates one
by one (SGD, Adam), or that keeps a norm and a memory per row (`networks=S`), takes with each start the steps that it
would take with that start alone: also when another start becomes non-finite.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flatlab import checks
from flatlab.test_functions import Surface
from flatlab.train.stepper import Stepper


@dataclass(frozen=True, eq=False)
class Descent:
    """Where S starts arrived.

    Args:
        x: the last iterates (S, D).
        values: of the surface there (S,); inf where the start diverged.
        diverged: (S,) bool, whether the last iterate or its value is not finite.
        path: the iterates (T, S, D) after 0, k, 2k, .. steps, or None if none were recorded.
        path_values: of the surface there (T, S), or None.
    """

    x: Tensor
    values: Tensor
    diverged: Tensor
    path: Tensor | None = None
    path_values: Tensor | None = None

    def reached(self, level: float) -> Tensor:
        """Whether each start ended at a value <= `level`, (S,) bool; never for one that diverged."""
        return self.values <= level

    def summary(self, surface: Surface, *, near: float = 0.05) -> dict[str, float]:
        """Means over the starts: of the value, of whether it is within `near` of the optimum, of the top curvature."""
        return {
            "mean value": self.values.mean().item(),
            "at the minimum": self.reached(surface.optimum + near).double().mean().item(),
            "top curvature": surface.top_curvature(self.x).mean().item(),
        }


def descend(
    surface: Surface,
    starts: Tensor,
    optimizer: Callable[..., Optimizer],
    *,
    steps: int,
    lr: float,
    schedule: str = "constant",
    record: int = 0,
) -> Descent:
    """Take `steps` steps from each of the S starts.

    Computes in the precision of the starts. `Surface.uniform_starts` gives float64, which costs no more here (a step's
    time is overhead, not arithmetic) and resolves values close to a minimum. Nothing keeps iterates in the box.

    Args:
        surface: the function to minimise.
        starts: (S, D), left unchanged.
        optimizer: a class, or a functools.partial of one, called as `optimizer([parameter], lr=lr)`, with
            `networks=S` added where the class has a true attribute `stacks`. Its `step` gets a closure, so
            that those with two passes work too. One that mixes rows without knowing of them, such as LBFGS, gives wrong
            results.
        steps: how many.
        lr: the learning rate.
        schedule: "constant", or "cosine" from `lr` down to 0.
        record: keep every record-th iterate; 0 for none.

    Raises:
        TypeError: starts that are not floating point.
        ValueError: starts that are not (S, D), a number out of bounds, an unknown schedule.
    """
    if surface.points(starts).ndim != 2 or len(starts) == 0:
        raise ValueError(f"starts must have shape (S, {surface.dims}) with S >= 1, got {tuple(starts.shape)}")
    checks.at_least("steps", steps, 0)
    checks.at_least("record", record, 0)
    checks.nonnegative("lr", lr)
    checks.one_of("schedule", schedule, ("constant", "cosine"))
    parameter = nn.Parameter(starts.detach().clone())
    # Not checked: a start that flies off is told apart at the end, by its value.
    stepper = Stepper([parameter], optimizer, lr=lr, networks=len(starts), check_finite=False)
    path = [starts.detach().clone()] if record else []
    for step in range(steps):
        if schedule == "cosine":
            stepper.lr = lr * (1 + math.cos(math.pi * step / steps)) / 2
        stepper.step(lambda: surface.function(parameter))
        if record and (step + 1) % record == 0:
            path.append(parameter.detach().clone())
    return _outcome(surface, parameter.detach(), torch.stack(path) if path else None)


def _outcome(surface: Surface, x: Tensor, path: Tensor | None) -> Descent:
    with torch.no_grad():
        values = surface(x)
        diverged = ~(x.isfinite().all(dim=1) & values.isfinite())
        path_values = None if path is None else surface(path)
    return Descent(x, values.where(~diverged, torch.inf), diverged, path, path_values)
