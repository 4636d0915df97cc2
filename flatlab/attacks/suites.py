"""Which attacks an evaluation runs, as data.

"fast" is for looking, "standard" is the protocol behind every robust accuracy in the study, and "strong" adds the
targeted DLR attack, which on small networks takes off a point or two more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from flatlab import checks
from flatlab.attacks.losses import LOSSES

KINDS = ("fgsm", "pgd", "dlr_targeted", "square", "foolbox")


@dataclass(frozen=True)
class AttackSpec:
    """One attack of a suite.

    Attributes:
        name: label in reports, unique within a suite.
        kind: "fgsm", "pgd", "dlr_targeted", "square", or "foolbox" (its LinfPGD).
        steps: gradient steps per restart, each of 2.5 * eps / steps (pgd, dlr_targeted, foolbox).
        restarts: random starts (pgd); a later one runs on samples that survived the earlier ones.
        loss: "ce", "dlr" or "margin" (fgsm, pgd).
        queries: model evaluations per sample (square).
        classes: wrong classes to aim at (dlr_targeted).
    """

    name: str
    kind: str
    steps: int = 20
    restarts: int = 1
    loss: str = "ce"
    queries: int = 500
    classes: int = 9

    def __post_init__(self) -> None:
        checks.one_of("attack kind", self.kind, KINDS)
        checks.one_of("loss", self.loss, LOSSES)
        for field in ("steps", "restarts", "queries", "classes"):
            checks.at_least(f"{field} of attack {self.name!r}", getattr(self, field), 1)

    @property
    def classes_needed(self) -> int:
        """The smallest C that the attack's loss is defined for."""
        if self.kind == "dlr_targeted":
            return 4
        if self.kind == "square":
            return 2
        return {"dlr": 3, "margin": 2}.get(self.loss, 1) if self.kind in ("fgsm", "pgd") else 1

    def config(self) -> dict[str, Any]:
        """The fields, as plain values."""
        return asdict(self)


_FGSM = AttackSpec("FGSM", "fgsm")
_PGD_20 = AttackSpec("PGD-20", "pgd", steps=20)

FAST = (_FGSM, _PGD_20, AttackSpec("PGD-20 DLR", "pgd", steps=20, loss="dlr"))
STANDARD = (
    _FGSM,
    _PGD_20,
    AttackSpec("PGD-100 x3", "pgd", steps=100, restarts=3),
    AttackSpec("PGD-50 x2 DLR", "pgd", steps=50, restarts=2, loss="dlr"),
    AttackSpec("Square-500", "square", queries=500),
)
STRONG = (*STANDARD, AttackSpec("PGD-50 DLR-T", "dlr_targeted", steps=50))

SUITES: Mapping[str, tuple[AttackSpec, ...]] = MappingProxyType({"fast": FAST, "standard": STANDARD, "strong": STRONG})


def resolve(suite: str | Sequence[AttackSpec]) -> tuple[AttackSpec, ...]:
    """The specs that `suite` names or lists; ValueError if it is unknown, empty, or names an attack twice."""
    if isinstance(suite, str):
        return SUITES[checks.one_of("suite", suite, SUITES)]
    specs = tuple(suite)
    if not specs:
        raise ValueError("the suite is empty: name at least one attack")
    for spec in specs:
        if not isinstance(spec, AttackSpec):
            raise TypeError(f"a suite holds AttackSpec objects, got {type(spec).__name__}")
    names = [spec.name for spec in specs]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(f"attack {repeated!r} appears twice in the suite: give each its own name")
    return specs
