"""Optimizers by name, so that a preset can say which one trains its networks.

Each entry says what a caller must know to use the optimizer: whether its step runs the closure twice, and whether it
needs to be told that networks are stacked. Factories are called as torch's classes are, factory(params, lr=lr, ...), so
`info(name).factory` is what `flatlab.train.Recipe` takes as `optimizer`.
"""

import fnmatch
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch.optim import Optimizer

from flatlab import checks
from flatlab.optim.adam_cm import AdamCG, AdamCM
from flatlab.optim.normalized_sgd import NormalizedSGD
from flatlab.optim.sam import ASAM, GSAM, SAGM, SAM
from flatlab.optim.sgd_cm import SGDCG, SGDCM
from flatlab.optim.stacked_adam import StackedAdam

__all__ = ["OptimizerInfo", "info", "list_optimizers", "make_optimizer"]

# The options of the authors' published package for critical momenta, and what they are called here.
_THEIR_NAMES = {"topC": "capacity", "critical_test": "policy", "synced": "norm"}


@dataclass(frozen=True)
class OptimizerInfo:
    """What is known about an optimizer.

    Attributes:
        name: what `make_optimizer` calls it.
        factory: makes one when called as factory(params, lr=lr, **options); options in `defaults` may be given too.
        family: "torch" (torch's own), "memory" (with critical gradients or momenta), "sharpness" (seeks flat minima),
            "normalized" (steps of one length) or "stacked" (a learning rate for each of S stacked networks).
        description: one line.
        two_pass: `step` needs a closure and runs it twice.
        stacks: takes `networks=S`, and must be given it where S networks are stacked in one module. Torch's own act on
            every element alone, so they need no such option.
        defaults: options that this name sets, beyond those of the class.
    """

    name: str
    factory: Callable[..., Optimizer]
    family: str
    description: str
    two_pass: bool
    stacks: bool
    defaults: Mapping[str, Any]


def make_optimizer(name: str, params: Iterable[Any], **options: Any) -> Optimizer:
    """The optimizer called `name` over `params`.

    Args:
        name: one of `list_optimizers()`.
        params: tensors, parameter groups or named parameters, as torch's optimizers take them.
        **options: keyword options of the optimizer's class.

    Raises:
        ValueError: the name is unknown, or an option is out of its range.
        TypeError: the class has no such option.
    """
    entry = info(name)
    for theirs, ours in _THEIR_NAMES.items():
        if theirs in options:
            raise TypeError(f"optimizer {name!r} has no option {theirs!r}; it is called {ours!r} here")
    return entry.factory(params, **options)


def list_optimizers(pattern: str = "*") -> tuple[str, ...]:
    """Names that match a shell pattern such as "*sam*", in the order of the registry."""
    return tuple(name for name in _REGISTRY if fnmatch.fnmatchcase(name, pattern))


def info(name: str) -> OptimizerInfo:
    """The entry of one optimizer; ValueError with the nearest name if there is none."""
    return _REGISTRY[checks.one_of("optimizer", name, _REGISTRY)]


def _entry(name: str, cls: type[Optimizer], family: str, description: str, **defaults: Any) -> OptimizerInfo:
    factory: Callable[..., Optimizer] = cls
    stacks = bool(getattr(cls, "stacks", False))
    if defaults:
        factory = functools.partial(cls, **defaults)
        factory.__dict__["stacks"] = stacks  # what one can ask of the class can be asked of the partial too
    return OptimizerInfo(name, factory, family, description, family == "sharpness", stacks, MappingProxyType(defaults))


_ENTRIES = (
    _entry("sgd", torch.optim.SGD, "torch", "stochastic gradient descent, with momentum if asked for"),
    _entry("adam", torch.optim.Adam, "torch", "Adam"),
    _entry("adamw", torch.optim.AdamW, "torch", "Adam with decoupled weight decay"),
    _entry("radam", torch.optim.RAdam, "torch", "Adam with a rectified second moment"),
    _entry("nadam", torch.optim.NAdam, "torch", "Adam with Nesterov momentum"),
    _entry("rmsprop", torch.optim.RMSprop, "torch", "gradients divided by their root mean square"),
    _entry("adagrad", torch.optim.Adagrad, "torch", "gradients divided by the root of their summed squares"),
    _entry("adam_cm", AdamCM, "memory", "Adam with a memory of critical momenta"),
    _entry("adam_cg", AdamCG, "memory", "Adam with a memory of critical gradients"),
    _entry("sgd_cm", SGDCM, "memory", "SGD with a memory of critical momenta"),
    _entry("sgd_cg", SGDCG, "memory", "SGD with a memory of critical gradients"),
    _entry("nadam_cm", AdamCM, "memory", "Adam with Nesterov momentum and a memory of momenta", nesterov=True),
    _entry("adam_c0", AdamCM, "memory", "AdamCM without its memory: Adam whose v comes from m squared", capacity=0),
    _entry("sam", SAM, "sharpness", "sharpness-aware minimization over SGD"),
    _entry("asam", ASAM, "sharpness", "adaptive sharpness-aware minimization over SGD"),
    _entry("gsam", GSAM, "sharpness", "surrogate-gap sharpness-aware minimization over SGD"),
    _entry("sagm", SAGM, "sharpness", "sharpness-aware gradient matching over SGD"),
    _entry("sam_adam", SAM, "sharpness", "sharpness-aware minimization over Adam", base_optimizer=torch.optim.Adam),
    _entry("sam_adam_cm", SAM, "sharpness", "sharpness-aware minimization over AdamCM", base_optimizer=AdamCM),
    _entry("normalized_sgd", NormalizedSGD, "normalized", "steps of length lr along the gradient, however steep"),
    _entry("stacked_adam", StackedAdam, "stacked", "Adam with a learning rate for each of S stacked networks"),
)
_REGISTRY = {entry.name: entry for entry in _ENTRIES}
