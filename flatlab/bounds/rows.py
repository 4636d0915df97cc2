"""Rows of linear functions of a node's value, which are what is bounded; written out only where a pass needs them.

Rows of a linear layer's output are rows of its weight; differences of logits are differences of its rows. Forming them
directly spares a product with an identity matrix.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab import checks


class Rows:
    """S functions of the N numbers of a sample."""

    def __len__(self) -> int:
        raise NotImplementedError

    def part(self, start: int, stop: int) -> "Rows":
        """Rows start to stop."""
        raise NotImplementedError

    def dense(self, batch: int, like: Tensor) -> Tensor:
        """All coefficients written out, (S, B, N), in the dtype and on the device of `like`."""
        raise NotImplementedError

    def through(self, weight: Tensor, bias: Tensor | None, batch: int) -> tuple[Tensor, Tensor]:
        """Coefficients of the input (S, B, M), and constants (S, B), of the rows of weight @ x + bias."""
        rows = self.dense(batch, weight)
        constant = rows @ bias if bias is not None else rows.new_zeros(rows.shape[:2])
        return rows @ weight, constant


@dataclass(frozen=True, eq=False)
class Dense(Rows):
    """Any rows (S, B, N)."""

    rows: Tensor

    def __len__(self) -> int:
        return self.rows.shape[0]

    def part(self, start: int, stop: int) -> "Dense":
        return Dense(self.rows[start:stop])

    def dense(self, batch: int, like: Tensor) -> Tensor:
        return self.rows


@dataclass(frozen=True, eq=False)
class Identity(Rows):
    """Some of the numbers themselves."""

    index: Tensor
    size: int

    def __len__(self) -> int:
        return len(self.index)

    def part(self, start: int, stop: int) -> "Identity":
        return Identity(self.index[start:stop], self.size)

    def dense(self, batch: int, like: Tensor) -> Tensor:
        rows = torch.zeros(len(self.index), self.size, dtype=like.dtype, device=like.device)
        rows.scatter_(1, self.index[:, None], 1.0)
        return rows[:, None].expand(-1, batch, -1)

    def through(self, weight: Tensor, bias: Tensor | None, batch: int) -> tuple[Tensor, Tensor]:
        rows = _rows(weight, self.index)[:, None].expand(-1, batch, -1)
        constant = rows.new_zeros(len(self)) if bias is None else _rows(bias, self.index)
        return rows, constant[:, None].expand(-1, batch)


class Margins(Rows):
    """z_y - z_k for each other class k: positive for all k where the prediction is y.

    Args:
        y: labels (B,).
        classes: their number K.
        every: all K rows, that of k = y being 0, instead of K - 1.
    """

    def __init__(self, y: Tensor, classes: int, *, every: bool = False) -> None:
        checks.labels(y, len(y), classes)
        self.y, self.classes = y, classes
        others = torch.arange(classes, device=y.device).expand(len(y), -1)
        self.others = others if every else others[others != y[:, None]].reshape(len(y), classes - 1)

    def __len__(self) -> int:
        return self.others.shape[1]

    def check(self, batch: int, classes: int) -> "Margins":
        """Raise ValueError unless there is a label for each sample, and as many classes as logits."""
        if len(self.y) != batch or self.classes != classes:
            raise ValueError(
                f"margins of {len(self.y)} labels and {self.classes} classes do not fit an output ({batch}, {classes})"
            )
        return self

    def part(self, start: int, stop: int) -> "Margins":
        piece = object.__new__(Margins)
        piece.y, piece.classes, piece.others = self.y, self.classes, self.others[:, start:stop]
        return piece

    def dense(self, batch: int, like: Tensor) -> Tensor:
        one = torch.eye(self.classes, dtype=like.dtype, device=like.device)
        return one[self.y][None] - one[self.others.T]

    def through(self, weight: Tensor, bias: Tensor | None, batch: int) -> tuple[Tensor, Tensor]:
        own, others = _rows(weight, self.y)[:, None], _rows(weight, self.others)
        rows = (own - others).transpose(0, 1)  # samples first in memory: quicker sums
        if bias is None:
            return rows, rows.new_zeros(rows.shape[:2])
        return rows, _rows(bias, self.y)[None] - _rows(bias, self.others.T)


def _rows(t: Tensor, index: Tensor) -> Tensor:
    """t[index]. The gradient of indexing adds up in whatever order several threads arrive; this one's does not."""
    return F.embedding(index, t) if t.ndim == 2 else F.embedding(index, t[:, None])[..., 0]
