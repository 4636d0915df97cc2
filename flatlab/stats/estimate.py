"""An estimate with its interval, and with the values that it was made from, so that anyone can make it again.

A function marked by `analysis` makes an estimate of units: seeds, starts, methods, images. The mark adds what every
estimate needs and no such function should have to write: the intervals without each of the units, by which a verdict
that hangs on one of them is found, and the source, a plain record of the function's name and arguments. `recompute`
reads a source; `Estimate.at` makes the same estimate at another level.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np

from flatlab.stats.tools import Array, finite, pack, unpack

Function = TypeVar("Function", bound=Callable[..., "Estimate"])
Ends = tuple[float, float, float, float]


@dataclass(frozen=True)
class Estimate:
    """A measured number: its value, its interval, the number of independent units, and where they come from.

    Args:
        value: the point estimate.
        low, high: the interval, or None for both where there is none: one unit, or units that are all equal.
        n: independent units: seeds, starts, kinds of methods, trials; never samples that share a model.
        p: of the test of the claim's own rule, set by `flatlab.stats.judged`: below .05 where the verdict is decided.
        kind: how the interval was made, as a reader should see it: "paired t, 95 %".
        level: at which the interval holds; None where it is exact or missing.
        without: the intervals without one unit, each left out in turn, by four numbers: the least and the largest of
            their low ends, the least and the largest of their high ends. None if one of them has no interval.
        source: name and arguments of the analysis, as JSON can hold them; see `recompute`.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    p: float | None = None
    kind: str = ""
    level: float | None = None
    without: Ends | None = None
    source: Mapping[str, Any] | None = None

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

    def at(self, level: float, *, without: bool = True) -> "Estimate":
        """The same estimate with the interval at another level; its source keeps the level that it was made at.

        Args:
            level: in (0, 1).
            without: whether to make the intervals without each unit, too.
        """
        if self.source is None:
            raise ValueError(f"an estimate without a source cannot be made at level {level:g}: use a function of stats")
        return replace(recompute(self.source, level=level, without=without), source=self.source)


class TooFew(ValueError):
    """Too few units, or too equal ones, for the analysis."""


_ANALYSES: dict[str, Callable[..., Estimate]] = {}


def analysis(*units: str, by: str = "", level: float = 0.95) -> Callable[[Function], Function]:
    """Mark a function that makes an estimate from values of units.

    The function takes `level` by keyword and returns the estimate at that level, without `level`, `without` and
    `source`: these are added.

    Args:
        units: names of its arguments that hold one value (or row) a unit along their first axis.
        by: name of an argument with a label for each value, if units are its distinct labels where it is given.
        level: at which the interval is made unless the caller names another.
    """

    def mark(function: Function) -> Function:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def marked(*args: Any, without: bool = True, **kwargs: Any) -> Estimate:
            bound = signature.bind(*args, **kwargs)
            given = {"level": level, **bound.arguments}
            packed = {name: pack(np.asarray(given[name])) for name in units if given.get(name) is not None}
            arrays = {name: unpack(text) for name, text in packed.items()}  # what is recorded is what is judged
            whole = replace(function(**given | arrays), level=given["level"])
            if without and arrays and whole.low is not None:
                whole = replace(whole, without=_left_out(function, given, arrays, by))
            plain = {name: np.asarray(v).tolist() for name, v in given.items() if v is not None and name not in arrays}
            return replace(whole, source={"by": function.__name__, **plain, **packed})

        _ANALYSES[function.__name__] = marked
        return cast(Function, marked)

    return mark


def recompute(source: Mapping[str, Any], *, level: float | None = None, without: bool = True) -> Estimate:
    """The estimate that a source describes, made again from the values in it.

    Args:
        source: of an estimate; from a record it may come as JSON gives it back.
        level: of the interval; None takes the source's own.
        without: whether to make the intervals without each unit, too.

    Raises:
        ValueError: the source names no analysis of `flatlab.stats`.
    """
    given = dict(source)
    name = given.pop("by", None)
    if name not in _ANALYSES:
        raise ValueError(f"unknown analysis {name!r}: a source names one of {', '.join(sorted(_ANALYSES))}")
    if level is not None:
        given["level"] = level
    return _ANALYSES[name](**{key: unpack(value) for key, value in given.items()}, without=without)


def analysis_of_parts(function: Function) -> Function:
    """Mark a function of other estimates (`parts`, `level`), whose source holds theirs."""

    @functools.wraps(function)
    def marked(parts: Sequence[Any], *, level: float | None = None, without: bool = True) -> Estimate:
        estimates = [part if isinstance(part, Estimate) else recompute(part, without=False) for part in parts]
        made = function(estimates, level=level, without=without)
        sources = [e.source for e in estimates]
        return replace(made, source={"by": function.__name__, "level": made.level, "parts": sources})

    _ANALYSES[function.__name__] = marked
    return cast(Function, marked)


def left_out(intervals: Sequence[Estimate]) -> Ends | None:
    """`Estimate.without` from the estimates without one unit, each left out in turn; None if one has no interval."""
    lows = [e.low for e in intervals if e.low is not None]
    highs = [e.high for e in intervals if e.high is not None]
    return (min(lows), max(lows), min(highs), max(highs)) if len(lows) == len(intervals) > 0 else None


def _left_out(
    function: Callable[..., Estimate], given: dict[str, Any], arrays: dict[str, Array], by: str
) -> Ends | None:
    labels = arrays.get(by)
    size = len(next(iter(arrays.values())))
    if labels is None:  # equal rows leave equal rests, so that one of them is enough
        rows = np.column_stack([np.asarray(array, dtype=float).reshape(size, -1) for array in arrays.values()])
        first = np.unique(rows, axis=0, return_index=True)[1]
        rests = [np.delete(np.arange(size), i) for i in sorted(first)]
    else:
        rests = [np.flatnonzero(labels != label) for label in np.unique(labels)]
    if any(rest.size == 0 for rest in rests):
        return None
    try:
        made = [function(**given | {name: array[rest] for name, array in arrays.items()}) for rest in rests]
    except TooFew:
        return None
    return left_out(made)
