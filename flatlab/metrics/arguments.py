"""What the metrics take: arrays of numpy or tensors, computed with in double precision."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatlab import checks

Numbers = Tensor | NDArray | Sequence | float


def numbers(name: str, values: Numbers) -> Tensor:
    """Finite real numbers as float64, on the device of `values`, without their graph.

    Raises:
        TypeError: not an array or a tensor of real numbers.
        ValueError: NaN or infinity.
    """
    try:
        # numpy makes a copy in plain order: torch takes neither reversed strides nor foreign byte orders.
        tensor = values if isinstance(values, Tensor) else torch.from_numpy(_plain(values))
        if tensor.is_complex():
            raise TypeError("complex numbers")
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array or a tensor of real numbers, got {type(values).__name__}") from error
    tensor = tensor.detach().double()
    if not tensor.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity: leave out what has no features")
    return tensor


def features(name: str, rows: Numbers, *, least: int = 2) -> Tensor:
    """Features (N, D) as float64, with D >= 1 and N >= `least`; errors as of `numbers`, and for other shapes."""
    found = numbers(name, rows)
    if found.ndim != 2 or not found.shape[1]:
        raise ValueError(f"{name} must be features (N, D) with D >= 1, got shape {tuple(found.shape)}")
    checks.at_least(f"the number of rows of {name}", len(found), least)
    return found


def same_columns(**samples: Tensor) -> None:
    """Raise ValueError unless all samples have as many features as the first."""
    (first, rows), *others = samples.items()
    for name, other in others:
        if other.shape[-1] != rows.shape[-1]:
            counts = f"{rows.shape[-1]} and {other.shape[-1]} columns"
            raise ValueError(f"{first} and {name} must have the same features, got {counts}")


def _plain(values: object) -> NDArray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"numbers of type {array.dtype}")
    return np.array(array, dtype=np.float64, order="C")
