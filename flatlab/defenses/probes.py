"""Small questions to a trained network: what fools its attacks, and what its flatness depends on.

Lin et al. 2020 measure the landscape of log p(x) = logsumexp f(x) + const, which a network's logits fix only up to a
number for each input: after log_softmax it is flat everywhere, and no prediction has changed.
"""

import torch
from torch import Tensor, nn

from flatlab import attacks, flatness, models
from flatlab.defenses.bitdepth import BitDepthReduction
from flatlab.train.evaluate import accuracy


def pgd_accuracy(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, *, loss: str = "ce", steps: int = 20, seed: int = 0
) -> float:
    """Accuracy of a network in eval mode on what PGD with one start makes of inputs x (N, ...) in [0, 1].

    Args:
        y: labels (N,).
        eps: L_inf radius.
        loss, steps: as in `flatlab.attacks.pgd`.
        seed: of its start.
    """
    generator = torch.Generator(x.device).manual_seed(seed)
    return accuracy(model, attacks.pgd(model, x, y, eps, steps=steps, loss=loss, generator=generator), y)


def attacked_shift(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, steps: int = 20, seed: int = 0) -> Tensor:
    """By how much log p differs at the points that PGD finds from that at the inputs, (N,); arguments as above."""
    generator = torch.Generator(x.device).manual_seed(seed)
    adversarial = attacks.pgd(model, x, y, eps, steps=steps, generator=generator)
    return flatness.relative_log_likelihood(model, adversarial, x).detach()


def response(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int = 0) -> dict[str, float]:
    """Robust accuracy under the fast suite, and likelihood flatness `phi` over 4 directions and 4 radii."""
    generator = torch.Generator(x.device).manual_seed(seed)
    phi = flatness.likelihood_flatness(model, x, eps, directions=4, radii=4, generator=generator).mean
    return {"robust": attacks.evaluate_robustness(model, x, y, eps, suite="fast", seed=seed).robust, "phi": phi}


def gauge(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int = 0) -> dict[str, float]:
    """What log_softmax behind a network changes.

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


def quantised(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, bits: int = 3, seed: int = 0) -> dict[str, float]:
    """Accuracy of a network behind inputs of few bits, which hide its gradient, and with BPDA, which finds it.

    BPDA: backward pass differentiable approximation, here by the identity (Athalye et al. 2018).
    """
    hidden = {
        name: BitDepthReduction(eps=eps, bits=bits, bpda=bpda).wrap(model).eval()
        for name, bpda in (("plain PGD", False), ("PGD with BPDA", True))
    }
    return {name: pgd_accuracy(net, x, y, eps, seed=seed) for name, net in hidden.items()}
