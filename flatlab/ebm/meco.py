"""MECO (Jiang et al. 2023): maximum likelihood as a compositional problem, log of an expectation under noise.

    L = -mean f(x) + log E_q[w],        w = exp(f - log q)
    u_t = (1 - gamma) u_{t-1} + gamma mean w(y; theta_t)                the inner value, a moving average of Z
    g_t = -mean grad f(x) + (1 / u_t) mean w(y; theta_t) grad f(y)      the gradient; its average is the optimizer's

u is kept as its logarithm (float32 overflows at 88), detached, updated before it divides, and set by the first batch.
gamma = 1 is the plain mini-batch estimate, whose log is biased by about -Var(w) / (2 n Z^2). The paper's moving average
of gradients is the momentum of the optimizer in use (beta1 of Adam).

`storm` corrects the average by what the same draws gave at the parameters before, u_t = mean w_t + (1 - gamma)
(u_{t-1} - mean w_{t-1}), which costs a second pass over the noise and can fall below zero: it is floored at a tenth of
the present mean. It is an extension, off unless asked for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from flatlab import checks
from flatlab.ebm.base import Energy, NoiseLoss, block


@dataclass(frozen=True)
class Decay:
    """gamma_t = max(start / t^power, floor), for `MECOLoss(gamma=Decay())`."""

    start: float = 0.5
    power: float = 0.5
    floor: float = 0.02

    def __call__(self, step: int) -> float:
        """gamma of a step, counted from 1."""
        return max(self.start / step**self.power, self.floor)


@dataclass(eq=False)
class MECOLoss(NoiseLoss):
    """MECO; its arguments are those of `NoiseLoss`, and:

    Args:
        gamma: weight of the present batch in the moving average, in (0, 1], or a function of the step (from 1).
        log_weight_clip: largest log(w / u) that a draw enters the gradient with.
        storm: correct the average by the parameters before; f must be a module, always the same.
    """

    gamma: float | Callable[[int], float] = 0.1
    log_weight_clip: float = 10.0
    storm: bool = False

    memory = ("log_u", "steps", "previous")

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive("log_weight_clip", self.log_weight_clip)
        self._gamma(1)
        self.log_u: Tensor | None = None
        """The running log Z, (S,)."""
        self.steps: Tensor | None = None
        self.previous: Tensor | None = None
        """For `storm`: the parameters of the step before, in one vector."""
        self._before: Tensor | None = None

    @property
    def looks_back(self) -> bool:
        return self.storm

    def look_back(self, f: Energy, y: Tensor, log_q: Tensor, networks: int) -> None:
        if not self.storm:
            return
        if not isinstance(f, nn.Module):
            raise TypeError(f"storm evaluates the parameters before: f must be a torch module, got {type(f).__name__}")
        trained = {name: p for name, p in f.named_parameters() if p.requires_grad}
        if self.previous is not None:
            parts = self.previous.split([p.numel() for p in trained.values()])
            old = {name: part.view_as(p) for (name, p), part in zip(trained.items(), parts, strict=True)}
            with torch.no_grad():
                ratios = block(functional_call(f, old, (y,)) - log_q, networks)
            self._before = _log_mean(ratios)
        self.previous = torch.cat([p.detach().flatten() for p in trained.values()])

    def from_ratios(self, data: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            self.log_u = self._average(_log_mean(noise))
            weights = (noise - self.log_u[:, None]).clamp(max=self.log_weight_clip).exp()
        surrogate = (weights * noise).mean(1) - data.mean(1)
        # The value is that of the likelihood, the gradient that of the surrogate.
        return surrogate + (self.log_u - data.mean(1) - surrogate).detach(), self.log_u

    def _average(self, now: Tensor) -> Tensor:
        """The next log u from the logarithm of the batch's mean weight, (S,)."""
        self.steps = torch.ones((), dtype=torch.int64) if self.steps is None else self.steps + 1
        gamma = self._gamma(int(self.steps))
        if self.log_u is None or gamma == 1:
            return now
        if len(self.log_u) != len(now):
            raise ValueError(
                f"the running log Z is of {len(self.log_u)} network(s), the batch of {len(now)}: call reset() first"
            )
        if self._before is None:
            return torch.logaddexp(self.log_u.to(now) + math.log1p(-gamma), now + math.log(gamma))
        top = torch.maximum(torch.maximum(now, self.log_u), self._before)
        drift = (1 - gamma) * ((self.log_u - top).exp() - (self._before - top).exp())
        mean = (now - top).exp()
        return top + torch.maximum(mean + drift, 0.1 * mean).log()

    def _gamma(self, step: int) -> float:
        gamma = self.gamma(step) if callable(self.gamma) else self.gamma
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma must lie in (0, 1], got {gamma!r}; 1 takes each batch alone")
        return float(gamma)


def _log_mean(log_weights: Tensor) -> Tensor:
    """Logarithm of the mean weight of each network, (S, n) -> (S,)."""
    return log_weights.logsumexp(1) - math.log(log_weights.shape[1])
