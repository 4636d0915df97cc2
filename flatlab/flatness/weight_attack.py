"""How far the loss rises when every weight matrix moves in a ball of its own: by an attack, and by random steps.

    L(D) = mean cross-entropy at W_1 + D_1 .. W_L + D_L, with ||D_i||_p <= rho for every i

The attack is projected gradient ascent. Both find lower bounds of the largest L(D), of which the package of certified
bounds proves an upper one. A step of SAM (Foret et al. 2021) of length rho lies in the same set: the ball around all
weights together is inside the product of the balls around each of them.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks, modes
from flatlab.flatness.landscape import Landscape, Point, over_parameters


def layer_weights(model: nn.Module, names: Sequence[str] | None = None) -> list[str]:
    """The given names of parameters, once checked; or those of the weights of all linear layers and convolutions.

    Raises:
        ValueError: no such parameter, or no layer with weights.
    """
    parameters = dict(model.named_parameters())
    if names is None:
        layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        names = [name for name, w in parameters.items() if any(w is layer.weight for layer in layers)]
    unknown = [name for name in names if name not in parameters]
    if unknown or not names:
        raise ValueError(
            f"no weights {unknown or 'of linear layers or convolutions'}: choose from {', '.join(parameters)}"
        )
    return list(names)


def weight_attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    rho: float,
    *,
    p: float = 2,
    steps: int = 15,
    step_size: float = 0.5,
    restarts: int = 1,
    names: Sequence[str] | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 1024,
) -> float:
    """Search for weights in balls around the model's at which the mean cross-entropy is large.

    Projected gradient ascent: every weight goes a step of the same length along its own steepest direction, and back
    into its ball. The first ascent begins at the model's weights, further ones at random points of the balls.

    Args:
        model: maps x to logits (N, K); in eval mode, and left as it is.
        x: inputs (N, ...), floating point.
        y: labels (N,), int64.
        rho: radius of the ball around each weight matrix or kernel, >= 0, in the units of the weights.
        p: of the balls, 1, 2 or inf, over all entries of a weight; all samples share one perturbation.
        steps: of each ascent, >= 1.
        step_size: length of a step as a share of rho, > 0.
        restarts: number of ascents, >= 1.
        names: of the parameters that move; None for the weights of all linear layers and convolutions. Biases stay.
        generator: of the random points, on the model's device; None for one with seed 0.
        batch_size: samples at once.

    Returns:
        The largest mean cross-entropy found, in nats; at least that of the model's weights and, for p = 2, that of one
        step of length rho along the whole gradient, as SAM takes it.

    Raises:
        RuntimeError: BatchNorm or Dropout in train mode.
        ValueError: an argument out of range, or no weights to move.
    """
    checks.at_least("steps", steps, 1)
    checks.positive("step_size", step_size)
    checks.at_least("restarts", restarts, 1)
    loss = _loss(model, x, y, rho, p, names, batch_size)
    generator = generator or torch.Generator(x.device).manual_seed(0)
    best = -math.inf
    for restart in range(restarts):
        at = _random(loss, rho, p, generator) if restart else tuple(torch.zeros_like(w) for w in loss.point)
        for step in range(steps):
            here, gradient = loss.at(*loss.displaced(at)).value_and_gradient()
            best = max(best, here)
            if step == 0 and restart == 0 and p == 2:
                best = max(best, loss.value(*loss.displaced(_joint(gradient, rho))))
            at = tuple(project(d + step_size * steepest(g, rho, p), rho, p) for d, g in zip(at, gradient, strict=True))
        best = max(best, loss.value(*loss.displaced(at)))
    return best


def random_gap(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    rho: float,
    samples: int = 20,
    generator: torch.Generator | None = None,
    *,
    p: float = 2,
    names: Sequence[str] | None = None,
    batch_size: int = 1024,
) -> float:
    """How much the mean cross-entropy rises on average when every weight moves by rho in a random direction.

    Args:
        model, x, y, rho, p, names, batch_size: as in `weight_attack`.
        samples: number of perturbations, >= 1.
        generator: of normal directions, which are scaled to length rho; None for one with seed 0.

    Returns:
        The mean over perturbations of the loss there minus the loss here, in nats; it may be negative.
    """
    checks.at_least("samples", samples, 1)
    loss = _loss(model, x, y, rho, p, names, batch_size)
    generator = generator or torch.Generator(x.device).manual_seed(0)
    here = loss.value()
    there = (loss.value(*loss.displaced(_random(loss, rho, p, generator))) for _ in range(samples))
    return sum(value - here for value in there) / samples


def steepest(slope: Tensor, rho: float, p: float) -> Tensor:
    """The point of the Lp ball of radius rho at which <slope, .> is largest; 0 where the slope is 0.

    Args:
        slope: of any shape, which the point has, too.
        rho: >= 0.
        p: 1, 2 or inf, over all entries.
    """
    if p == 2:
        return slope * (rho / slope.norm().clamp(min=torch.finfo(slope.dtype).tiny))
    if p == math.inf:
        return rho * slope.sign()
    flat = torch.zeros_like(slope).flatten()
    top = slope.flatten().abs().argmax()
    flat[top] = rho * slope.flatten()[top].sign()
    return flat.reshape(slope.shape)


def project(point: Tensor, rho: float, p: float) -> Tensor:
    """The nearest point of the Lp ball of radius rho around 0 (for p = 1 by Duchi et al. 2008).

    Args:
        point: of any shape.
        rho: >= 0.
        p: 1, 2 or inf, over all entries.
    """
    if p == 2:
        return point * (rho / point.norm().clamp(min=torch.finfo(point.dtype).tiny)).clamp(max=1)
    if p == math.inf:
        return point.clamp(-rho, rho)
    size = point.abs().flatten()
    if float(size.sum()) <= rho:
        return point
    ordered = size.sort(descending=True).values
    excess = (ordered.cumsum(0) - rho) / torch.arange(1, len(ordered) + 1, device=point.device)
    cut = excess[(ordered > excess).nonzero()[-1, 0]] if rho > 0 else ordered[0]
    return point.sign() * (point.abs() - cut).clamp(min=0)


def _loss(
    model: nn.Module, x: Tensor, y: Tensor, rho: float, p: float, names: Sequence[str] | None, batch_size: int
) -> Landscape:
    """The mean cross-entropy over the weights that move, a batch of samples at a time."""
    modes.require_eval(model)
    checks.labels(y, len(checks.inputs(x, box=False)))
    checks.nonnegative("rho", rho)
    checks.at_least("batch_size", batch_size, 1)
    if p not in (1, 2, math.inf):
        raise ValueError(f"p must be 1, 2 or inf, got {p!r}")
    parts = list(zip(x.split(batch_size), y.split(batch_size), strict=True))

    def loss_of(xb: Tensor, yb: Tensor) -> Callable[[nn.Module], Tensor]:  # their mean is the mean over all samples
        return lambda m: F.cross_entropy(m(xb), yb, reduction="sum") * len(parts) / len(x)

    return over_parameters(model, [loss_of(*part) for part in parts], only=layer_weights(model, names))


def _random(loss: Landscape, rho: float, p: float, generator: torch.Generator) -> Point:
    """A random direction for each weight, as long as its ball reaches."""
    found = []
    for weight in loss.point:
        d = torch.randn(weight.shape, generator=generator, dtype=weight.dtype, device=weight.device)
        found.append(d * (torch.as_tensor(rho, dtype=d.dtype, device=d.device) / d.norm(p=p)))
    return tuple(found)


def _joint(gradient: Point, rho: float) -> Point:
    """The step of length rho along the gradient of all weights together."""
    length = torch.cat([slope.flatten() for slope in gradient]).norm()
    scale = rho / length.clamp(min=torch.finfo(length.dtype).tiny)
    return tuple(slope * scale for slope in gradient)
