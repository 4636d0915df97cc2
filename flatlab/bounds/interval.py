"""Intervals, kept as ends or as centre and radius; and balls, which tell an affine layer more than their box does."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Ball:
    """All center + scale * z with ||z||_p <= 1; scale has the shape of one sample, (1, ...)."""

    center: Tensor
    scale: Tensor
    p: float

    @property
    def q(self) -> float:
        """The dual exponent."""
        return 2.0 if self.p == 2 else torch.inf


class Interval:
    """low <= x <= high, elementwise."""

    def __init__(
        self,
        low: Tensor | None = None,
        high: Tensor | None = None,
        *,
        center: Tensor | None = None,
        radius: Tensor | None = None,
        ball: Ball | None = None,
    ) -> None:
        self._low, self._high, self._center, self._radius, self.ball = low, high, center, radius, ball

    @property
    def low(self) -> Tensor:
        """The lower end."""
        if self._low is None:
            self._low = self.center - self.radius
        return self._low

    @property
    def high(self) -> Tensor:
        """The upper end."""
        if self._high is None:
            self._high = self.center + self.radius
        return self._high

    @property
    def center(self) -> Tensor:
        """The middle."""
        if self._center is None:
            assert self._low is not None
            assert self._high is not None
            self._center = torch.lerp(self._low, self._high, 0.5)  # one pass over memory
        return self._center

    @property
    def radius(self) -> Tensor:
        """Half the width."""
        if self._radius is None:
            assert self._high is not None
            self._radius = self._high - self.center
        return self._radius

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of both ends."""
        return tuple((self._center if self._low is None else self._low).shape)  # type: ignore[union-attr]

    def meet(self, low: Tensor, high: Tensor) -> "Interval":
        """The intersection with [low, high]; ends that cross by rounding are exchanged."""
        lo, hi = torch.maximum(self.low, low), torch.minimum(self.high, high)
        return Interval(torch.minimum(lo, hi), torch.maximum(lo, hi))
