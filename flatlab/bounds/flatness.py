"""Flatness in the space of weights that is proven, and attacks and random steps that bound it from the other side.

For weights W_1 .. W_L and L(D) the mean cross-entropy of a data set at W_1 + D_1 .. W_L + D_L,

    random_gap   <=   weight_attack   <=   max of L(D) over ||D_i|| <= rho for every i   <=   certified_flatness

A step of SAM (Foret et al. 2021) of length rho lies in the same set: the ball around all weights together is inside the
product of the balls around each of them. The proof is by linear relaxation with the weights as perturbed inputs (Xu et
al. 2020, arXiv 2002.12920, sections 3 and 4.3). It bounds the worst case of each sample, and the mean of worst cases
is at least the worst case of the mean. Bounds in float32 hold up to rounding; `model.double()` makes that negligible.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from flatlab import checks, modes
from flatlab.bounds.engine import Bounds
from flatlab.bounds.graph import Program
from flatlab.bounds.losses import METHODS, margins
from flatlab.bounds.sets import Box, LpBall
from flatlab.bounds.weights import weight_balls
from flatlab.flatness import over_parameters, sam_sharpness

Point = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class CertifiedFlatness:
    """What `certified_flatness` proves.

    Attributes:
        loss: mean cross-entropy at the weights as they are, in nats.
        certified_loss: no weights in the balls have a larger mean cross-entropy.
        gap: certified_loss - loss, >= 0: an upper bound of the sharpness.
        per_sample: (N,), the same for the cross-entropy of each sample by itself.
    """

    loss: float
    certified_loss: float
    gap: float
    per_sample: Tensor


def certified_flatness(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    rho: float,
    *,
    p: float = 2,
    method: str = "crown-ibp",
    input_eps: float = 0.0,
    clip: tuple[float, float] | None = None,
    names: Sequence[str] | None = None,
    batch_size: int = 256,
) -> CertifiedFlatness:
    """Prove how much the mean cross-entropy can rise when every weight moves within a ball around itself.

    Args:
        model: maps x to logits (N, K); in eval mode, and left as it is.
        x: inputs (N, ...), floating point.
        y: labels (N,), int64.
        rho: radius of the ball around each weight matrix or kernel, >= 0, in the units of the weights.
        p: of the balls, 1, 2 or inf, over all entries of a weight.
        method: ibp, crown-ibp, crown or alpha-crown, from the quickest to the tightest; each margin takes the better
            of this and ibp.
        input_eps: moreover, each number of each input may move by so much, >= 0.
        clip: range of valid inputs, for `input_eps`; None for no limits.
        names: of the parameters that move; None for the weights of all linear layers and convolutions. Biases stay.
        batch_size: samples at once. The result does not depend on it.

    Returns:
        The mean loss, its certified bound, the difference, and the bound of each sample.

    Raises:
        RuntimeError: BatchNorm or Dropout in train mode.
        ValueError: a radius, method or label out of range, or no weights to perturb.
        UnsupportedOperator: the model has an operator without a rule, or uses a perturbed parameter in one other than
            linear layers and convolutions.
    """
    checks.nonnegative("rho", rho)
    checks.nonnegative("input_eps", input_eps)
    checks.one_of("method", method, [m for m in METHODS if m != "forward+backward"])
    program = Program(_prepared(model, x, y), x[:1])
    clean, proven = [], []
    with torch.no_grad():
        balls = weight_balls(model, rho, p=p, names=names)
        for xb, yb in _batches(x, y, batch_size):
            sets = balls | ({0: LpBall(xb, input_eps, clip=clip)} if input_eps else {})
            plain = F.cross_entropy(model(xb), yb, reduction="none")
            clean.append(plain)
            bounds = Bounds(program, xb, sets)
            low = torch.maximum(margins(bounds, yb, method=method), margins(bounds, yb, method="ibp"))
            proven.append(torch.maximum(F.softplus(torch.logsumexp(-low, dim=1)), plain))
    per_sample = torch.cat(proven)
    loss, certified = (float(torch.as_tensor(t).double().mean()) for t in (torch.cat(clean), per_sample))
    return CertifiedFlatness(loss, certified, certified - loss, per_sample)


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
    """Search for weights in the balls of `certified_flatness` at which the mean cross-entropy is large.

    Projected gradient ascent: every weight goes a step of the same length along its own steepest direction, and back
    into its ball. The first ascent begins at the model's weights, further ones at random points of the balls.

    Args:
        model, x, y, rho, p, names, batch_size: as in `certified_flatness`; all samples share one perturbation.
        steps: of each ascent, >= 1.
        step_size: length of a step as a share of rho, > 0.
        restarts: number of ascents, >= 1.
        generator: of the random points, on the model's device; None for one with seed 0.

    Returns:
        The largest mean cross-entropy found, in nats; at least that of the model's weights and, for p = 2, that of one
        step of length rho along the whole gradient, as SAM takes it.

    Raises:
        RuntimeError, ValueError: as `certified_flatness`.
    """
    checks.nonnegative("rho", rho)
    checks.at_least("steps", steps, 1)
    checks.positive("step_size", step_size)
    checks.at_least("restarts", restarts, 1)
    surface = _Surface(_prepared(model, x, y), x, y, weight_balls(model, rho, p=p, names=names), batch_size)
    generator = generator or torch.Generator(x.device).manual_seed(0)
    best = -math.inf
    for restart in range(restarts):
        at = surface.random(generator) if restart else surface.zero()
        for step in range(steps):
            found = surface.climb(at)
            best = max(best, found.loss)
            if step == 0 and restart == 0:
                best = max(best, surface.loss(_joint(found.gradient, rho)) if p == 2 else best)
            at = {
                name: project(at[name] + step_size * steepest(slope, rho, p), rho, p)
                for name, slope in found.gradient.items()
            }
        best = max(best, surface.loss(at))
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
        model, x, y, rho, p, names, batch_size: as in `certified_flatness`.
        samples: number of perturbations, >= 1.
        generator: of normal directions, which are scaled to length rho; None for one with seed 0.

    Returns:
        The mean over perturbations of the loss there minus the loss here, in nats; it may be negative.
    """
    checks.nonnegative("rho", rho)
    checks.at_least("samples", samples, 1)
    surface = _Surface(_prepared(model, x, y), x, y, weight_balls(model, rho, p=p, names=names), batch_size)
    generator = generator or torch.Generator(x.device).manual_seed(0)
    here = surface.loss(surface.zero())
    return sum(surface.loss(surface.random(generator)) - here for _ in range(samples)) / samples


def flatness_report(
    model: nn.Module, x: Tensor, y: Tensor, rho: float, *, generator: torch.Generator | None = None
) -> dict[str, float]:
    """How far the mean cross-entropy can rise within balls of radius rho around the weights, from all sides.

    Args:
        model, x, y, rho: as in `certified_flatness`.
        generator: of the attack's and of random directions.

    Returns:
        In nats: "train loss" at the weights, "certified loss", "attack gap", "SAM step" (one step along the joint
        gradient), "random gap", and "excess", by which the attack exceeds the certificate: never more than rounding.
    """
    proof = certified_flatness(model, x, y, rho)
    gap = weight_attack(model, x, y, rho, generator=generator) - proof.loss
    names = [str(name) for name in weight_balls(model, rho)]
    space = over_parameters(model, lambda m: F.cross_entropy(m(x), y), only=names)
    return {
        "train loss": proof.loss,
        "certified loss": proof.certified_loss,
        "attack gap": gap,
        "SAM step": sam_sharpness(space, rho),
        "random gap": random_gap(model, x, y, rho, generator=generator),
        "excess": gap - proof.gap,
    }


def steepest(slope: Tensor, rho: float, p: float) -> Tensor:
    """The point of the Lp ball of radius rho at which <slope, .> is largest; 0 where the slope is 0."""
    if p == 2:
        return slope * (rho / slope.norm().clamp(min=torch.finfo(slope.dtype).tiny))
    if p == math.inf:
        return rho * slope.sign()
    flat = torch.zeros_like(slope).flatten()
    top = slope.flatten().abs().argmax()
    flat[top] = rho * slope.flatten()[top].sign()
    return flat.reshape(slope.shape)


def project(point: Tensor, rho: float, p: float) -> Tensor:
    """The nearest point of the Lp ball of radius rho around 0 (for p = 1 by Duchi et al. 2008)."""
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


class _Climb(NamedTuple):
    loss: float
    gradient: Point


class _Surface:
    """The mean loss as a function of what is added to the perturbed weights; no weight of the model is written."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, balls: dict[int | str, Box], batch_size: int) -> None:
        self.model, self.x, self.y, self.batch_size = model, x, y, batch_size
        self.balls = {str(name): ball for name, ball in balls.items() if isinstance(ball, LpBall)}

    def zero(self) -> Point:
        return {name: torch.zeros_like(ball.x) for name, ball in self.balls.items()}

    def random(self, generator: torch.Generator) -> Point:
        """A random direction for each weight, as long as its ball reaches."""
        found = {}
        for name, ball in self.balls.items():
            d = torch.randn(ball.x.shape, generator=generator, dtype=ball.x.dtype, device=ball.x.device)
            found[name] = d * (ball.eps.detach() / d.norm(p=ball.p))
        return found

    def loss(self, at: Point) -> float:
        with torch.no_grad():
            moved = self._moved(at)
            return sum(float(self._part(moved, x, y)) for x, y in self._batches())

    def climb(self, at: Point) -> _Climb:
        """The loss and its gradient."""
        leaves = {name: d.detach().requires_grad_() for name, d in at.items()}
        gradient, total = self.zero(), 0.0
        with torch.enable_grad():
            for x, y in self._batches():
                part = self._part(self._moved(leaves), x, y)
                total += float(part.detach())
                slopes = torch.autograd.grad(part, list(leaves.values()), materialize_grads=True)
                for name, slope in zip(leaves, slopes, strict=True):
                    gradient[name] += slope
        return _Climb(total, gradient)

    def _moved(self, at: Point) -> Point:
        return {name: ball.x.detach() + at[name] for name, ball in self.balls.items()}

    def _part(self, weights: Point, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(self.model, weights, (x,)), y, reduction="sum") / len(self.x)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return _batches(self.x, self.y, self.batch_size)


def _joint(gradient: Point, rho: float) -> Point:
    """The step of length rho along the gradient of all weights together."""
    length = torch.cat([slope.flatten() for slope in gradient.values()]).norm()
    scale = rho / length.clamp(min=torch.finfo(length.dtype).tiny)
    return {name: slope * scale for name, slope in gradient.items()}


def _prepared(model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
    modes.require_eval(model)
    checks.labels(y, len(checks.inputs(x, box=False)))
    return model


def _batches(x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    checks.at_least("batch_size", size, 1)
    return zip(x.split(size), y.split(size), strict=True)
