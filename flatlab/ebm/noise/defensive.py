"""A defensive mixture (Hesterberg 1995):  q' = (1 - share) q + share wide.

Where q misses a region that p covers, the importance weights p / q explode. Those of q' are at most p / (share wide),
whatever q is: they stay bounded if p / wide is, for the price of a share of the samples.
"""

import torch
from torch import Tensor

from flatlab import checks
from flatlab.ebm.noise.base import Noise


class DefensiveNoise(Noise):
    """(1 - share) q + share wide, with q and wide of one shape and share in (0, 1)."""

    share: Tensor

    def __init__(self, q: Noise, wide: Noise, share: float = 0.1) -> None:
        super().__init__()
        if q.shape != wide.shape:
            raise ValueError(f"q and wide must have one shape, got {q.shape} and {wide.shape}")
        if not checks.positive("share", share) < 1:
            raise ValueError(f"share must lie in (0, 1), got {share!r}")
        self.shape, self.q, self.wide = q.shape, q, wide
        self.register_buffer("share", torch.tensor(float(share)))

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        near, far = self.q.sample(n, generator=generator), self.wide.sample(n, generator=generator)
        from_wide = torch.rand(n, generator=generator, device=near.device) < self.share
        return torch.where(from_wide.view(n, *[1] * len(self.shape)), far, near)

    def _log_prob(self, x: Tensor) -> Tensor:
        share = self.share.to(x.dtype)
        return torch.logaddexp(self.q.log_prob(x) + (-share).log1p(), self.wide.log_prob(x) + share.log())
