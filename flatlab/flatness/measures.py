"""Flatness of a field of the logits (log p by default) along directions around each input.

    Phi(x) = E_d [ max over alpha in {eps/M, 2 eps/M, ..., eps} of | LSE f(x + alpha d) - LSE f(x) | ]      small = flat
    Phi_m  = E_x E_d max_alpha | margin(x + alpha d) - margin(x) |  /  E_x (top-1 minus top-2 logit at x)

with d of independent signs. The idea is from Lin et al. 2020, "Likelihood Landscapes"; both formulas are our own
definitions, not the paper's. To first order Phi sees the L2 norm of the gradient g of the field: for small eps,
Phi / (eps ||g||_2) lies in [1/sqrt 2, 1] (Khintchine). Phi depends on the scale of the logits and on the constant per
input that predictions ignore; Phi_m depends on neither.

Points x + alpha d are not clipped to [0, 1]: the field is a function on the whole space, and clipping bends lines.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from flatlab import checks, modes
from flatlab.flatness.directions import LAWS, draw
from flatlab.flatness.likelihood import check_field, field_values, finite_logits, rows_at_once, samples

REDUCTIONS = ("max", "mean", "final")
EXACT_DIMENSIONS = 12

_DRAWN_AT_ONCE = 2**16
_KEPT_AT_ONCE = 2**22


@dataclass(frozen=True)
class FlatnessResult:
    """A flatness measured at N points.

    Attributes:
        per_sample: (N,), in the units of the field (nats for log p).
        mean: its mean over the points.
        stderr: the standard error of `mean` that comes from drawing K directions, at these very points: the standard
            deviation over directions / sqrt(K N). Zero where nothing was drawn, NaN where K = 1 leaves it unknown.
        config: what was measured, by option.
    """

    per_sample: Tensor = field(repr=False)
    mean: float
    stderr: float
    config: Mapping[str, object]


def likelihood_flatness(
    model: nn.Module,
    x: Tensor,
    eps: float,
    *,
    directions: int = 10,
    radii: int = 8,
    law: str = "rademacher",
    reduce: str = "max",
    field: str = "lse",
    y: Tensor | None = None,
    signed: bool = False,
    exact: bool = False,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> FlatnessResult:
    """Phi: how much a field changes on the way from x to x + eps d, in expectation over directions d.

    Args:
        model: maps (N, ...) to logits (N, C), in eval mode.
        x: inputs (N, ...), floating.
        eps: radius, in the units of x.
        directions: K, draws per sample; each sample has its own, in the order of the samples.
        radii: M, steps on the way.
        law: "rademacher", "gaussian" (standard normal), "uniform" (on [-1, 1]), or "adversarial": the one direction
            sign grad_x field(x), where `directions` has no meaning.
        reduce: over the radii: "max" of the change's size, "mean" of it, or "final" (that at eps).
        field: "lse" (log p), "joint" (f_y), "ce" (cross-entropy), "margin" (f_y minus the largest other logit).
        y: labels (N,), for every field but "lse".
        signed: keep the sign of the change; "max" then keeps the change of largest size, with its sign.
        exact: average over all 2^D sign vectors instead of drawing (D <= 12 dimensions, law "rademacher").
        generator: where directions come from; the same state gives the same directions for every model.
        batch_size: rows given to the model at once (at least `radii`); it does not change the result.

    Raises:
        ValueError: for options outside their range, and for non-finite logits (naming the sample).
        TypeError: for integer inputs. RuntimeError: for BatchNorm or Dropout in train mode.
    """
    x = samples(model, x)
    checks.one_of("reduce", reduce, REDUCTIONS)
    checks.one_of("law", law, (*LAWS, "adversarial"))
    check_field(field, y, len(x))
    dimensions = x[0].numel()
    if exact and (law != "rademacher" or dimensions > EXACT_DIMENSIONS):
        raise ValueError(
            f"exact=True enumerates sign vectors of at most {EXACT_DIMENSIONS} dimensions under law 'rademacher', "
            f"got {dimensions} dimensions under law {law!r}"
        )
    walk = _Walk(
        model,
        checks.radius(eps),
        checks.at_least("radii", radii, 1),
        checks.at_least("directions", directions, 1),
        "exact" if exact else law,
        field,
        generator,
        rows_at_once(x, batch_size),
    )
    means, variances = [], []
    for changes in walk.blocks(x, y):
        sizes = changes if signed else changes.abs()
        if reduce == "mean":
            reached = sizes.mean(2)
        elif reduce == "final":
            reached = sizes[:, :, -1]
        else:
            reached = sizes.gather(2, sizes.abs().argmax(2, keepdim=True)).squeeze(2)
        means.append(reached.mean(1))
        variances.append(walk.variance(reached))
    config = {
        "measure": "likelihood_flatness",
        "eps": walk.eps,
        "directions": walk.count(x),
        "radii": radii,
        "law": law,
        "reduce": reduce,
        "field": field,
        "signed": signed,
        "exact": exact,
    }
    return summarize(torch.cat(means), torch.cat(variances), config)


def margin_flatness(
    model: nn.Module,
    x: Tensor,
    eps: float,
    *,
    y: Tensor | None = None,
    directions: int = 10,
    radii: int = 8,
    law: str = "rademacher",
    exact: bool = False,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> FlatnessResult:
    """Phi_m: how much the margin changes within eps, as a fraction of the mean margin between the top two logits.

    Neither a constant added to all logits of an input nor a common factor of the logits changes it. The standard
    error takes the mean margin as given. The result is NaN where that mean is zero, as for a constant model.

    Args:
        y: labels (N,) of the margin f_y minus the largest other logit. Default: the model's own predictions at x.

    The other arguments are those of `likelihood_flatness`.
    """
    x = samples(model, x)
    with torch.no_grad():
        size = rows_at_once(x, batch_size)
        logits = torch.cat([finite_logits(model, x[i : i + size], first=i) for i in range(0, len(x), size)])
    if logits.shape[1] < 2:
        raise ValueError("a margin needs logits of at least 2 classes, got 1")
    top = logits.topk(2, dim=1)
    scale = (top.values[:, 0] - top.values[:, 1]).mean()
    raw = likelihood_flatness(
        model,
        x,
        eps,
        directions=directions,
        radii=radii,
        law=law,
        field="margin",
        y=top.indices[:, 0] if y is None else y,
        exact=exact,
        generator=generator,
        batch_size=batch_size,
    )
    ratio = raw.per_sample / scale.where(scale > 0, math.nan)
    config = {**raw.config, "measure": "margin_flatness", "labels": "predicted" if y is None else "given"}
    return replace(
        raw, per_sample=ratio, mean=float(ratio.mean()), stderr=raw.stderr / float(scale or math.nan), config=config
    )


def summarize(per_sample: Tensor, variances: Tensor, config: Mapping[str, object]) -> FlatnessResult:
    """A result from values (N,) and the variance of each value over the draws it is the mean of."""
    stderr = float(variances.double().sum().sqrt()) / len(per_sample)
    return FlatnessResult(per_sample, float(per_sample.double().mean()), stderr, dict(config))


@dataclass(frozen=True)
class _Walk:
    """M steps along each of K directions from each sample, folded into the batch."""

    model: nn.Module
    eps: float
    radii: int
    directions: int
    law: str
    field: str
    generator: torch.Generator | None
    rows: int

    def count(self, x: Tensor) -> int:
        """Directions per sample."""
        return {"exact": 2 ** x[0].numel(), "adversarial": 1}.get(self.law, self.directions)

    def variance(self, reached: Tensor) -> Tensor:
        """The variance (samples,) of the mean over the directions of `reached` (samples, K)."""
        if self.law in ("exact", "adversarial"):
            return torch.zeros_like(reached[:, 0])
        count = reached.shape[1]
        return reached.var(1) / count if count > 1 else torch.full_like(reached[:, 0], math.nan)

    def blocks(self, x: Tensor, y: Tensor | None) -> Iterator[Tensor]:
        """Changes of the field (samples, K, M), for blocks of samples whose directions take little memory."""
        numbers = self.count(x) * x[0].numel()
        group = max(1, _DRAWN_AT_ONCE // numbers)
        size = group * max(1, _KEPT_AT_ONCE // (group * numbers))
        for start in range(0, len(x), size):
            here, labels = x[start : start + size], None if y is None else y[start : start + size]
            origin, gradient = self._origin(here, labels, start)
            yield self._changes(here, origin, self._directions(here, gradient, group), labels, start)

    def _origin(self, here: Tensor, labels: Tensor | None, start: int) -> tuple[Tensor, Tensor]:
        """The field at the samples, and its gradient there if the law asks for it (else the samples themselves)."""
        values, gradients = [], []
        adversarial = self.law == "adversarial"
        for at in range(0, len(here), self.rows):
            rows = here[at : at + self.rows].detach().requires_grad_(adversarial)
            with torch.set_grad_enabled(adversarial):
                logits = finite_logits(self.model, rows, first=start + at)
                value = field_values(self.field, logits, None if labels is None else labels[at : at + self.rows])
            gradients.append(input_gradient(value, rows) if adversarial else rows)
            values.append(value.detach())
        return torch.cat(values), torch.cat(gradients)

    def _directions(self, here: Tensor, gradient: Tensor, group: int) -> Tensor:
        """Directions (samples, K, ...)."""
        shape = here.shape[1:]
        if self.law == "adversarial":
            return gradient.sign().unsqueeze(1)
        if self.law == "exact":
            signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=shape.numel())))
            return signs.to(here).reshape(1, -1, *shape).expand(len(here), *[-1] * (len(shape) + 1))
        # Whole groups of fixed size, so that a sample's directions depend on its index alone: not on batch_size, nor
        # on how many samples follow.
        groups = math.ceil(len(here) / group)
        drawn = [draw(self.law, (group, self.directions, *shape), here, self.generator) for _ in range(groups)]
        return torch.cat(drawn)[: len(here)]

    def _changes(self, here: Tensor, origin: Tensor, towards: Tensor, labels: Tensor | None, start: int) -> Tensor:
        count = towards.shape[1]
        if self.eps == 0:
            return origin.new_zeros(len(here), count, self.radii)
        radii = torch.arange(1, self.radii + 1, device=here.device, dtype=here.dtype) * (self.eps / self.radii)
        radii = radii.reshape(-1, *[1] * (here.ndim - 1))
        lines, values, size = towards.flatten(0, 1), [], max(1, self.rows // self.radii)
        with torch.no_grad():
            for at in range(0, len(lines), size):
                some = lines[at : at + size]
                sample = torch.arange(at, at + len(some), device=here.device) // count
                points = torch.addcmul(here[sample].unsqueeze(1), radii, some.unsqueeze(1)).flatten(0, 1)
                first = (start * count + at) * self.radii
                logits = finite_logits(self.model, points, first=first, repeats=count * self.radii)
                chosen = None if labels is None else labels[sample].repeat_interleave(self.radii)
                values.append(field_values(self.field, logits, chosen))
        return torch.cat(values).reshape(len(here), count, self.radii) - origin[:, None, None]


def input_gradient(values: Tensor, x: Tensor) -> Tensor:
    """The gradient of each of the values (N,) by its own row of x; zero where the model ignores its input."""
    modes.require_gradients(x)
    if not values.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(values, x, torch.ones_like(values), materialize_grads=True)[0]
