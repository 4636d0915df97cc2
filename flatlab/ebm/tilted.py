"""A model tilted from a density that is known:  log p(x) = f(x) - log Z,   f(x) = log q(x) + g(x),   g a network.

The network learns only what the base q lacks, and Z = E_q exp g. A cap bounds the ratio exp f / q from above,

    g <- cap - softplus(cap - g) < cap,    with slope sigmoid(cap - g)

so that the network cannot put unlimited mass on a point that the noise hardly ever visits.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.ebm.noise.base import NoiseLike, check_noise


class TiltedModel(nn.Module):
    """f(x) = log q(x) + g(x).

    Args:
        net: (N, ...) -> (N, 1) or (N,); S stacked networks are one, see `flatlab.models.Stacked`.
        base: q, a noise distribution; if it is a module it becomes a part of this one, and its parameters are frozen.
        cap: bound of g, > 0, in nats; None leaves g as it is.
    """

    def __init__(self, net: nn.Module, base: NoiseLike, cap: float | None = None) -> None:
        super().__init__()
        self.net, self.base = net, check_noise(base)
        self.cap = None if cap is None else checks.positive("cap", cap)
        if isinstance(base, nn.Module):
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """f(x), (N,): the log density but for a constant, in nats."""
        return self.base.log_prob(x) + self.tilt(x)

    def tilt(self, x: Tensor) -> Tensor:
        """g(x), (N,), capped; ValueError if the network's output is neither (N, 1) nor (N,)."""
        g, rows = self.net(x), len(x)
        if tuple(g.shape) not in ((rows, 1), (rows,)):
            raise ValueError(f"net must map ({rows}, ...) to ({rows}, 1) or ({rows},), it returned {tuple(g.shape)}")
        g = g.reshape(rows)
        return g if self.cap is None else self.cap - F.softplus(self.cap - g)
