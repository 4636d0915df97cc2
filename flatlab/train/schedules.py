"""Learning-rate schedules: functions of the fraction of training done, with values in [0, 1] that scale the peak rate.

A schedule has no state, so that training resumed from a checkpoint continues exactly.
"""

import math
from collections.abc import Callable

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
