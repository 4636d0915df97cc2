"""Training objectives that are said to make classifiers robust, one a file.

A defense is called like a loss, `defense(model, x, y, step_fraction)`, and differentiated by the caller. To add one,
write a subclass of `Defense` in a file of its own and name it in `_CLASSES`; tests/laws then puts it through the laws
that all of them obey.
"""

from dataclasses import fields

from flatlab import checks
from flatlab.defenses.base import Defense
from flatlab.defenses.bitdepth import BitDepthReduction
from flatlab.defenses.cure import Cure
from flatlab.defenses.fgsm_at import FgsmAt
from flatlab.defenses.flat_adv import FlatAdv
from flatlab.defenses.flat_grad import FlatGrad
from flatlab.defenses.flat_joint import FlatJoint
from flatlab.defenses.flat_rand import FlatRand
from flatlab.defenses.free import Free
from flatlab.defenses.gradreg import GradReg
from flatlab.defenses.jacreg import JacReg
from flatlab.defenses.jem import Jem
from flatlab.defenses.jpeg import JpegCompression
from flatlab.defenses.label_smoothing import LabelSmoothing
from flatlab.defenses.llr import Llr
from flatlab.defenses.noise import Noise
from flatlab.defenses.pgd_at import PgdAt
from flatlab.defenses.std import Std
from flatlab.defenses.trades import Trades
from flatlab.defenses.transforms import BitDepth, Jpeg
from flatlab.defenses.weat import Weat

__all__ = [
    "BitDepth",
    "Defense",
    "Jpeg",
    "available",
    "make",
]

_CLASSES: tuple[type[Defense], ...] = (
    Std,
    Noise,
    LabelSmoothing,
    FgsmAt,
    Free,
    PgdAt,
    Trades,
    Weat,
    JacReg,
    GradReg,
    Cure,
    Llr,
    Jem,
    FlatRand,
    FlatGrad,
    FlatAdv,
    FlatJoint,
    BitDepthReduction,
    JpegCompression,
)
_REGISTRY = {defense.name: defense for defense in _CLASSES}


def available() -> tuple[str, ...]:
    """The names that `make` knows."""
    return tuple(_REGISTRY)


def make(name: str, *, eps: float, seed: int = 0, **hyper: float | str | None) -> Defense:
    """The defense called `name`, with defaults tuned for 8x8 digits at eps = 0.1.

    Args:
        name: one of `available()`.
        eps: L_inf radius of the threat model, in units of the input range [0, 1].
        seed: of its random generator; a training loop replaces it by `defense.seeded(seeds, device)`.
        hyper: hyperparameters of this defense, such as `ramp` (all have it), `steps` or `weight`; see its class.

    Raises:
        ValueError: an unknown name or hyperparameter (the valid ones are listed), or a value out of bounds.
    """
    defense = _REGISTRY[checks.one_of("defense", name, _REGISTRY)]
    valid = [field.name for field in fields(defense)]
    for key in hyper:
        checks.one_of(f"hyperparameter of {name}", key, valid)
    return defense(eps=eps, **hyper).seeded(seed)  # type: ignore[arg-type]
