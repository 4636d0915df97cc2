"""Per-sample objectives that attacks maximise: higher means closer to a mistake.

    cross_entropy   -log softmax(f)_y                                 targeted: log softmax(f)_t
    margin          max_{k != y} f_k - f_y                            targeted: f_t - max_{k != t} f_k
    dlr             (max_{k != y} f_k - f_y) / (f_(1) - f_(3))
    targeted dlr    (f_t - max_{k != t} f_k) / (f_(1) - (f_(3) + f_(4)) / 2)

from Carlini & Wagner 2017 (margin) and Croce & Hein 2020 (AutoAttack, DLR),
with f_(i) the i-th largest logit. The gradient of the cross-entropy vanishes in float32 once the true class leads by
about a hundred, and depends on the scale of the logits before that; DLR has neither defect. Where AutoAttack adds 1e-12
to the denominator, it is bounded from below by 1e-12 here, so that scaling all logits leaves the value alone. Where it
subtracts f_y from f_t, the best class but t is taken here: the same class until the model is fooled, and from then on
what takes a sample past third classes to its target. The cross-entropy and the margin still hit more targets.

Each named loss has a slope, its derivative with respect to the logits in closed form: on small networks, building
and walking the graph of the loss costs as much as a layer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab import checks

#: What a user may pass as a loss: a name, or a function of logits (N, C) and labels (N,) that returns (N,).
Loss = str | Callable[[Tensor, Tensor], Tensor]

#: A function of logits (N, C), labels (N,) and targets (N,) or None.
OfLogits = Callable[[Tensor, Tensor, Tensor | None], Tensor]

_SMALLEST_SPREAD = 1e-12


@dataclass(frozen=True)
class Objective:
    """A per-sample objective: its value (N,), and its slope (N, C), which is the derivative by the logits."""

    value: OfLogits
    slope: OfLogits


def cross_entropy(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """Cross-entropy (N,) of the true class, or minus that of the target class.

    Args:
        logits: (N, C).
        y: labels (N,).
        targets: classes (N,) to move to; None to move away from y.
    """
    if targets is None:
        return F.cross_entropy(logits, y, reduction="none")
    return -F.cross_entropy(logits, targets, reduction="none")


def margin(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """Best wrong logit minus the true one (N,), or the target's minus the best other one. Needs C >= 2.

    Positive where the attack has succeeded: where the sample is misclassified, or predicted as its target. The
    arguments are those of `cross_entropy`.
    """
    up, down = _margin_classes(logits, y, targets)
    return _pick(logits, up) - _pick(logits, down)


def dlr(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    """Difference of logits ratio (N,), unmoved by shifting and scaling logits. Needs C >= 3, or C >= 4 with targets.

    The arguments are those of `cross_entropy`.
    """
    top, weights, up, down = _dlr_parts(logits, y, targets)
    spread = (top.values * weights).sum(dim=1)
    return (_pick(logits, up) - _pick(logits, down)) / spread.clamp_min(_SMALLEST_SPREAD)


def objective(loss: Loss, *, targeted: bool = False) -> Objective:
    """Return the objective that `loss` names or is; ValueError for an unknown name or a function with targets."""
    if isinstance(loss, str):
        return LOSSES[checks.one_of("loss", loss, LOSSES)]
    if not callable(loss):
        raise TypeError(f"loss must be one of {', '.join(LOSSES)} or a function of logits and labels, got {loss!r}")
    if targeted:
        raise ValueError("a loss function receives logits and labels only: let it hold its targets, or name a loss")
    function = loss

    def value(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
        values = function(logits, y)
        if values.shape != y.shape:
            raise ValueError(
                f"the loss function must return one value per sample, shape {tuple(y.shape)}, "
                f"got {tuple(values.shape)}; do not average over the batch"
            )
        return values

    def slope(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
        leaf = logits.detach().requires_grad_(True)
        return torch.autograd.grad(value(leaf, y).sum(), leaf)[0]

    return Objective(value, slope)


def _cross_entropy_slope(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    # With the classes leading, softmax runs over samples side by side: rows of ten are too short for vector units.
    classes = (y if targets is None else targets)[None]
    slope = torch.softmax(logits.t(), dim=0)
    slope.scatter_add_(0, classes, slope.new_full((1, 1), -1.0).expand_as(classes))
    return (slope if targets is None else slope.neg_()).t()


def _margin_slope(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    return _add_gain(torch.zeros_like(logits), *_margin_classes(logits, y, targets), logits.new_ones(len(y)))


def _dlr_slope(logits: Tensor, y: Tensor, targets: Tensor | None = None) -> Tensor:
    top, weights, up, down = _dlr_parts(logits, y, targets)
    spread = (top.values * weights).sum(dim=1)
    inverse = spread.clamp_min(_SMALLEST_SPREAD).reciprocal()
    ratio = (_pick(logits, up) - _pick(logits, down)) * inverse
    # Below the smallest spread the denominator is a constant.
    by_spread = torch.where(spread < _SMALLEST_SPREAD, 0.0, -ratio * inverse)
    slope = torch.zeros_like(logits).scatter_(1, top.indices, by_spread[:, None] * weights)
    return _add_gain(slope, up, down, inverse)


LOSSES: dict[str, Objective] = {
    "ce": Objective(cross_entropy, _cross_entropy_slope),
    "dlr": Objective(dlr, _dlr_slope),
    "margin": Objective(margin, _margin_slope),
}


def _margin_classes(logits: Tensor, y: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
    """The classes whose logits are to grow and to shrink."""
    _require_classes("the margin loss", logits, 2)
    ranked = logits.topk(2, dim=1).indices
    return (_best_other(ranked, y), y) if targets is None else (targets, _best_other(ranked, targets))


def _dlr_parts(
    logits: Tensor, y: Tensor, targets: Tensor | None
) -> tuple["torch.return_types.topk", Tensor, Tensor, Tensor]:
    """The largest logits, their weights in the denominator, and the classes whose logits are to grow and to shrink."""
    if targets is None:
        _require_classes("the DLR loss", logits, 3)
        top = logits.topk(3, dim=1)
        return top, logits.new_tensor([1.0, 0.0, -1.0]), _best_other(top.indices, y), y
    _require_classes("the targeted DLR loss", logits, 4)
    top = logits.topk(4, dim=1)
    return top, logits.new_tensor([1.0, 0.0, -0.5, -0.5]), targets, _best_other(top.indices, targets)


def _best_other(ranked: Tensor, classes: Tensor) -> Tensor:
    return torch.where(ranked[:, 0] == classes, ranked[:, 1], ranked[:, 0])


def _pick(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


def _add_gain(slope: Tensor, up: Tensor, down: Tensor, factor: Tensor) -> Tensor:
    slope.scatter_add_(1, up[:, None], factor[:, None])
    return slope.scatter_add_(1, down[:, None], -factor[:, None])


def _require_classes(what: str, logits: Tensor, minimum: int) -> None:
    if logits.shape[1] < minimum:
        cure = "use loss='margin' or 'ce'" if minimum > 2 else "use loss='ce'"
        raise ValueError(f"{what} needs C >= {minimum} classes, the model has C = {logits.shape[1]}; {cure}")
