"""Choosing by name: errors that list what is valid and guess what was meant. Imports nothing heavy."""

import difflib
from collections.abc import Iterable

PRESETS = ("quick", "cpu", "real", "gpu", "full")
"""In the order of tables; a study may lack some of them."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """The words "; did you mean 'x'?" for the closest valid name, or nothing."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def no_preset(owner: str, preset: str, presets: Iterable[str]) -> str:
    """The sentence which says that `owner`, a study or a notebook, lacks that preset, and which ones it has."""
    return f"{owner} has no preset {preset!r}; it has {', '.join(presets)}"


def one_of(name: str, value: str, valid: Iterable[str]) -> str:
    """Return `value`, or raise ValueError listing the valid names and the nearest one."""
    choices = list(valid)
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(choices)}{nearest(str(value), choices)}")
    return value
