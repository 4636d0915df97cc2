"""Langevin dynamics without a Metropolis test: ULA (Roberts and Tweedie 1996) and what is called SGLD.

    x <- x + step grad f(x) + noise xi,    xi ~ N(0, I)

With step = eps^2 / 2 and noise = eps this is the Euler scheme of the diffusion that leaves exp f invariant (the
unadjusted Langevin algorithm). Its own stationary law is off by a bias that vanishes with eps: for N(0, 1) the variance
is 1 / (1 - eps^2 / 4); `flatlab.samplers.mala` removes it.

Practice sets step and noise apart, with a noise much below sqrt(2 step) (Grathwohl et al. 2020: 1 and .01), and calls
that SGLD after Welling and Teh 2011. It is then noisy ascent of f and no sampler of exp f: its stationary law, where
there is one, has the lower temperature noise^2 / (2 step).
"""

from torch import Tensor

from flatlab import checks
from flatlab.samplers.density import LogDensity, starting_points, value_and_gradient
from flatlab.samplers.draws import Generator, normal_like


def langevin_step(
    f: LogDensity, x: Tensor, *, step: float, noise: float, generator: Generator, clip: float | None = None
) -> Tensor:
    """One step x + step grad f(x) + noise xi, (N, ...), detached; leaves x and the parameters behind f as they are.

    Args:
        f: points (N, ...) -> log of an unnormalized density (N,).
        x: the chains (N, ...).
        step: step size, in units of x^2.
        noise: standard deviation of the noise, in units of x; a step draws as many numbers if it is 0.
        generator: of the noise; with SeedGenerators the rows are one block a seed.
        clip: bound of each coordinate of the gradient, or None.
    """
    _, gradient = value_and_gradient(f, x)
    if clip is not None:
        gradient = gradient.clamp(-clip, clip)
    return x.detach().add(gradient, alpha=step).add_(normal_like(x, generator), alpha=noise)


def langevin(
    f: LogDensity,
    x0: Tensor,
    steps: int,
    eps: float | None = None,
    *,
    step: float | None = None,
    noise: float | None = None,
    generator: Generator = None,
    clip: float | None = None,
) -> Tensor:
    """The chains (N, ...) after some steps, detached; no graph outlives its step, so memory does not grow with them.

    Give either `eps`, for the unadjusted Langevin algorithm, or `step` and `noise`.

    Args:
        f: points (N, ...) -> log of an unnormalized density (N,).
        x0: starting points (N, ...); they stay as they are.
        steps: number of steps; 0 returns x0.
        eps: for step = eps^2 / 2 and noise = eps, in units of x.
        step: step size, in units of x^2; > 0.
        noise: standard deviation of the noise, in units of x; >= 0.
        generator: of the noise; with SeedGenerators the rows are one block a seed.
        clip: bound of each coordinate of the gradient, or None. A clipped chain samples another density.

    Raises:
        TypeError: x0 of integers.
        ValueError: no chains, both or neither of eps and (step, noise), a value out of bounds, f not of shape (N,).
    """
    x = starting_points(x0)
    if (eps is None) == (step is None and noise is None) or (step is None) != (noise is None):
        raise ValueError(f"give either eps or both of step and noise, got eps={eps!r}, step={step!r}, noise={noise!r}")
    if eps is not None:
        step, noise = checks.positive("eps", eps) ** 2 / 2, float(eps)
    assert step is not None
    assert noise is not None
    checks.positive("step", step)
    checks.nonnegative("noise", noise)
    if clip is not None:
        checks.positive("clip", clip)
    for _ in range(checks.at_least("steps", steps, 0)):
        x = langevin_step(f, x, step=step, noise=noise, generator=generator, clip=clip)
    return x
