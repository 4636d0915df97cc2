"""What regularizers of a landscape share: L = CE + lambda penalty, without which L is the cross-entropy."""

from dataclasses import dataclass
from typing import ClassVar

from flatlab import checks
from flatlab.defenses.base import Defense


@dataclass(kw_only=True, eq=False)
class Penalty(Defense):
    """Cross-entropy plus a penalty on how a function of the input changes around each sample.

    Penalties are squares of small differences, or second derivatives: all of them need full precision.

    Args:
        weight: lambda, >= 0.
    """

    weight: float

    neutral: ClassVar = {"weight": 0.0}
    full_precision = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.nonnegative("weight", self.weight)
