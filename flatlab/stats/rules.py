"""Estimates with intervals, and rules that turn them into words.

supported       the interval lies where the rule wants it
contradicted    the interval lies where the rule forbids it
inconclusive    the interval covers the threshold, or there is none (one seed)
not run         there is no estimate
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from flatlab.stats.tools import finite

Verdict = Literal["supported", "contradicted", "inconclusive", "not run"]
VERDICTS: tuple[Verdict, ...] = ("supported", "contradicted", "inconclusive", "not run")

LAST_DIGITS = 0.2
"""By how much of its interval's width an estimate may move from one processor to another.

Measured: the quick notebooks computed with AVX2, without vector units, with SSE4.1 convolutions and on two threads,
against AVX-512 on one thread: 57 estimates each. Training amplifies the last digits. With AVX2 and without vector units
half of the estimates moved by less than 3e-6 of the width, one in ten by more than 0.07, the most by 0.17; on two
threads the most by 0.05. With three seeds the ends of an interval may move by more, as its width does: leaving out a
unit shows that.
"""


@dataclass(frozen=True)
class Estimate:
    """A measured number: its value, its interval, the number of independent repetitions, and where they come from.

    Args:
        value: the point estimate.
        low, high: the interval, or None for both where there is none (one repetition).
        n: independent repetitions: seeds, methods or trials, never samples that share a model.
        p: p-value of the test that belongs to the interval, adjusted within its family where there is one.
        kind: how the interval was made, as a reader should see it: "paired t, 95 %".
        without: the intervals without one unit, each left out in turn, by four numbers: the least and the largest of
            their low ends, the least and the largest of their high ends. None if that was not asked or leaves too few.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    p: float | None = None
    kind: str = ""
    without: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("value", "low", "high", "p"):
            number = getattr(self, name)
            if number is not None:
                object.__setattr__(self, name, finite(name, number))
        if (self.low is None) != (self.high is None):
            raise ValueError(f"an interval needs both ends or none, got low={self.low}, high={self.high}")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low must not exceed high, got [{self.low:g}, {self.high:g}]")
        if isinstance(self.n, bool) or int(self.n) != self.n or self.n < 1:
            raise ValueError(f"n must be an integer >= 1, got {self.n!r}")
        if self.p is not None and not 0 <= self.p <= 1:
            raise ValueError(f"p must lie in [0, 1], got {self.p:g}")
        object.__setattr__(self, "n", int(self.n))
        if self.without is not None:
            ends = tuple(finite("without", end) for end in self.without)
            if len(ends) != 4 or ends[0] > ends[1] or ends[2] > ends[3]:
                raise ValueError(f"without must be least and largest low, least and largest high end, got {ends}")
            object.__setattr__(self, "without", ends)


@dataclass(frozen=True)
class Rule:
    """Where an interval must lie for a claim to hold; made by `greater`, `less` or `within`, readable by `str`."""

    kind: Literal["greater", "less", "within"]
    bounds: tuple[float, ...]

    def __post_init__(self) -> None:
        wanted = {"greater": 1, "less": 1, "within": 2}.get(self.kind)
        if wanted is None or len(self.bounds) != wanted:
            raise ValueError(
                f"no rule {self.kind!r} with bounds {self.bounds}: use greater(t), less(t), within(lo, hi)"
            )
        object.__setattr__(self, "bounds", tuple(finite("bound", bound) for bound in self.bounds))
        if self.kind == "within" and self.bounds[0] > self.bounds[1]:
            raise ValueError(f"within needs lo <= hi, got {self.bounds}")

    def __str__(self) -> str:
        numbers = [_plain(bound) for bound in self.bounds]
        if self.kind == "within":
            return f"within [{numbers[0]}, {numbers[1]}]"
        return f"low > {numbers[0]}" if self.kind == "greater" else f"high < {numbers[0]}"

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """The rule whose `str` is `text`; ValueError for anything else."""
        number = r"(-?[\d.]+(?:e[+-]?\d+)?)"
        if match := re.fullmatch(f"low > {number}", text):
            return greater(float(match[1]))
        if match := re.fullmatch(f"high < {number}", text):
            return less(float(match[1]))
        if match := re.fullmatch(rf"within \[{number}, {number}\]", text):
            return within(float(match[1]), float(match[2]))
        raise ValueError(f"cannot read the rule {text!r}: expected one like 'low > 0' or 'within [-3, 3]'")


def greater(threshold: float) -> Rule:
    """The quantity exceeds `threshold`: supported if low > threshold, contradicted if high <= threshold."""
    return Rule("greater", (threshold,))


def less(threshold: float) -> Rule:
    """The quantity stays below `threshold`: supported if high < threshold, contradicted if low >= threshold."""
    return Rule("less", (threshold,))


def within(lo: float, hi: float) -> Rule:
    """The quantity lies in [lo, hi]: supported if the interval does, contradicted if the two do not meet."""
    return Rule("within", (lo, hi))


def verdict(estimate: Estimate | None, rule: Rule) -> Verdict:
    """What `rule` says about `estimate`. None means that nothing was measured."""
    if estimate is None:
        return "not run"
    low, high = estimate.low, estimate.high
    if low is None or high is None:
        return "inconclusive"
    if rule.kind == "greater":
        holds, fails = low > rule.bounds[0], high <= rule.bounds[0]
    elif rule.kind == "less":
        holds, fails = high < rule.bounds[0], low >= rule.bounds[0]
    else:
        lo, hi = rule.bounds
        holds, fails = lo <= low and high <= hi, high < lo or low > hi
    return "supported" if holds else "contradicted" if fails else "inconclusive"


def fragile(estimate: Estimate | None, rule: Rule) -> bool:
    """Whether the verdict hangs by a hair.

    It does if it would be another one without one of the units, or with the interval moved either way by `LAST_DIGITS`
    of its width, as another processor's rounding may move it. An interval of two units hangs on both of them.
    """
    if estimate is None or estimate.low is None or estimate.high is None or estimate.kind == "exact":
        return False
    own, shift = verdict(estimate, rule), LAST_DIGITS * (estimate.high - estimate.low)
    if estimate.without is None and estimate.n == 2 and own != "inconclusive":
        return True
    others = [(estimate.low + d, estimate.high + d) for d in (-shift, shift)]
    lows, highs = (estimate.without[:2], estimate.without[2:]) if estimate.without else ((), ())
    others += [(low, high) for low in lows for high in highs if low <= high]
    return any(verdict(replace(estimate, low=low, high=high), rule) != own for low, high in others)


def left_out(intervals: Sequence[Estimate]) -> tuple[float, float, float, float] | None:
    """`Estimate.without` from the estimates without one unit, each left out in turn; None if one has no interval."""
    lows = [e.low for e in intervals if e.low is not None]
    highs = [e.high for e in intervals if e.high is not None]
    return (min(lows), max(lows), min(highs), max(highs)) if len(lows) == len(intervals) > 0 else None


def exact(value: float, *, n: int = 1) -> Estimate:
    """A number without sampling error (an identity, a count of violations in `n` trials): the interval is the point."""
    return Estimate(value, value, value, n, kind="exact")


def smallest(estimates: Sequence[Estimate]) -> Estimate:
    """The smallest of several quantities, for claims that all exceed a threshold ("A > B > C").

    `low` is the smallest low end, `high` the smallest high end. Pass a family with simultaneous intervals: then this
    interval covers the smallest quantity at the family's level. n is the smallest n, p the largest p.
    """
    if not estimates:
        raise ValueError("no estimates to take the smallest of")
    lows, highs = [e.low for e in estimates], [e.high for e in estimates]
    known = None not in lows
    ps = [e.p for e in estimates if e.p is not None]
    ends = [e.without for e in estimates if e.without is not None]
    least = [min(column) for column in zip(*ends, strict=True)]
    return Estimate(
        min(e.value for e in estimates),
        min(low for low in lows if low is not None) if known else None,
        min(high for high in highs if high is not None) if known else None,
        min(e.n for e in estimates),
        max(ps) if len(ps) == len(estimates) else None,
        f"smallest of {len(estimates)}, {estimates[0].kind}",
        (least[0], least[1], least[2], least[3]) if len(ends) == len(estimates) else None,
    )


def largest(estimates: Sequence[Estimate]) -> Estimate:
    """The largest of several quantities, for claims that all stay below a threshold; see `smallest`."""
    result = smallest([_negative(estimate) for estimate in estimates])
    return replace(_negative(result), kind=result.kind.replace("smallest", "largest", 1))


def _negative(e: Estimate) -> Estimate:
    ends = None if e.without is None else (-e.without[3], -e.without[2], -e.without[1], -e.without[0])
    low, high = (None if end is None else -end for end in (e.high, e.low))
    return Estimate(-e.value, low, high, e.n, e.p, e.kind, ends)


def _plain(number: float) -> str:
    short = f"{number:g}"
    return short if float(short) == number else repr(number)
