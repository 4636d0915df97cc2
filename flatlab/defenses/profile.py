"""A trained network in one row of numbers: how robust it is, and how flat its landscapes are.

Flatness is that of Lin et al. 2020 in the reading of `flatlab.flatness.measures`; curvature and sharpness are those of
the training loss over the weights, for comparison.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import attacks, flatness
from flatlab.defenses.probes import attacked_shift


def profile(
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
) -> dict[str, float]:
    """Measure robustness and flatness of `model`, in eval mode, on inputs x (N, ...) in [0, 1] with labels y (N,).

    Args:
        eps: L_inf radius of the attacks and of the flatness measures.
        suite: name of an attack suite that contains PGD-20.
        seed: of all random draws.
        directions, radii: Monte Carlo directions and grid points of the flatness measures.
        weights_at: inputs and labels at which the loss over the weights is studied; None leaves it out.

    Returns:
        clean, robust (pointwise worst case) and one accuracy per attack, `pgd20` for PGD-20; `flags`, the signs of
        gradient masking; `phi`, `phi_m`, `phi_adv` (flatness of the likelihood, of the margin, and in the worst
        direction); `shift`, the mean |change of log p| at PGD-20 points; `trace` and `sharpness` over the weights.
    """

    def generator() -> torch.Generator:
        return torch.Generator(x.device).manual_seed(seed)

    report = attacks.evaluate_robustness(model, x, y, eps, suite=suite, seed=seed)
    shift = attacked_shift(model, x, y, eps, seed=seed)
    row = {"clean": report.clean, "robust": report.robust, "pgd20": report.accuracies["PGD-20"]} | report.accuracies
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
    return row
