"""The inner maximisation that adversarial objectives share, lean because it runs at every step of a training."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.modes import evaluating
from flatlab.rng import SeedGenerators


def ascend(
    model: nn.Module,
    x: Tensor,
    objective: Callable[[Tensor], Tensor],
    *,
    eps: float,
    steps: int,
    alpha: float,
    start: Tensor,
) -> Tensor:
    """Maximise each sample's objective over the intersection of its L_inf ball and the box [0, 1], by signed steps.

    Unlike `flatlab.attacks.pgd` it checks nothing, has no restarts, and takes the objective as a function of the
    inputs, so that curvature, energies and divergences fit as well as losses of the logits.

    Args:
        model: put into eval mode for the duration, so that BatchNorm neither mixes the samples nor counts them.
        x: centre of the balls (N, ...) in [0, 1].
        objective: inputs (N, ...) -> one value per sample (N,), through the model.
        eps: radius.
        steps: gradient evaluations.
        alpha: length of the whole path in units of eps; one step has size alpha * eps / steps.
        start: initial perturbation (N, ...), projected first.

    Returns:
        The last iterate (N, ...), detached.
    """
    x = x.detach()
    low, high = (x - eps).clamp_(min=0), (x + eps).clamp_(max=1)
    point = torch.clamp(x + start, low, high)
    with evaluating(model), torch.enable_grad():
        for _ in range(steps):
            point.requires_grad_()
            (grad,) = torch.autograd.grad(objective(point).sum(), point)
            point = torch.clamp(point.detach().add(grad.sign(), alpha=alpha * eps / steps), low, high)
    return point


def value_and_gradient(
    function: Callable[[Tensor], Tensor], x: Tensor, *, create_graph: bool = True
) -> tuple[Tensor, Tensor]:
    """The values (N,) of a per-sample function at x, and its gradients (N, ...) there.

    Args:
        function: inputs (N, ...) -> one value per sample (N,).
        x: where to take them (N, ...).
        create_graph: let both be differentiated with respect to the parameters.
    """
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        values = function(point)
        (gradient,) = torch.autograd.grad(values.sum(), point, create_graph=create_graph)
    return values, gradient


def cross_entropy_attack(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, steps: int, alpha: float, rng: SeedGenerators
) -> Tensor:
    """Inputs (N, ...) of large cross-entropy within eps of x, from a uniform random start.

    Args:
        model: (N, ...) in [0, 1] -> logits (N, C).
        x: inputs (N, ...) in [0, 1].
        y: labels (N,).
        eps, steps, alpha: as in `ascend`.
        rng: of the start.
    """

    def objective(point: Tensor) -> Tensor:
        return F.cross_entropy(model(point), y, reduction="sum")

    start = uniform_like(x, rng).mul_(eps)
    return ascend(model, x, objective, eps=eps, steps=steps, alpha=alpha, start=start)


def uniform_like(x: Tensor, rng: SeedGenerators) -> Tensor:
    """Uniform on [-1, 1), in the shape, dtype and place of x."""
    return rng.uniform(x.shape, -1.0, 1.0).to(x)


def rademacher_like(x: Tensor, rng: SeedGenerators) -> Tensor:
    """-1 or +1 with equal probability, in the shape, dtype and place of x."""
    return rng.rademacher(x.shape).to(x)


def per_sample(value: Tensor, x: Tensor) -> Tensor:
    """Reshape values (N,) so that they broadcast over the samples of x."""
    return value.reshape(-1, *[1] * (x.ndim - 1))
