"""Algorithms by name."""

from typing import Any

from flatlab import checks
from flatlab.dg.asam import ASAM
from flatlab.dg.base import Algorithm
from flatlab.dg.coral import CORAL
from flatlab.dg.erm import ERM
from flatlab.dg.fishr import Fishr
from flatlab.dg.groupdro import GroupDRO
from flatlab.dg.gsam import GSAM
from flatlab.dg.irm import IRM
from flatlab.dg.mixup import Mixup
from flatlab.dg.mmd import MMD
from flatlab.dg.sagm import SAGM
from flatlab.dg.sam import SAM
from flatlab.dg.swad import SWAD
from flatlab.dg.udim import UDIM
from flatlab.dg.vrex import VREx

_CLASSES: tuple[type[Algorithm], ...] = (
    ERM,
    SAM,
    ASAM,
    GSAM,
    SAGM,
    GroupDRO,
    IRM,
    VREx,
    CORAL,
    MMD,
    Mixup,
    Fishr,
    SWAD,
    UDIM,
)
_REGISTRY = {algorithm.__name__: algorithm for algorithm in _CLASSES}

ALGORITHMS = tuple(_REGISTRY)
"""The names that `get_algorithm` knows."""


def get_algorithm(name: str) -> type[Algorithm]:
    """The class of that name; ValueError with the nearest one if there is none."""
    return _REGISTRY[checks.one_of("algorithm", name, _REGISTRY)]


def default_hparams(name: str) -> dict[str, Any]:
    """The options of that algorithm alone, with their defaults: no learning rate, no batch size, no seed."""
    return get_algorithm(name).own_options()
