"""Measurements on one trained network: how robust it is, how flat its landscapes are, and what fools either.

Lin et al. 2020 measure the landscape of log p(x) = logsumexp f(x) + const, which a network's logits fix only up to a
number for each input: after log_softmax it is flat everywhere, and no prediction has changed. Flatness is that of
`flatlab.flatness.measures`; curvature and sharpness are those of the training loss over the weights, for comparison.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import attacks, defenses, flatness, models, train


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
) -> dict[str, float]:
    """Robustness and flatness of a network in eval mode, as one row of numbers.

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
        clean, robust (pointwise worst case) and one accuracy per attack, `pgd20` for PGD-20; `flags`, the signs of
        gradient masking; `phi`, `phi_m`, `phi_adv` (flatness of the likelihood, of the margin, and in the worst
        direction); `shift`, the mean |change of log p| at PGD-20 points; `trace` and `sharpness` over the weights.
    """

    def generator() -> torch.Generator:
        return torch.Generator(x.device).manual_seed(seed)

    report = attacks.evaluate_robustness(model, x, y, eps, suite=suite, seed=seed)
    shift = log_likelihood_shift(model, x, y, eps, seed=seed)
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


def pgd_accuracy(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, *, loss: str = "ce", steps: int = 20, seed: int = 0
) -> float:
    """Accuracy of a network in eval mode on what PGD with one random start makes of the inputs.

    Args:
        model: inputs (N, ...) in [0, 1] -> logits (N, C).
        x: inputs (N, ...) in [0, 1].
        y: labels (N,).
        eps: L_inf radius, in units of x.
        loss, steps: as in `flatlab.attacks.pgd`.
        seed: of its start.
    """
    generator = torch.Generator(x.device).manual_seed(seed)
    return train.accuracy(model, attacks.pgd(model, x, y, eps, steps=steps, loss=loss, generator=generator), y)


def log_likelihood_shift(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, *, steps: int = 20, seed: int = 0
) -> Tensor:
    """log p at the points that PGD finds, minus log p at the inputs, (N,); arguments as of `pgd_accuracy`."""
    generator = torch.Generator(x.device).manual_seed(seed)
    adversarial = attacks.pgd(model, x, y, eps, steps=steps, generator=generator)
    return flatness.relative_log_likelihood(model, adversarial, x).detach()


def robustness_and_flatness(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int = 0) -> dict[str, float]:
    """`robust`, the accuracy under the fast suite, and `phi`, likelihood flatness over 4 directions and 4 radii.

    The arguments are those of `pgd_accuracy`.
    """
    generator = torch.Generator(x.device).manual_seed(seed)
    phi = flatness.likelihood_flatness(model, x, eps, directions=4, radii=4, generator=generator).mean
    return {"robust": attacks.evaluate_robustness(model, x, y, eps, suite="fast", seed=seed).robust, "phi": phi}


def effect_of_log_softmax(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int = 0) -> dict[str, float]:
    """What changes when log_softmax follows a network; the arguments are those of `pgd_accuracy`.

    Returns:
        `phi`, its likelihood flatness then; `changed`, the share of predictions that differ; `attack`, the difference
        of the accuracies under PGD-20.
    """
    fixed = models.MapLogits(model, lambda z: z.log_softmax(1)).eval()
    generator = torch.Generator(x.device).manual_seed(seed)
    phi = flatness.likelihood_flatness(fixed, x, eps, directions=2, radii=2, generator=generator).mean
    changed = float((fixed(x).argmax(1) != model(x).argmax(1)).double().mean())
    before, after = (pgd_accuracy(net, x, y, eps, seed=seed) for net in (model, fixed))
    return {"phi": phi, "changed": changed, "attack": after - before}


def accuracy_behind_rounding(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, *, bits: int = 3, seed: int = 0
) -> dict[str, float]:
    """Accuracy under PGD of a network that sees inputs of few bits: their gradient is zero, and BPDA finds one.

    BPDA: backward pass differentiable approximation, here by the identity (Athalye et al. 2018). The arguments are
    those of `pgd_accuracy`; bits is the number that each value of x keeps.
    """
    hidden = {
        name: defenses.BitDepth(model, bits=bits, bpda=bpda).eval()
        for name, bpda in (("plain PGD", False), ("PGD with BPDA", True))
    }
    return {name: pgd_accuracy(net, x, y, eps, seed=seed) for name, net in hidden.items()}
