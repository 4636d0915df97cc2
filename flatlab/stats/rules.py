"""Rules that turn an interval into words.

supported       the interval lies where the rule wants it
contradicted    the interval lies where the rule forbids it
inconclusive    the interval covers the threshold, or there is none
not run         there is no estimate
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

from flatlab.stats.estimate import Estimate
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
class Rule:
    """Where an interval must lie for a claim to hold: `greater`, `less`, `within` or `never`; readable by `str`."""

    kind: Literal["greater", "less", "within", "never"]
    bounds: tuple[float, ...]

    def __post_init__(self) -> None:
        wanted = {"greater": 1, "less": 1, "within": 2, "never": 1}.get(self.kind)
        if wanted is None or len(self.bounds) != wanted:
            raise ValueError(
                f"no rule {self.kind!r} with bounds {self.bounds}: use greater(t), less(t), within(lo, hi), never(t)"
            )
        object.__setattr__(self, "bounds", tuple(finite("bound", bound) for bound in self.bounds))
        if self.kind == "within" and self.bounds[0] > self.bounds[1]:
            raise ValueError(f"within needs lo <= hi, got {self.bounds}")

    def __str__(self) -> str:
        numbers = [_plain(bound) for bound in self.bounds]
        if self.kind == "within":
            return f"within [{numbers[0]}, {numbers[1]}]"
        if self.kind == "never":
            return f"none, high < {numbers[0]}"
        return f"low > {numbers[0]}" if self.kind == "greater" else f"high < {numbers[0]}"

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """The rule whose `str` is `text`; ValueError for anything else."""
        number = r"(-?[\d.]+(?:e[+-]?\d+)?)"
        if match := re.fullmatch(f"low > {number}", text):
            return greater(float(match[1]))
        if match := re.fullmatch(f"none, high < {number}", text):
            return never(float(match[1]))
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


def never(limit: float) -> Rule:
    """No trial fails, of so many that a share of `limit` would show: supported if none did and high < limit,
    contradicted if any did."""
    return Rule("never", (limit,))


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
    elif rule.kind == "never":
        holds, fails = estimate.value == 0 and high < rule.bounds[0], estimate.value > 0
    else:
        lo, hi = rule.bounds
        holds, fails = lo <= low and high <= hi, high < lo or low > hi
    return "supported" if holds else "contradicted" if fails else "inconclusive"


def fragile(estimate: Estimate | None, rule: Rule) -> bool:
    """Whether the verdict hangs by a hair.

    It does if it would be another one without one of the units, or with the interval moved either way by `LAST_DIGITS`
    of its width, as another processor's rounding may move it. A decided verdict hangs on a unit without which there is
    no interval, too. What must never happen hangs by a hair while it is refuted by one trial, or undecided: the next
    trial, or a network trained by other rounding, may be the one that fails.
    """
    if estimate is None or estimate.low is None or estimate.high is None or estimate.kind == "exact":
        return False
    if rule.kind == "never":
        return verdict(estimate, rule) == "inconclusive" or round(estimate.value * estimate.n) == 1
    own, shift = verdict(estimate, rule), LAST_DIGITS * (estimate.high - estimate.low)
    if estimate.source is not None and estimate.without is None and own != "inconclusive":
        return True
    ends = (estimate.low, estimate.high)  # one on a threshold was put there by a test, which rounding does not move
    others = [tuple(end if end in rule.bounds else end + d for end in ends) for d in (-shift, shift)]
    lows, highs = (estimate.without[:2], estimate.without[2:]) if estimate.without else ((), ())
    others += [(low, high) for low in lows for high in highs if low <= high]
    moved = [replace(estimate, low=min(pair), high=max(pair)) for pair in others]
    return any(verdict(other, rule) != own for other in moved)


def p_value(estimate: Estimate, rule: Rule) -> float | None:
    """The p of the rule's own test: how small a level still decides the rule, two-sided.

    By inversion of the interval, so that it is below .05 exactly where the verdict is decided, at any threshold; for
    two one-sided tests it is the larger of their two. None where there is no interval, no sampling error, or a count.
    """
    if estimate.low is None or estimate.level is None or estimate.kind == "exact" or rule.kind == "never":
        return None

    def decided(alpha: float) -> bool:
        return verdict(estimate.at(1 - alpha, without=False), rule) in ("supported", "contradicted")

    own = 1 - estimate.level
    low, high = (1e-6, own) if decided(own) else (own, 1 - 1e-6)
    if high > own and not decided(high):
        return 1.0
    for _ in range(14):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if decided(middle) else (middle, high)
    return min(1.0, high * 0.05 / own)


def detectable(estimate: Estimate | None, rule: Rule) -> float | None:
    """The smallest distance from the threshold that this n would decide in four of five runs; None where it does not
    matter: the verdict is decided, or there is no interval.

    From half the interval, which is a normal quantile of standard errors: 1.96 + 0.84 of them are needed.
    """
    if estimate is None or estimate.low is None or estimate.high is None or rule.kind == "never":
        return None
    if verdict(estimate, rule) != "inconclusive":
        return None
    return (1 + 0.8416 / 1.96) * (estimate.high - estimate.low) / 2


def _plain(number: float) -> str:
    short = f"{number:g}"
    return short if float(short) == number else repr(number)
