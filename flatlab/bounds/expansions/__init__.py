"""Operators that are made of others, and replaced by them when a module is captured; one family a file."""

from flatlab.bounds.expansions import attention, elementary, normalisation, padding, pooling, recurrent
from flatlab.bounds.expansions.registry import EXPANSIONS, expansion

__all__ = ["EXPANSIONS", "attention", "elementary", "expansion", "normalisation", "padding", "pooling", "recurrent"]
