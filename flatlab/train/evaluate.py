"""How well a trained network does: loss and accuracy over a whole set or sample by sample, in batches, in eval mode."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks, modes
from flatlab.train.batches import as_float, targets


class Evaluation(NamedTuple):
    """Mean cross-entropy in nats, and the fraction of right predictions in [0, 1]."""

    loss: float
    accuracy: float


def accuracy(model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 1024) -> float:
    """Fraction of inputs that `model` classifies correctly, in eval mode.

    Args:
        model: maps inputs to logits (N, C).
        x: inputs (N, ...) in [0, 1].
        y: labels (N,).
        batch_size: inputs at a time.
    """
    checks.labels(y, len(checks.inputs(x)))
    with modes.evaluating(model), torch.no_grad():
        hits = [
            (modes.call(model, xb).argmax(1) == yb).sum()
            for xb, yb in zip(x.split(batch_size), y.split(batch_size), strict=True)
        ]
    return int(torch.stack(hits).sum()) / len(y)


def distance(model: nn.Module, other: nn.Module) -> float:
    """The Euclidean distance of the weights of two networks of one architecture, wherever they lie."""
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return float(sum(_gap(a, b.to(a.device)).square().sum() for a, b in pairs)) ** 0.5


def _gap(a: Tensor, b: Tensor) -> Tensor:
    return modes.at_least_float32(a.detach()) - modes.at_least_float32(b.detach())


def evaluate_loss(model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 1024) -> Evaluation:
    """Mean cross-entropy and accuracy over all targets, in eval mode.

    Args:
        model: maps x to logits of shape (*y.shape, classes).
        x: (N, ...): images, uint8 or float in [0, 1], or codes of characters.
        y: (N,) labels of images, or (N, T) next characters.
        batch_size: samples at once.

    Raises:
        ValueError: no samples, targets that do not match x, or logits that do not match y.
    """
    checks.at_least("batch_size", batch_size, 1)
    if len(x) == 0:
        raise ValueError("x is empty: there is nothing to evaluate")
    targets(y, len(x))
    losses, hits = [], []
    with modes.evaluating(model), torch.no_grad():
        for xb, yb in zip(x.split(batch_size), y.split(batch_size), strict=True):
            logits = modes.call(model, as_float(xb))
            if logits.shape[:-1] != yb.shape:
                raise ValueError(
                    f"the model must return logits of shape {(*yb.shape, 'classes')}, got {tuple(logits.shape)}"
                )
            losses.append(F.cross_entropy(logits.flatten(0, -2), yb.flatten(), reduction="sum").double())
            hits.append((logits.argmax(-1) == yb).sum())
    return Evaluation(float(torch.stack(losses).sum()) / y.numel(), int(torch.stack(hits).sum()) / y.numel())


def evaluate_samples(model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 1024) -> tuple[Tensor, Tensor]:
    """Cross-entropy and hits of every sample, in eval mode and on the CPU: both (N,) in float64.

    Args:
        model: maps x to logits of shape (*y.shape, classes).
        x: (N, ...): images, uint8 or float in [0, 1], or codes of characters.
        y: (N,) labels of images, or (N, T) next characters, over which a sample's numbers are means.
        batch_size: samples at once.

    Returns:
        Losses in nats, and shares of right predictions, 0 or 1 for images. A network that diverged has NaN for losses,
        and no hits.
    """
    checks.at_least("batch_size", batch_size, 1)
    targets(y, len(x))
    losses, hits = [], []
    with modes.evaluating(model), torch.no_grad():
        for xb, yb in zip(x.split(batch_size), y.split(batch_size), strict=True):
            logits = modes.call(model, as_float(xb)).flatten(0, -2).double()
            each = F.cross_entropy(logits, yb.flatten(), reduction="none")
            right = (logits.argmax(-1) == yb.flatten()) & logits.isfinite().all(-1)
            losses.append(each.view(len(yb), -1).mean(1))
            hits.append(right.double().view(len(yb), -1).mean(1))
    return torch.cat(losses).cpu(), torch.cat(hits).cpu()
