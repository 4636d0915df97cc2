"""Measurements on one trained network: how robust it is, how flat its landscapes are, and what fools either.

Lin et al. 2020 measure the landscape of log p(x) = logsumexp f(x) + const, which a network's logits fix only up to a
number for each input: after log_softmax it is flat everywhere, and no prediction has changed. Flatness is that of
`flatlab.flatness.measures`; curvature and sharpness are those of the training loss over the weights, for comparison.

Hits say of each input whether it is classified correctly, (N,) bool on the CPU: test images are a sample as seeds are.
A network that has diverged classifies nothing, and has no flatness.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from flatlab import attacks, defenses, flatness, models


def diverged(model: nn.Module, x: Tensor) -> bool:
    """Whether some logit of the inputs x (N, ...) is not finite."""
    with torch.no_grad():
        return not bool(model(x).isfinite().all())


def measure_network(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    suite: str = "standard",
    seed: int = 0,
    directions: int = 10,
    radii: int = 8,
    weights_at: tuple[Tensor, Tensor] | None = None,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Robustness and flatness of a network in eval mode.

    Args:
        model: inputs (N, ...) in [0, 1] -> logits (N, C).
        x: inputs (N, ...) in [0, 1].
        y: labels (N,).
        eps: L_inf radius of the attacks and of the flatness measures, in units of x.
        suite: name of an attack suite that contains PGD-20.
        seed: of all random draws.
        directions, radii: Monte Carlo directions and grid points of the flatness measures.
        weights_at: inputs and labels at which the loss over the weights is studied; None leaves it out.

    Returns:
        Hits `clean`, `pgd20` and `robust` (under every attack of the suite); and a row of numbers. The row holds the
        accuracies of the same names; `flags`, the signs of gradient masking; `phi`, `phi_m`, `phi_adv` (flatness of
        the likelihood, of the margin, and in the worst direction); `shift`, the mean |change of log p| at PGD-20
        points; `trace` and `sharpness` over the weights. Of a network that has diverged, flatness is NaN.
    """

    def generator() -> torch.Generator:
        return torch.Generator(x.device).manual_seed(seed)

    if diverged(model, x):
        lost = {name: torch.zeros(len(x), dtype=torch.bool) for name in ("clean", "pgd20", "robust")}
        return dict.fromkeys(lost, 0.0) | dict.fromkeys(("phi", "phi_m", "phi_adv", "shift"), math.nan), lost
    report = attacks.evaluate_robustness(model, x, y, eps, suite=suite, seed=seed)
    hits = {"clean": report.clean_correct, "pgd20": report.correct["PGD-20"], "robust": report.robust_correct}
    row = {name: float(correct.double().mean()) for name, correct in hits.items()}
    shift = log_likelihood_shift(model, x, y, eps, seed=seed)
    row |= {"flags": len(report.reasons), "shift": float(shift.abs().mean())}
    for name, measure in (("phi", flatness.likelihood_flatness), ("phi_m", flatness.margin_flatness)):
        row[name] = measure(model, x, eps, directions=directions, radii=radii, generator=generator()).mean
    row["phi_adv"] = flatness.worst_case_flatness(model, x, eps, generator=generator()).mean
    if weights_at is not None:
        inputs, labels = weights_at
        loss = flatness.over_parameters(model, lambda net: F.cross_entropy(net(inputs), labels))
        probe = torch.Generator().manual_seed(seed)
        row["trace"] = flatness.hutchinson_trace(loss, probes=10, generator=probe).mean
        row["sharpness"] = flatness.sam_sharpness(loss, rho=0.05)
    return row, hits


def pgd_hits(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, *, loss: str = "ce", steps: int = 20, seed: int = 0
) -> Tensor:
    """Hits of a network in eval mode on what PGD with one random start makes of the inputs.

    Args:
        model: inputs (N, ...) in [0, 1] -> logits (N, C).
        x: inputs (N, ...) in [0, 1].
        y: labels (N,).
        eps: L_inf radius, in units of x.
        loss, steps: as in `flatlab.attacks.pgd`.
        seed: of its start.
    """
    generator = torch.Generator(x.device).manual_seed(seed)
    adversarial = attacks.pgd(model, x, y, eps, steps=steps, loss=loss, generator=generator)
    with torch.no_grad():
        return (model(adversarial).argmax(1) == y).cpu()


def stacked(found: Sequence[Mapping[Any, Tensor]]) -> dict[Any, NDArray[np.bool_]]:
    """Hits of several networks, each a table with the same keys: key -> (networks, N)."""
    return {key: torch.stack([hits[key] for hits in found]).numpy() for key in found[0]}


def log_likelihood_shift(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, *, steps: int = 20, seed: int = 0
) -> Tensor:
    """log p at the points that PGD finds, minus log p at the inputs, (N,); arguments as of `pgd_hits`."""
    generator = torch.Generator(x.device).manual_seed(seed)
    adversarial = attacks.pgd(model, x, y, eps, steps=steps, generator=generator)
    return flatness.relative_log_likelihood(model, adversarial, x).detach()


def robustness_and_flatness(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int = 0
) -> tuple[Tensor, float]:
    """Hits under the fast suite, and likelihood flatness over 4 directions and 4 radii; arguments as of `pgd_hits`."""
    if diverged(model, x):
        return torch.zeros(len(x), dtype=torch.bool), math.nan
    generator = torch.Generator(x.device).manual_seed(seed)
    phi = flatness.likelihood_flatness(model, x, eps, directions=4, radii=4, generator=generator).mean
    return attacks.evaluate_robustness(model, x, y, eps, suite="fast", seed=seed).robust_correct, phi


def mean_plane(model: nn.Module, x: Tensor, y: Tensor, across: Tensor, radius: float) -> flatness.Plane:
    """log p in the plane of the loss gradient's sign and given signs, as the mean over inputs, its peak at 0.

    Inputs at which the loss has no gradient (it underflows where a network is sure) span no plane, and are left out; a
    network without any, or one that has diverged, has a plane of NaN.

    Args:
        model: inputs (N, ...) in [0, 1] -> logits (N, C), in eval mode.
        x: inputs (N, ...) in [0, 1].
        y: labels (N,).
        across: signs (N, ...), the second direction.
        radius: to which the plane reaches along either, in units of x.
    """
    up = torch.zeros_like(x) if diverged(model, x) else flatness.gradient_sign(model, x, y)
    usable = up.flatten(1).any(dim=1)
    if not usable.any():
        axis = torch.linspace(-radius, radius, 21)
        return flatness.Plane(torch.full((21, 21), math.nan), axis, axis.clone())
    whole = flatness.likelihood_plane(model, x[usable], up[usable], across[usable], radius, normalize=None)
    values = whole.values if whole.values.ndim == 2 else whole.values.mean(0)
    return flatness.Plane(values, whole.a, whole.b).normalized("peak")


def plane_agreement(planes: Tensor, references: Tensor) -> dict[str, float]:
    """How far landscape planes tell methods apart: one network of each method against a reference of each.

    Args:
        planes, references: (M, n, n), of the same methods in the same order.

    Returns:
        `ratio`, the mean over methods of the log of how many times farther (root mean square, geometric mean) a plane
        is from the references of other methods than from its own; `named`, the share of planes to which their own
        method's reference is the nearest. A plane of NaN tells nothing: 0 in both means.
    """
    distances = (planes[:, None] - references[None]).square().mean((2, 3)).sqrt().cpu()
    own, itself = distances.diagonal(), torch.eye(len(planes), dtype=torch.bool)
    others = distances.log().masked_fill(itself, math.nan).nanmean(1)
    nearest = (distances.nan_to_num(math.inf).argmin(1) == torch.arange(len(planes))) & own.isfinite()
    ratio = (others - own.log()).nan_to_num(0.0)
    return {"ratio": float(ratio.mean()), "named": float(nearest.double().mean())}


def effect_of_log_softmax(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int = 0) -> dict[str, float]:
    """What changes when log_softmax follows a network; the arguments are those of `pgd_hits`.

    Returns:
        `phi`, its likelihood flatness then; `changed`, the share of predictions that differ; `attack`, the share of
        inputs for which PGD-20 ends otherwise.
    """
    fixed = models.MapLogits(model, lambda z: z.log_softmax(1)).eval()
    generator = torch.Generator(x.device).manual_seed(seed)
    phi = flatness.likelihood_flatness(fixed, x, eps, directions=2, radii=2, generator=generator).mean
    changed = float((fixed(x).argmax(1) != model(x).argmax(1)).double().mean())
    before, after = (pgd_hits(net, x, y, eps, seed=seed) for net in (model, fixed))
    return {"phi": phi, "changed": changed, "attack": float((before != after).double().mean())}


def hits_at_scales(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, scales: Sequence[float], *, loss: str = "ce", seed: int = 0
) -> dict[float, Tensor]:
    """Hits under PGD of a network with all logits multiplied by each of the scales.

    Args:
        model, x, y, eps, loss, seed: as in `pgd_hits`.
        scales: positive numbers.
    """
    found = {}
    for scale in scales:
        larger = models.MapLogits(model, partial(torch.mul, other=scale)).eval()
        found[scale] = pgd_hits(larger, x, y, eps, loss=loss, seed=seed)
    return found


def hits_behind_rounding(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, *, bits: int = 3, seed: int = 0
) -> dict[str, Tensor]:
    """Hits under PGD of a network that sees inputs of few bits: their gradient is zero, and BPDA finds one.

    BPDA: backward pass differentiable approximation, here by the identity (Athalye et al. 2018). The arguments are
    those of `pgd_hits`; bits is the number that each value of x keeps.
    """
    hidden = {
        name: defenses.BitDepth(model, bits=bits, bpda=bpda).eval()
        for name, bpda in (("plain PGD", False), ("PGD with BPDA", True))
    }
    return {name: pgd_hits(net, x, y, eps, seed=seed) for name, net in hidden.items()}
