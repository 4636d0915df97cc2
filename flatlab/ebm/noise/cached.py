"""A noise that is expensive to draw from, drawn from once: minibatches are rows of a table of samples and log q."""

import torch
from torch import Tensor

from flatlab import checks
from flatlab.ebm.noise.base import Noise, NoiseLike, draw


class CachedNoise(Noise):
    """`size` draws of a noise; samples are random ones of them, with replacement, and log_prob is that of the noise.

    However many samples are drawn, their mean is no better than that of `size` independent ones.
    """

    x: Tensor
    log_q: Tensor

    def __init__(self, noise: NoiseLike, size: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        x, log_q = draw(noise, checks.at_least("size", size, 1), generator)
        self.register_buffer("x", x)
        self.register_buffer("log_q", log_q)
        self.noise, self.shape = noise, tuple(x.shape[1:])

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        return self.x[self._rows(n, generator)]

    def _log_prob(self, x: Tensor) -> Tensor:
        return self.noise.log_prob(x)

    def _both(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        rows = self._rows(n, generator)
        return self.x[rows], self.log_q[rows]

    def _rows(self, n: int, generator: torch.Generator | None) -> Tensor:
        return torch.randint(len(self.x), (n,), generator=generator, device=self.x.device)
