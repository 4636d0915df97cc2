"""What a robust evaluation returns, and the signs of gradient masking that it looks for.

A defense can stop an attack without stopping adversarial examples, by making gradients useless. Then weaker or blinder
attacks do better than stronger ones, which cannot happen where gradients work (Athalye, Carlini, Wagner 2018).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from flatlab.attacks.suites import AttackSpec

# In accuracy, as fractions. The margins allow for the points that two equally good attacks find differently.
FGSM_MARGIN = 0.005
SQUARE_MARGIN = 0.02
RESTART_MARGIN = 0.03
LOSS_MARGIN = 0.03
SCALE_MARGIN = 0.03
ZERO_GRADIENT_SHARE = 0.01
LARGE_EPS = 0.5


@dataclass(frozen=True)
class MaskingFlag:
    """One sign of gradient masking: whether it was seen, what was measured, what is allowed, and both in words."""

    name: str
    raised: bool
    value: float
    limit: float
    reason: str


@dataclass(frozen=True)
class AttackResult:
    """One attack of an evaluation.

    Attributes:
        spec: its configuration.
        correct: (N,) bool on CPU, classified correctly at the stored adversarial input, and at the clean one.
        after_restarts: accuracy after each restart, the last one being `accuracy`.
        seconds: wall time.
    """

    spec: AttackSpec
    correct: Tensor
    after_restarts: tuple[float, ...]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of samples that are correct."""
        return float(self.correct.double().mean())


@dataclass(frozen=True)
class RobustnessReport:
    """Robust accuracy of one model on one batch.

    Attributes:
        eps: L_inf radius.
        seed: of the random draws.
        clean_correct: (N,) bool, classified correctly without an attack.
        attacks: one result per attack, in the order of the suite.
        robust_correct: (N,) bool, correct under every attack: the pointwise worst case.
        worst_inputs: (N, ...) an input in ball and box that fools the model, where one was found.
        flags: the signs of gradient masking that could be checked, raised or not.
    """

    eps: float
    seed: int
    clean_correct: Tensor
    attacks: tuple[AttackResult, ...]
    robust_correct: Tensor
    worst_inputs: Tensor
    flags: tuple[MaskingFlag, ...]

    @property
    def clean(self) -> float:
        """Clean accuracy."""
        return float(self.clean_correct.double().mean())

    @property
    def robust(self) -> float:
        """Accuracy under the worst attack for each sample, at most the accuracy under any single one."""
        return float(self.robust_correct.double().mean())

    @property
    def accuracies(self) -> dict[str, float]:
        """Accuracy per attack."""
        return {attack.spec.name: attack.accuracy for attack in self.attacks}

    @property
    def correct(self) -> dict[str, Tensor]:
        """(N,) bool per attack."""
        return {attack.spec.name: attack.correct for attack in self.attacks}

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time per attack."""
        return {attack.spec.name: attack.seconds for attack in self.attacks}

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """Configuration per attack, as plain values."""
        return {attack.spec.name: attack.spec.config() for attack in self.attacks}

    @property
    def masked(self) -> bool:
        """Whether any sign of gradient masking was seen; robust accuracy is then an overestimate."""
        return any(flag.raised for flag in self.flags)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The raised flags in words."""
        return tuple(flag.reason for flag in self.flags if flag.raised)

    def rows(self) -> list[dict[str, Any]]:
        """A row per attack, framed by "clean" and "worst case": attack, accuracy, n, eps, seconds."""
        total = sum(self.seconds.values())
        entries = [("clean", self.clean, 0.0)]
        entries += [(attack.spec.name, attack.accuracy, attack.seconds) for attack in self.attacks]
        entries += [("worst case", self.robust, total)]
        n = len(self.clean_correct)
        return [
            {"attack": name, "accuracy": accuracy, "n": n, "eps": self.eps, "seconds": seconds}
            for name, accuracy, seconds in entries
        ]


def masking_flags(
    attacks: Sequence[AttackResult],
    *,
    zero_gradients: float,
    chance: float,
    large_eps_accuracy: float | None = None,
    scale_drops: Mapping[float, float] | None = None,
) -> tuple[MaskingFlag, ...]:
    """Compare attacks, and return one flag per comparison that the suite allows.

    Args:
        attacks: the results. The gradient attack of reference is the strongest cross-entropy PGD among them.
        zero_gradients: share of samples whose clean input gradient is exactly zero.
        chance: accuracy of guessing.
        large_eps_accuracy: accuracy at eps = 0.5, where almost any image can be turned into any other.
        scale_drops: by logit scale, the accuracy lost when PGD also runs on logits of that scale.
    """
    flags = [
        _flag("zero gradients", zero_gradients, ZERO_GRADIENT_SHARE, "{value} of samples have a zero input gradient")
    ]
    reference = reference_pgd(attacks)
    if reference is not None:
        one_sample = 1 / len(reference.correct)
        rivals = (
            ("FGSM", _lowest(attacks, "fgsm"), max(FGSM_MARGIN, one_sample)),
            ("Square", _lowest(attacks, "square"), SQUARE_MARGIN),
            ("DLR", _lowest(attacks, "pgd", "dlr"), LOSS_MARGIN),
        )
        for title, rival, limit in rivals:
            if rival is not None:
                text = (
                    f"{rival.spec.name} leaves {rival.accuracy:.1%} and {reference.spec.name} "
                    f"{reference.accuracy:.1%}, a difference of {{value}}"
                )
                flags.append(_flag(title, reference.accuracy - rival.accuracy, limit, text))
    for attack in attacks:
        if len(attack.after_restarts) > 1:
            change = attack.after_restarts[0] - attack.after_restarts[-1]
            text = f"restarts of {attack.spec.name} take {{value}} off"
            flags.append(_flag(f"restarts of {attack.spec.name}", change, RESTART_MARGIN, text))
    if large_eps_accuracy is not None:
        text = f"accuracy at eps = {LARGE_EPS:g} is {{value}}, and guessing gives {chance:.1%}"
        flags.append(_flag("large eps", large_eps_accuracy, chance, text))
    for scale, drop in (scale_drops or {}).items():
        text = f"PGD on {scale:g} times the logits takes another {{value}} off"
        flags.append(_flag(f"logit scale {scale:g}", drop, SCALE_MARGIN, text))
    return tuple(flags)


def reference_pgd(attacks: Sequence[AttackResult]) -> AttackResult | None:
    """The strongest cross-entropy PGD of a suite."""
    return _lowest(attacks, "pgd", "ce")


def _flag(name: str, value: float, limit: float, text: str) -> MaskingFlag:
    raised = value > limit + 1e-9
    verdict = "gradients look masked" if raised else "as expected"
    reason = f"{text.format(value=f'{value:.1%}')}: {verdict} (limit {limit:.1%})"
    return MaskingFlag(name, raised, value, limit, reason)


def _lowest(attacks: Sequence[AttackResult], kind: str, loss: str | None = None) -> AttackResult | None:
    found = [attack for attack in attacks if attack.spec.kind == kind and loss in (None, attack.spec.loss)]
    return min(found, key=lambda attack: attack.accuracy, default=None)
