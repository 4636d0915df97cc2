"""From the name of a study and of a preset, with overrides, to the settings."""

import dataclasses
import importlib
import types
import typing
from typing import Any

from flatlab.names import PRESETS, nearest, no_preset, one_of

STUDIES = (
    "likelihood_landscapes",
    "reward_variance",
    "compositional_ebm",
    "certified_bounds",
    "critical_momenta",
    "domain_generalization",
    "two_time_scale_gan",
)


def available() -> tuple[str, ...]:
    """Names of the studies."""
    return STUDIES


def presets(study: str) -> tuple[str, ...]:
    """Names of the presets that `study` has settings for, in their order."""
    settings = _settings(study)
    return tuple(preset for preset in PRESETS if hasattr(settings, preset.upper()))


def resolve(study: str, preset: str, **overrides: Any) -> Any:
    """The settings of `study` called `preset`, with those overrides that are not None put in.

    Args:
        study: one of `available()`; a notebook's name without its number.
        preset: quick, cpu, real, gpu or full; one that the study has.
        overrides: fields of the study's settings; None keeps the preset's value. A number stands for a number of
            seeds where the field is a tuple of seeds: seeds=3 means (0, 1, 2).

    Raises:
        ValueError: unknown study, preset or field (the nearest valid name is given), or a preset that this study lacks
            (those that it has are given).
        TypeError: a value of another type than the field's.
    """
    module = _settings(study)
    if one_of("preset", preset, PRESETS) not in presets(study):
        raise ValueError(no_preset(study, preset, presets(study)))
    settings = getattr(module, preset.upper())
    hints = typing.get_type_hints(type(settings))
    changes = {}
    for name, value in overrides.items():
        if name not in hints:
            raise ValueError(f"{study} has no setting {name!r}{nearest(name, hints)}; it has {', '.join(hints)}")
        if value is not None:
            changes[name] = _fit(name, value, hints[name])
    return dataclasses.replace(settings, **changes)


def _settings(study: str) -> types.ModuleType:
    return importlib.import_module(f"flatlab.studies.{one_of('study', study, STUDIES)}.settings")


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
