"""Learning-rate schedules: functions of the fraction of training done, with values in [0, 1] that scale the peak rate.

A schedule has no state, so that training resumed from a checkpoint continues exactly. `Ramp` is one for other numbers
than learning rates, such as radii.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from flatlab import checks

Schedule = Callable[[float], float]


def constant(fraction: float) -> float:
    """The peak rate throughout."""
    return 1.0


def cosine(fraction: float) -> float:
    """From the peak to zero along half a cosine (Loshchilov and Hutter 2017)."""
    return (1 + math.cos(math.pi * fraction)) / 2


def onecycle(fraction: float, *, peak: float = 0.3, start: float = 1 / 25, end: float = 1 / 25e4) -> float:
    """Half a cosine up to the peak at `peak` of training, half a cosine down to almost zero (Smith and Topin 2018)."""
    if fraction < peak:
        return start + (1 - start) * (1 - cosine(fraction / peak))
    return end + (1 - end) * cosine((fraction - peak) / (1 - peak))


def triangle(fraction: float, *, peak: float = 0.4) -> float:
    """Linear from zero to the peak at `peak` of training and back to zero: the "cyclic" schedule of fast training."""
    return fraction / peak if fraction < peak else (1 - fraction) / (1 - peak)


def steps(fraction: float) -> float:
    """The peak rate, a tenth of it from half of training on, a hundredth from three quarters on."""
    return 1.0 if fraction < 0.5 else 0.1 if fraction < 0.75 else 0.01


def late(fraction: float) -> float:
    """The peak rate, a tenth of it from 70 % of training on, a hundredth from 85 % on: for objectives that harden."""
    return 1.0 if fraction < 0.7 else 0.1 if fraction < 0.85 else 0.01


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "cosine": cosine,
    "onecycle": onecycle,
    "triangle": triangle,
    "steps": steps,
    "late": late,
}


def schedule(name: str) -> Schedule:
    """The schedule called `name`: constant, cosine, onecycle, triangle, steps or late."""
    return SCHEDULES[checks.one_of("schedule", name, SCHEDULES)]


@dataclass(frozen=True)
class Ramp:
    """A number that rises from 0 to its full value during training: a power, then a line, joined without a kink.

    Args:
        full: the value at the end of the ramp, > 0.
        start, length: where the ramp begins, and how long it is, as shares of training in [0, 1].
        middle: share of the ramp that is a power; 0 makes all of it a line.
        power: its exponent, > 1.
    """

    full: float = 1.0
    start: float = 0.05
    length: float = 0.6
    middle: float = 0.4
    power: float = 4.0

    def __post_init__(self) -> None:
        checks.positive("full", self.full)
        for name, value in (("start", self.start), ("length", self.length), ("middle", self.middle)):
            if checks.nonnegative(name, value) > 1:
                raise ValueError(f"{name} is a share of training and must lie in [0, 1], got {value:g}")
        if not self.power > 1:
            raise ValueError(f"power must be > 1, got {self.power!r}")

    def __call__(self, fraction: float) -> float:
        """The value after this share of the steps."""
        s = min(1.0, max(0.0, (fraction - self.start) / self.length)) if self.length else float(fraction >= self.start)
        if s == 0 or s == 1 or self.middle == 0:
            return self.full * s
        m, b = self.middle, self.power  # a s^b up to m, then a line of the same slope that ends at the full value
        a = self.full / (m**b + b * m ** (b - 1) * (1 - m))
        return a * s**b if s < m else a * (m**b + b * m ** (b - 1) * (s - m))

    def share(self, fraction: float) -> float:
        """The value after this share of the steps, as a share of the full one, in [0, 1]."""
        return self(fraction) / self.full
