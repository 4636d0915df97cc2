"""Metropolis-adjusted Langevin algorithm, MALA (Roberts and Tweedie 1996), for many chains at once.

    y = x + eps^2/2 grad f(x) + eps xi,    accepted with probability  min(1, e^{f(y)} q(x | y) / (e^{f(x)} q(y | x)))

where q(. | x) = N(x + eps^2/2 grad f(x), eps^2 I). The noise that leads back from y is -(xi + s) with
s = eps/2 (grad f(x) + grad f(y)), so that the log of the ratio is

    f(y) - f(x) + (|xi|^2 - |xi + s|^2) / 2  =  f(y) - f(x) - s . (xi + s / 2)

and needs neither x - y nor a density of the proposal. The test makes exp f exactly invariant, for any eps. A step takes
one gradient, that of the proposal; the one at x is kept. Proposals where f is NaN or infinite are turned down, so that
chains never leave the support of a density that is 0 (f = -inf) outside a box.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flatlab import checks
from flatlab.samplers.density import LogDensity, per_chain, starting_points, value_and_gradient
from flatlab.samplers.draws import Generator, normal_like, uniform


@dataclass(frozen=True)
class Chains:
    """The last states x (N, ...) of chains, and the share of their proposals that was accepted (1 if none was made)."""

    x: Tensor
    acceptance: float


class Place(NamedTuple):
    """Chains x (N, ...), and some functions there: the values (N,) and the gradients (N, ...) of each."""

    x: Tensor
    values: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]

    def mixed(self, weights: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Value (N,) and gradient (N, ...) of the weighted sum of the functions."""
        terms = [(w * v, w * g) for w, v, g in zip(weights, self.values, self.gradients, strict=True)]
        values, gradients = zip(*terms, strict=True)
        return sum(values[1:], values[0]), sum(gradients[1:], gradients[0])


def mala(f: LogDensity, x0: Tensor, steps: int, eps: float, *, generator: Generator = None) -> Chains:
    """Chains that leave the density proportional to exp f invariant; `.x` (N, ...) detached, and `.acceptance`.

    Args:
        f: points (N, ...) -> log of an unnormalized density (N,); -inf outside its support.
        x0: starting points (N, ...) in the support; they stay as they are.
        steps: number of steps, each one gradient of f; 0 returns x0 and an acceptance of 1.
        eps: step size, in units of x. An acceptance near .57 is best in high dimension (Roberts and Rosenthal 1998).
        generator: of the proposals and the tests; with SeedGenerators the rows are one block a seed.

    Raises:
        TypeError: x0 of integers.
        ValueError: no chains, a value out of bounds, f not of shape (N,), or not finite at x0.
    """
    x, eps = starting_points(x0), checks.positive("eps", eps)
    here = look([f], x)
    require("f", here.values[0].isfinite(), "finite")
    accepted = []
    for _ in range(checks.at_least("steps", steps, 0)):
        here, taken = transition([f], [1.0], here, eps, generator)
        accepted.append(taken.double().mean())
    return Chains(here.x, mean(accepted))


def transition(
    functions: Sequence[LogDensity], weights: Sequence[float], here: Place, eps: float, generator: Generator
) -> tuple[Place, Tensor]:
    """One step of MALA for the weighted sum of the functions: where it leads, and which chains moved (N,)."""
    value, gradient = here.mixed(weights)
    noise = normal_like(here.x, generator)
    there = look(functions, here.x.add(gradient, alpha=eps**2 / 2).add_(noise, alpha=eps))
    ahead, slope = there.mixed(weights)
    ratio = log_ratio((value, gradient), (ahead, slope), noise, eps)
    taken = (uniform(ratio.shape, generator, ratio).log() < ratio) & ahead.isfinite()

    def choose(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(per_chain(taken, new), new, old)

    values = tuple(map(choose, there.values, here.values))
    gradients = tuple(map(choose, there.gradients, here.gradients))
    return Place(choose(there.x, here.x), values, gradients), taken


def log_ratio(here: tuple[Tensor, Tensor], there: tuple[Tensor, Tensor], noise: Tensor, eps: float) -> Tensor:
    """Log of the ratio (N,) whose minimum with 1 is the probability of acceptance.

    Args:
        here, there: f (N,) and its gradient (N, ...) at x and at the proposal.
        noise: xi (N, ...), which led from the one to the other.
        eps: step size.
    """
    shift = (here[1] + there[1]) * (eps / 2)
    return there[0] - here[0] - (shift * (noise + shift / 2)).reshape(len(noise), -1).sum(1)


def look(functions: Sequence[LogDensity], x: Tensor) -> Place:
    """The functions and their gradients at x."""
    values, gradients = zip(*(value_and_gradient(f, x) for f in functions), strict=True)
    return Place(x, values, gradients)


def require(name: str, fine: Tensor, what: str) -> None:
    """Raise ValueError unless `fine` (N,) holds for all starting points."""
    if not fine.all():
        row = int((~fine).nonzero()[0])
        raise ValueError(f"{name} is not {what} at x0, first in row {row}: start inside the support of {name}")


def mean(accepted: Sequence[Tensor]) -> float:
    """Their mean, or 1 if there are none; taken at the end, as each look at a value would halt a GPU."""
    return float(torch.stack(list(accepted)).mean()) if accepted else 1.0
