"""Continual learning: every sample is predicted first, then learned from, and never seen again."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.models.stacked import Stacked
from flatlab.train.stepper import OptimizerFactory, Stepper


def fit_continual(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    optimizer: OptimizerFactory,
    *,
    lr: float,
    options: Mapping[str, Any] | None = None,
    batch_size: int = 10,
) -> Tensor:
    """Train `model` in place on a sequence of samples for each network, at a constant rate, one step a batch.

    Args:
        model: one network, or `stack_models` of S.
        x: (S, T, ...) float in [0, 1].
        y: (S, T) int64.
        optimizer, lr, options: as in `Recipe`.
        batch_size: samples of each network per step.

    Returns:
        (S, T) bool: whether each sample was predicted rightly before it was learned from.

    Raises:
        TrainingDiverged: the loss is not finite, of all networks.
        ValueError: not one sequence for each network, or labels that do not match.
    """
    count = model.count if isinstance(model, Stacked) else 1
    if x.ndim < 3 or len(x) != count or y.shape != x.shape[:2]:
        raise ValueError(
            f"x must have shape ({count}, T, ...) and y ({count}, T), one sequence per network, got {tuple(x.shape)} "
            f"and {tuple(y.shape)}"
        )
    size = checks.at_least("batch_size", batch_size, 1)
    stepper = Stepper(model.parameters(), optimizer, lr=lr, options=options, networks=count if count > 1 else None)
    hits = []
    model.train()
    for xb, yb in zip(x.split(size, dim=1), y.split(size, dim=1), strict=True):
        passes: list[Tensor] = []  # an optimizer may take two; the first is at the weights before the step
        stepper.step(partial(_loss, model, xb.flatten(0, 1), yb.flatten(), passes))
        hits.append(passes[0].view(count, -1))
    model.eval()
    return torch.cat(hits, dim=1)


def _loss(model: nn.Module, x: Tensor, y: Tensor, hits: list[Tensor]) -> Tensor:
    """The mean cross-entropy; appends which samples were predicted rightly."""
    logits = model(x)
    hits.append(logits.detach().argmax(1) == y)
    return F.cross_entropy(logits, y)
