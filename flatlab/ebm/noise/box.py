"""The uniform distribution on a box:  log q(x) = -sum_i log(hi_i - lo_i) inside, -inf outside."""

import torch
from torch import Tensor

from flatlab import checks
from flatlab.ebm.noise.base import Noise, floating


class BoxNoise(Noise):
    """Uniform on [lo, hi]: both (D,), or numbers with dim = D. The gradient of its log density is 0 everywhere."""

    lo: Tensor
    hi: Tensor

    def __init__(self, lo: float | Tensor, hi: float | Tensor, dim: int | None = None) -> None:
        super().__init__()
        like = next((floating("lo and hi", end) for end in (lo, hi) if isinstance(end, Tensor)), torch.zeros(()))
        ends = [torch.as_tensor(end, dtype=like.dtype, device=like.device) for end in (lo, hi)]
        sizes = {tuple(end.shape) for end in ends if end.ndim}
        sizes |= set() if dim is None else {(checks.at_least("dim", dim, 1),)}
        if len(sizes) != 1 or len(size := sizes.pop()) != 1:
            raise ValueError(f"lo and hi must be (D,), or numbers with dim=D; got {lo}, {hi} and dim={dim}")
        low, high = (end.detach().expand(size).clone() for end in ends)
        if not ((low < high) & (high - low).isfinite()).all():
            raise ValueError(f"lo must be below hi, both finite, in each coordinate; got {lo} and {hi}")
        self.register_buffer("lo", low)
        self.register_buffer("hi", high)
        self.shape = size

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(n, *self.shape, generator=generator, dtype=self.lo.dtype, device=self.lo.device)
        return torch.minimum(self.lo + (self.hi - self.lo) * u, self.hi)  # rounding could step over the edge

    def _log_prob(self, x: Tensor) -> Tensor:
        lo, hi = self.lo.to(x.dtype), self.hi.to(x.dtype)
        inside = 0 * x.sum(1) - (hi - lo).log().sum()  # with x, so that it has a gradient; NaN stays NaN
        return inside.masked_fill(((x < lo) | (x > hi)).any(1), -torch.inf)
