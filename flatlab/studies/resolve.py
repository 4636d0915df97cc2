"""From the name of a study and of a preset, with overrides, to the settings."""

import dataclasses
import importlib
import types
import typing
from typing import Any

from flatlab.names import PRESETS, nearest, one_of

STUDIES = ("likelihood_landscapes", "reward_variance", "certified_bounds", "critical_momenta")


def available() -> tuple[str, ...]:
    """Names of the studies."""
    return STUDIES


def resolve(study: str, preset: str, **overrides: Any) -> Any:
    """The settings of `study` called `preset`, with those overrides that are not None put in.

    Args:
        study: one of `available()`; a notebook's name without its number.
        preset: quick, cpu, gpu or full.
        overrides: fields of the study's settings; None keeps the preset's value. A number stands for a number of
            seeds where the field is a tuple of seeds: seeds=3 means (0, 1, 2).

    Raises:
        ValueError: unknown study, preset or field (the nearest valid name is given).
        TypeError: a value of another type than the field's.
    """
    module = importlib.import_module(f"flatlab.studies.{one_of('study', study, STUDIES)}.settings")
    settings = getattr(module, one_of("preset", preset, PRESETS).upper())
    hints = typing.get_type_hints(type(settings))
    changes = {}
    for name, value in overrides.items():
        if name not in hints:
            raise ValueError(f"{study} has no setting {name!r}{nearest(name, hints)}; it has {', '.join(hints)}")
        if value is not None:
            changes[name] = _fit(name, value, hints[name])
    return dataclasses.replace(settings, **changes)


def _fit(name: str, value: Any, hint: Any) -> Any:
    """`value` as a value of type `hint`, without guessing beyond int -> float, list -> tuple and seeds=3."""
    if typing.get_origin(hint) is tuple:
        if name == "seeds" and isinstance(value, int) and not isinstance(value, bool):
            if value < 1:
                raise ValueError(f"seeds must be an integer >= 1, got {value}")
            return tuple(range(value))
        if isinstance(value, list | tuple):
            return tuple(_fit(name, item, typing.get_args(hint)[0]) for item in value)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = typing.get_args(hint)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    kinds = hint if isinstance(hint, tuple) else (typing.get_origin(hint) or hint,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
        raise TypeError(f"setting {name!r} must be {wanted}, got {value!r} of type {type(value).__name__}")
    return value
