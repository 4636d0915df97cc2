"""Operators that are made of others, and replaced by them when a module is captured; one family a file."""

from flatlab.bounds.expansions import (
    attention,
    distances,
    elementary,
    masks,
    normalisation,
    padding,
    pooling,
    recurrent,
    resampling,
)
from flatlab.bounds.expansions.registry import EXPANSIONS, expansion

__all__ = [
    "EXPANSIONS", "attention", "distances", "elementary", "expansion", "masks", "normalisation", "padding", "pooling",
    "recurrent", "resampling",
]  # fmt: skip
