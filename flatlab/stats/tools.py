"""Checks of arguments, values as text, and the elementary intervals that the statistics share."""

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def finite(name: str, value: float) -> float:
    """Return `value` as a float, or raise ValueError for NaN and infinity."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}; an estimate that could not be made is None")
    return number


def vector(name: str, values: ArrayLike, *, worst: float | None = None, axes: int = 1) -> NDArray[np.float64]:
    """Return `values` as a finite, non-empty float array, or raise ValueError.

    Args:
        name: of the argument, for the message.
        values: (n,), or of so many axes.
        worst: what stands in for NaN and infinity; None makes them an error.
        axes: how many.
    """
    array = np.array(values, dtype=float)
    if array.ndim != axes or array.size == 0:
        shape = "(n,)" if axes == 1 else "(seeds, samples)"
        raise ValueError(f"{name} must be a non-empty array {shape} of numbers, got shape {array.shape}")
    if worst is not None:
        array[~np.isfinite(array)] = finite("worst", worst)
    if not np.isfinite(array).all():
        place = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(
            f"{name} holds NaN or infinity at index {place[0] if axes == 1 else place}; "
            "worst= says what a run that diverged counts as"
        )
    return array


def confidence(level: float) -> float:
    """Return a confidence level, or raise ValueError unless it lies in (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level!r}; write 95 % as 0.95")
    return level


def percent(level: float) -> str:
    """A confidence level as a reader sees it: "95 %", "98.33 %"."""
    return f"{100 * confidence(level):.4g} %"


def pack(values: Array) -> str:
    """An array of one or two axes as text: "0.5 0.25", rows after semicolons; truth values as "8 bits: 0f a3".

    Numbers are written with eight significant digits, as many as single precision has.
    """
    rows = values if values.ndim == 2 else values[None]
    if values.dtype == bool:
        head = f"{rows.shape[1]} bits" + ("" if values.ndim == 2 else " in one row")
        return f"{head}: " + " ".join(np.packbits(row).tobytes().hex() for row in rows)
    if values.dtype.kind in "US":
        if any(len(word.split()) != 1 for word in values.tolist()):
            raise ValueError(f"labels must be single words, got {values.tolist()}")
        return "words: " + " ".join(values.tolist())
    text = "; ".join(" ".join(f"{number:.8g}" for number in row.tolist()) for row in rows)
    return text if values.ndim == 1 else f"{text};"


def unpack(value: Any) -> Any:
    """The array in a text of `pack`; anything but such a text comes back as it is."""
    if not isinstance(value, str):
        return value
    head, colon, body = value.partition(": ")
    if head == "words":
        return np.array(body.split())
    if colon:
        size = int(head.split()[0])
        rows = [np.unpackbits(np.frombuffer(bytes.fromhex(row), np.uint8), count=size) for row in body.split()]
        bits = np.array(rows, dtype=bool)
        return bits[0] if head.endswith("in one row") else bits
    table = [[float(number) for number in row.split()] for row in value.split(";") if row.strip()]
    return np.array(table if value.endswith(";") else table[0] if table else [])


def t_interval(values: Array, level: float) -> tuple[float, float]:
    """Student's interval of the mean of at least two values; no width where they are all equal."""
    half = t_quantile(level, values.size - 1) * float(values.std(ddof=1)) / math.sqrt(values.size)
    return float(values.mean() - half), float(values.mean() + half)


@functools.lru_cache(maxsize=4096)
def t_quantile(level: float, freedom: float) -> float:
    """By how many standard errors a two-sided interval at `level` reaches to either side."""
    from scipy.stats import t

    return float(t.ppf((1 + confidence(level)) / 2, freedom))
