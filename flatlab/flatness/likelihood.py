"""The energy reading of a classifier (Grathwohl et al. 2020, "Your classifier is secretly an energy based model").

    logits f(x)        p(x, y) = exp f_y(x) / Z        p(x) = sum_y exp f_y(x) / Z        Z unknown

    log p(x) + log Z = LSE f(x)      E(x) = -LSE f(x)      E(x, y) = -f_y(x)
    Delta(x; x0) = log p(x) - log p(x0) = LSE f(x) - LSE f(x0)          (Z cancels)

Lin et al. 2020, "Likelihood Landscapes", look at log p around the data. The classifier fixes its logits only up to a
constant per input, which its predictions never see but log p does: these numbers compare points under one model.
"""

import torch
from torch import Tensor, nn

from flatlab import checks, modes

FIELDS = ("lse", "joint", "ce", "margin")
"""Scalar fields of logits: log p(x); log p(x, y) = f_y; cross-entropy; f_y minus the largest other logit."""

_NEED_LABELS = FIELDS[1:]


def log_density(logits: Tensor) -> Tensor:
    """log p(x) + log Z = logsumexp of the logits: (N, C) -> (N,)."""
    return _two_dimensional(logits).logsumexp(1)


def energy(logits: Tensor) -> Tensor:
    """E(x) = -logsumexp of the logits: (N, C) -> (N,)."""
    return -log_density(logits)


def joint_energy(logits: Tensor, y: Tensor) -> Tensor:
    """E(x, y) = -f_y(x): logits (N, C) and labels (N,) -> (N,)."""
    checks.labels(y, len(logits), _two_dimensional(logits).shape[1])
    return -logits.gather(1, y.long()[:, None]).squeeze(1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """f_y minus the largest other logit, positive where y is predicted: logits (N, C), C >= 2, labels (N,) -> (N,)."""
    if _two_dimensional(logits).shape[1] < 2:
        raise ValueError("a margin needs logits of at least 2 classes, got 1")
    own = -joint_energy(logits, y)
    return own - logits.scatter(1, y.long()[:, None], -torch.inf).amax(1)


def field_values(field: str, logits: Tensor, y: Tensor | None) -> Tensor:
    """One of `FIELDS`, per row: (N, C) -> (N,)."""
    if field == "lse":
        return log_density(logits)
    if y is None:
        raise ValueError(f"field {field!r} needs labels: pass y")
    if field == "joint":
        return -joint_energy(logits, y)
    if field == "ce":
        return log_density(logits) + joint_energy(logits, y)
    return margin(logits, y)


def relative_log_likelihood(model: nn.Module, x: Tensor, x0: Tensor) -> Tensor:
    """Delta(x; x0) = log p(x) - log p(x0) under `model`, per sample and differentiable.

    Args:
        x: inputs (N, ...). x0: reference inputs (N, ...), or one for all of them (1, ...).
    """
    modes.require_eval(model)
    for batch in (x, x0):
        checks.inputs(batch, box=False)
    if x.shape[1:] != x0.shape[1:] or len(x0) not in (1, len(x)):
        raise ValueError(f"x0 must have shape {tuple(x.shape)} or hold one sample, got {tuple(x0.shape)}")
    return log_density(finite_logits(model, x)) - log_density(finite_logits(model, x0))


def samples(model: nn.Module, x: Tensor) -> Tensor:
    """The batch x (N, ...) as every measure takes it: checked, detached, at least float32; the model in eval mode."""
    modes.require_eval(model)
    x = modes.at_least_float32(checks.inputs(x, box=False).detach())
    return x.clone() if x.is_inference() and not torch.is_inference_mode_enabled() else x


def finite_logits(model: nn.Module, rows: Tensor, *, first: int = 0, repeats: int = 1) -> Tensor:
    """The model's logits of `rows`, checked. Rows count from `first`, `repeats` to a sample; errors name the sample."""
    logits = modes.call_in_float32(model, rows)
    finite = logits.isfinite()
    if finite.ndim == 2 and not finite.all():
        row = int((~finite.all(dim=1)).nonzero()[0])
        raise ValueError(
            f"the model returned non-finite logits, first at batch index {(first + row) // repeats}; "
            "check weights and inputs"
        )
    return checks.logits(logits, len(rows))


def check_field(field: str, y: Tensor | None, n: int) -> None:
    """Raise unless `field` is known and labels, where it needs them, fit a batch of n."""
    checks.one_of("field", field, FIELDS)
    if y is None and field in _NEED_LABELS:
        raise ValueError(f"field {field!r} needs labels: pass y")
    if y is not None:
        checks.labels(y, n)


def rows_at_once(x: Tensor, batch_size: int | None) -> int:
    """How many rows like those of x a model gets at once: `batch_size`, or a bound on the size of the batch."""
    if batch_size is not None:
        return checks.at_least("batch_size", batch_size, 1)
    # A CPU is fastest while a batch stays in its cache; an accelerator wants as much as fits its memory.
    most, elements = (1024, 2**18) if x.device.type == "cpu" else (8192, 2**22)
    return max(1, min(most, elements // max(1, x[0].numel())))


def _two_dimensional(logits: Tensor) -> Tensor:
    # Shapes only: training objectives call this, and a check of the values would stall a GPU at every step.
    if logits.ndim != 2 or logits.shape[1] < 1:
        raise ValueError(f"logits must have shape (N, C) with C >= 1, got {tuple(logits.shape)}")
    return logits
