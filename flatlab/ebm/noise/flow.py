"""RealNVP, a normalizing flow (Dinh, Sohl-Dickstein and Bengio 2017): exact density and exact samples of a network.

    h <- b h + (1 - b) [h exp(s(b h)) + t(b h)]    in each of the layers,    from (x - loc) / scale to z ~ N(0, I)
    log q(x) = log N(z; 0, I) + sum over layers and coordinates of (1 - b) s - sum log scale

b is a mask of half of the coordinates; the next layer keeps the other half. Each pair of layers halves them in another
way, in blocks of 1, 2, 4... coordinates. s = bound tanh(.), and t comes from a network of bounded units, so that
|z| <= exp(bound layers) (|x - loc| / scale + a constant): an outlier gets a finite density. The paper's networks are
residual, the bound of its s is learned, and it normalises between layers.
"""

import math
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from flatlab import checks
from flatlab.ebm.noise.base import Noise, normal
from flatlab.ebm.noise.moments import FLAT, moments
from flatlab.models import mlp
from flatlab.train import Recipe, fit


class FlowNoise(Noise):
    """RealNVP over (dim,), at first N(0, I).

    Args:
        dim: D >= 2.
        layers: couplings; two change every coordinate once.
        width: of the two hidden layers of each coupling's network, whose weights come from torch's global generator.
        bound: of |s|, the log-scale of one layer.
    """

    loc: Tensor
    scale: Tensor
    masks: Tensor

    def __init__(self, dim: int, *, layers: int = 6, width: int = 64, bound: float = 2.0) -> None:
        super().__init__()
        self.shape = (checks.at_least("dim", dim, 2),)
        self.bound = checks.positive("bound", bound)
        place, halvings = torch.arange(dim), (dim - 1).bit_length()
        couplings = range(checks.at_least("layers", layers, 1))
        masks = [(place >> (layer // 2 % halvings)) % 2 == layer % 2 for layer in couplings]
        self.register_buffer("masks", torch.stack(masks), persistent=False)
        self.register_buffer("loc", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        nets = [mlp((dim,), 2 * dim, widths=(width, width), activation="tanh") for _ in couplings]
        for weight in (weight for net in nets for weight in net[-1].parameters()):
            nn.init.zeros_(weight)
        self.nets = nn.ModuleList(nets)

    @classmethod
    def fit(
        cls,
        x: Tensor,
        *,
        layers: int = 6,
        width: int = 64,
        epochs: int = 100,
        batch_size: int = 256,
        lr: float = 1e-3,
        seed: int = 0,
    ) -> Self:
        """Train a flow by maximum likelihood, with Adam and a one-cycle schedule, and freeze it.

        It can overfit a small set: compare log_prob on data that were held out, and lower lr or epochs.

        Args:
            x: (N, D), floating point; the flow has its dtype and device.
            layers, width: as in the constructor.
            epochs, batch_size, lr: as in `flatlab.train.Recipe`.
            seed: of the initial weights and the order of the batches.

        Raises:
            ValueError: a coordinate that is constant.
        """
        mean, cov = moments(x)
        variances = cov.diagonal()
        if flat := (variances <= FLAT * variances.max()).nonzero().flatten().tolist():
            raise ValueError(f"coordinates {flat} are constant: leave them out, or whiten with flatlab.ebm.Whitening")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            flow = cls(x.shape[1], layers=layers, width=width).to(x)
        flow.loc.copy_(mean)
        flow.scale.copy_(variances.sqrt())
        rows: Any = SimpleNamespace(x=x.detach(), y=None)
        recipe = Recipe(epochs=epochs, batch_size=batch_size, lr=lr)
        fit(flow, rows, lambda model, x, y, step_fraction: -flow.log_prob(x).mean(), recipe, seeds=seed)
        return flow.requires_grad_(False).eval()

    def to_base(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (N, D) of x (N, D), and log |det dz / dx| (N,)."""
        scale = self.scale.to(x.dtype)
        h, log_det = (x - self.loc.to(x.dtype)) / scale, -scale.log().sum()
        for layer in range(len(self.nets)):
            s, t = self._coupling(layer, h)
            h, log_det = h * s.exp() + t, log_det + s.sum(1)
        return h, log_det

    def from_base(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x (N, D) of z (N, D), and log |det dz / dx| (N,) there: the inverse of `to_base`."""
        scale = self.scale.to(z.dtype)
        h, log_det = z, -scale.log().sum()
        for layer in reversed(range(len(self.nets))):
            s, t = self._coupling(layer, h)  # what it was on the way to z, as it depends on the kept half alone
            h, log_det = (h - t) * (-s).exp(), log_det + s.sum(1)
        return self.loc.to(z.dtype) + scale * h, log_det

    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        return self._both(n, generator)[0]

    def _log_prob(self, x: Tensor) -> Tensor:
        z, log_det = self.to_base(x)
        return _standard_log_prob(z) + log_det

    def _both(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        z = normal(n, self.loc, generator)
        x, log_det = self.from_base(z)
        return x, _standard_log_prob(z) + log_det

    def _coupling(self, layer: int, h: Tensor) -> tuple[Tensor, Tensor]:
        """Log-scales s and shifts t (N, D) of one layer, 0 where it keeps a coordinate."""
        net, keep = self.nets[layer], self.masks[layer]
        weights = {name: weight.to(h.dtype) for name, weight in net.named_parameters()}
        s, t = (functional_call(net, weights, (h * keep,)) * ~keep.repeat(2)).chunk(2, 1)
        return self.bound * s.tanh(), t


def _standard_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I), (N,), of z (N, D)."""
    return -z.square().sum(1) / 2 - z.shape[1] / 2 * math.log(2 * math.pi)
