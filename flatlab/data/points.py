"""Points: samples without labels."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Points:
    """Samples x (N, ...) of a floating dtype, N >= 1, in any unit; `flatlab.train.fit` takes them as they are.

    Its objective then gets None for y. Labels are refused: what has them is an `ImageSet`, or a type of its own.
    """

    x: Tensor
    y: None = None

    def __post_init__(self) -> None:
        if not self.x.is_floating_point():
            raise TypeError(f"x must be floating point, got {self.x.dtype}; convert with x.float()")
        if self.x.ndim < 2 or 0 in self.x.shape:
            raise ValueError(f"x must be a non-empty batch (N, ...), got shape {tuple(self.x.shape)}")
        if self.y is not None:
            raise TypeError(f"Points have no labels, got y of type {type(self.y).__name__}; leave y out")

    def __len__(self) -> int:
        return len(self.x)
