"""Principal components of unit variance, and images of integers as continuous data.

z = S^-1 V^T (x - mean),    C = V S^2 V^T the maximum likelihood covariance of x,    log |d z / d x| = -sum log S
"""

import math
from typing import Self

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.ebm.noise.base import floating
from flatlab.ebm.noise.moments import FLAT, moments


class Whitening(nn.Module):
    """(N, *shape) <-> (N, dims) in which the data have mean 0 and covariance I; computed in the dtype of its input.

    Args:
        mean: (D,), of the flattened data.
        components: V^T, (dims, D), orthonormal rows.
        sd: S, (dims,), positive, in units of x.
        shape: of one sample, of D numbers.
    """

    mean: Tensor
    components: Tensor
    sd: Tensor

    def __init__(self, mean: Tensor, components: Tensor, sd: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        if components.shape != (*sd.shape, *mean.shape) or (math.prod(shape),) != mean.shape:
            shapes = [tuple(part.shape) for part in (mean, components, sd)]
            raise ValueError(f"mean (D,), components (dims, D), sd (dims,) do not match: {shapes}, samples {shape}")
        self.register_buffer("mean", mean.detach())
        self.register_buffer("components", components.detach())
        self.register_buffer("sd", sd.detach())
        self.shape = shape

    @classmethod
    def fit(cls, x: Tensor, *, dims: int | None = None, shrink: float = 0.0) -> Self:
        """The leading principal components of x, in the dtype of x; those of equal variance are in no special order.

        Args:
            x: (N, ...), floating point.
            dims: components kept; None keeps all whose variance is not zero.
            shrink: in [0, 1], of the covariance as in `GaussianNoise.fit`: above 0 every component has a variance, and
                the transformed data have the covariance of x relative to the shrunk one instead of I.

        Raises:
            ValueError: more dims than have a variance.
        """
        mean, cov = moments(x.reshape(len(x), math.prod(x.shape[1:])), shrink)
        values, vectors = torch.linalg.eigh(cov)
        rank = int((values > FLAT * values[-1]).sum())
        keep = rank if dims is None else checks.at_least("dims", dims, 1)
        if not 1 <= keep <= rank:
            raise ValueError(f"the data vary in {rank} dimensions, got dims={dims}: lower dims, or give shrink > 0")
        components, sd = vectors.mT.flip(0)[:keep], values.flip(0)[:keep].sqrt()
        # The largest coordinate is positive on every processor: of equal ones the first, whatever the rounding.
        size = components.abs()
        largest = (size > (1 - 1e-6) * size.amax(1, keepdim=True)).int().argmax(1, keepdim=True)
        return cls(mean, components * components.gather(1, largest).sign(), sd, tuple(x.shape[1:])).to(x.dtype)

    @property
    def log_det(self) -> Tensor:
        """log |d z / d x| = -sum log S, a scalar in nats: log p(x) = log p(z) + log_det.

        With dims < D it is that of the map within the subspace of the components, and p(x) a density on it.
        """
        return -self.sd.log().sum()

    def transform(self, x: Tensor) -> Tensor:
        """z (N, dims) of x (N, *shape)."""
        if x.shape[1:] != self.shape:
            raise ValueError(f"fitted to samples of shape {self.shape}, data of shape {tuple(x.shape)}")
        flat = floating("x", x).reshape(len(x), len(self.mean)) - self.mean.to(x.dtype)
        return flat @ self.components.to(x.dtype).mT / self.sd.to(x.dtype)

    def inverse(self, z: Tensor) -> Tensor:
        """x (N, *shape) of z (N, dims); components that were not kept are at their mean."""
        if z.shape[1:] != self.sd.shape:
            raise ValueError(f"z must be (N, {len(self.sd)}), got shape {tuple(z.shape)}")
        flat = (z * self.sd.to(z.dtype)) @ self.components.to(z.dtype) + self.mean.to(z.dtype)
        return flat.reshape(len(z), *self.shape)


def dequantize(x: Tensor, *, levels: int = 256, generator: torch.Generator | None = None) -> Tensor:
    """Integer images as continuous data in [0, 1): (v + u) / levels with u uniform on [0, 1), float32 (N, ...).

    u is one of 2^15 midpoints, so that float32 holds v + u exactly: floor(levels y) is v again, and no y rounds to 1.

    Args:
        x: uint8 (N, ...) with values in 0..levels-1.
        levels: grey values that the images can hold, such as 17 for those in 0..16.
        generator: of u, on the device of x; None is torch's global one.

    Raises:
        TypeError: not uint8. ValueError: a value that is not below `levels`.
    """
    if x.dtype != torch.uint8:
        raise TypeError(f"dequantize takes uint8 images, got {x.dtype}")
    if x.numel() and int(x.max()) >= checks.at_least("levels", levels, 2):
        raise ValueError(f"x holds {int(x.max())}, which is not below levels={levels}: raise levels")
    u = (torch.randint(2**15, x.shape, generator=generator, device=x.device) + 0.5) / 2**15
    return (x + u) / levels
