"""What a noise distribution q can do: draw samples, and say their normalised log density."""

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from flatlab import checks


class NoiseLike(Protocol):
    """The least that is needed of a noise; `Noise` has it, and so may an object from elsewhere."""

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor: ...
    def log_prob(self, x: Tensor) -> Tensor: ...


class Noise(nn.Module, ABC):
    """A distribution over tensors of one shape. A subclass writes `_sample` and `_log_prob`.

    Samples have the dtype and the device of the buffers; a generator lives on that device, and None is torch's global
    one.

    Attributes:
        shape: of one sample.
    """

    shape: tuple[int, ...]

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw n >= 1 samples, (n, *shape)."""
        return self._sample(checks.at_least("n", n, 1), generator)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density (N,), in nats, of x (N, *shape), in the dtype of x and differentiable in it.

        Raises:
            ValueError: samples of another shape. TypeError: integers.
        """
        if x.shape[1:] != self.shape:
            raise ValueError(f"noise of shape {self.shape}, data of shape {tuple(x.shape)}: give (N, *shape)")
        return self._log_prob(floating("x", x))

    @torch.no_grad()
    def sample_with_log_prob(self, n: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw n >= 1 samples (n, *shape) with their log densities (n,), at the least cost."""
        return self._both(checks.at_least("n", n, 1), generator)

    @abstractmethod
    def _sample(self, n: int, generator: torch.Generator | None) -> Tensor: ...

    @abstractmethod
    def _log_prob(self, x: Tensor) -> Tensor: ...

    def _both(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x = self._sample(n, generator)
        return x, self._log_prob(x)


def check_noise(noise: Any) -> NoiseLike:
    """Return `noise`, or raise TypeError unless it has the methods `sample` and `log_prob`."""
    missing = [name for name in ("sample", "log_prob") if not callable(getattr(noise, name, None))]
    if missing:
        raise TypeError(
            f"{type(noise).__name__} is no noise distribution, it has no {' and no '.join(missing)}: derive it from "
            "flatlab.ebm.Noise, or give it sample(n, *, generator) and log_prob(x)"
        )
    return noise


@torch.no_grad()
def draw(noise: NoiseLike, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Samples (n, ...) of a noise and their log densities (n,), both detached.

    Args:
        noise: a `Noise`, or any object with sample(n, *, generator) and log_prob(x).
        n: samples, at least 1.
        generator: of the random numbers; None is torch's global one.

    Raises:
        TypeError: no noise distribution. ValueError: n < 1, or a wrong number of samples or log densities.
    """
    checks.at_least("n", n, 1)
    if callable(both := getattr(check_noise(noise), "sample_with_log_prob", None)):
        x, log_q = both(n, generator=generator)
    else:
        x = noise.sample(n, generator=generator)
        log_q = noise.log_prob(x)
    if log_q.shape != (n,) or len(x) != n:
        raise ValueError(
            f"{type(noise).__name__} returned samples of shape {tuple(x.shape)} with log densities of shape "
            f"{tuple(log_q.shape)}; they must be ({n}, ...) and ({n},)"
        )
    return x.detach(), log_q.detach()


def floating(name: str, value: Tensor) -> Tensor:
    """Return `value`, or raise TypeError for integers."""
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {value.dtype}: convert it, images with dequantize")
    return value


def normal(n: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers (n, D), for `like` (..., D)."""
    return torch.randn(n, like.shape[-1], generator=generator, dtype=like.dtype, device=like.device)
