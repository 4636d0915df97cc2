"""Attacks in the L_inf ball, and robust accuracy as their pointwise worst case.

    from flatlab import attacks
    x_adv = attacks.pgd(model, x, y, 0.1, steps=20, generator=torch.Generator().manual_seed(0))
    report = attacks.evaluate_robustness(model, x, y, 0.1, suite="standard")

Models map inputs (N, ...) in [0, 1] to logits (N, C) and do their own normalisation. Single attacks want the model in
eval mode and leave it there; `evaluate_robustness` switches the mode and restores it. A model of half precision gets
its inputs in its own dtype; iterates, balls and results are float32, or float64 for inputs in float64.
"""

from flatlab.attacks.ascent import SignAscent, ZeroGradientWarning
from flatlab.attacks.evaluate import evaluate_robustness
from flatlab.attacks.fgsm import fgsm
from flatlab.attacks.foolbox import disagreement, foolbox_attack
from flatlab.attacks.losses import cross_entropy, dlr, margin
from flatlab.attacks.pgd import pgd
from flatlab.attacks.robustness import AttackResult, MaskingFlag, RobustnessReport, masking_flags
from flatlab.attacks.square import square
from flatlab.attacks.suites import SUITES, AttackSpec
from flatlab.attacks.targeted import dlr_targeted

__all__ = [
    "SUITES",
    "AttackResult",
    "AttackSpec",
    "MaskingFlag",
    "RobustnessReport",
    "SignAscent",
    "ZeroGradientWarning",
    "cross_entropy",
    "disagreement",
    "dlr",
    "dlr_targeted",
    "evaluate_robustness",
    "fgsm",
    "foolbox_attack",
    "margin",
    "masking_flags",
    "pgd",
    "square",
]
