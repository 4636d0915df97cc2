"""Label smoothing (Szegedy et al. 2016): L = CE against (1 - s) e_y + s / C.

It bounds the logits and so shrinks every gradient, which looks like robustness to attacks that follow the
cross-entropy; attacks on the margin see more.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.defenses.base import Defense


@dataclass(kw_only=True, eq=False)
class LabelSmoothing(Defense):
    """Cross-entropy against softened labels. Ignores `eps`.

    Args:
        smoothing: probability mass s in [0, 1) that is spread evenly over all classes.
    """

    smoothing: float = 0.3

    name = "label_smoothing"
    neutral: ClassVar = {"smoothing": 0.0}

    def __post_init__(self) -> None:
        super().__post_init__()
        if checks.nonnegative("smoothing", self.smoothing) >= 1:
            raise ValueError(f"smoothing must lie in [0, 1), got {self.smoothing!r}: at 1 the labels are gone")

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        return F.cross_entropy(model(x), y, label_smoothing=self.smoothing)
