"""Contrastive divergence, CD (Hinton 2002), and its persistent form, PCD (Tieleman 2008), with Langevin dynamics.

    L = -mean f(x) + mean f(y),        grad L estimates the likelihood's gradient if y is drawn from the model

CD starts its chains at the data, PCD goes on with chains of its own from a replay buffer (Du and Mordatch 2019), of
which a part starts anew from a noise distribution:

    y <- y + eps^2 / 2 grad f(y) + eps N(0, 1)

Nothing here knows log Z: `nll` and `log_z` are NaN. The chains keep no graph, so that memory does not grow with
`steps`. `l2` adds the mean of f(x)^2 + f(y)^2, which keeps energies near zero.
"""

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from flatlab import checks
from flatlab.ebm.base import Draws, Energy, EnergyLoss, LossOutput, block, energies, matching
from flatlab.ebm.noise import NoiseLike, check_noise
from flatlab.rng import SeedGenerators
from flatlab.samplers import ReplayBuffer, langevin


@dataclass(eq=False)
class _Contrastive(EnergyLoss):
    """Data against chains.

    Args:
        steps: Langevin steps for each step of training.
        eps: their size, in units of the data.
        l2: weight of the squared energies.
    """

    _: KW_ONLY
    steps: int = 10
    eps: float = 0.1
    l2: float = 0.0

    def __post_init__(self) -> None:
        checks.at_least("steps", self.steps, 1)
        checks.positive("eps", self.eps)
        checks.nonnegative("l2", self.l2)

    @abstractmethod
    def chains(self, f: Energy, x: Tensor, draws: Draws) -> Tensor:
        """Samples (S*B, ...), detached."""

    def compute(self, f: Energy, x: Tensor, draws: Draws, networks: int, *, strict: bool = False) -> LossOutput:
        y = self.chains(f, x, draws)
        rows = torch.cat([block(x, networks), block(y, networks)], 1).flatten(0, 1)
        data, model = block(energies(f, rows, strict=strict), networks).chunk(2, 1)
        loss = (model - data + self.l2 * (model.square() + data.square())).mean(1)
        unknown = torch.full_like(loss, torch.nan, requires_grad=False)
        return LossOutput(loss, unknown, unknown, unknown, unknown)


@dataclass(eq=False)
class CDLoss(_Contrastive):
    """CD-k; its arguments are those of PCD but for the noise and the buffer: chains start at the data."""

    def chains(self, f: Energy, x: Tensor, draws: Draws) -> Tensor:
        return langevin(f, x, self.steps, self.eps, generator=draws)


@dataclass(eq=False)
class PCDLoss(_Contrastive):
    """Persistent CD, with as many chains a batch as it has data; besides the arguments of CD:

    Args:
        noise: where chains start: anything with `.sample(n, generator=)` and `.log_prob(x)`.
        buffer_size: chains kept for each network; at least the batch size.
        reinit: probability of starting a chain anew, in [0, 1].
    """

    noise: NoiseLike
    _: KW_ONLY
    buffer_size: int = 10_000
    reinit: float = 0.05

    memory = ("buffer",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise)
        self._replay = ReplayBuffer(self.buffer_size, reinit=self.reinit)

    @property
    def buffer(self) -> Tensor | None:
        """The chains (S * buffer_size, ...), those of the first network first."""
        return self._replay.chains

    @buffer.setter
    def buffer(self, chains: Tensor | None) -> None:
        self._replay.chains = chains

    def chains(self, f: Energy, x: Tensor, draws: Draws) -> Tensor:
        generators = draws.generators if isinstance(draws, SeedGenerators) else [draws]

        def fresh(shape: tuple[int, ...]) -> Tensor:
            each = shape[0] // len(generators)
            made = torch.cat([self.noise.sample(each, generator=generator) for generator in generators])
            return matching(x, made).to(x)

        index, start = self._replay.draw(x, draws, fresh)
        y = langevin(f, start, self.steps, self.eps, generator=draws)
        self._replay.store(index, y)
        return y
