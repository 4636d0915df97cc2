"""Certified training as an objective of the one training loop: natural at first, then on bounds over growing sets.

    loss = CE                                          while the ramp is 0
    loss = kappa CROWN-IBP + (1 - kappa) IBP           as it rises; kappa falls from 1 to 0, or is 1 throughout

A callable gives the sets: `Balls` around inputs and weights, `flatlab.bounds.ExchangedWords`, or one of your own.
BatchNorm uses the statistics of the clean batch in the bounds, and keeps its running ones by a clean pass.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flatlab import checks
from flatlab.bounds.bounds import Bounds
from flatlab.bounds.capture import Program
from flatlab.bounds.losses import fused_ce, robust_ce
from flatlab.bounds.sets import Box, LpBall
from flatlab.bounds.weights import weight_balls
from flatlab.models import Stacked
from flatlab.train import Objective, Ramp

KINDS = ("ibp", "fused", "crown-ibp")


@dataclass(frozen=True, eq=False)
class Perturbed:
    """What a model is given, and what may happen to it.

    Attributes:
        x: the clean input of the model, (B, ...).
        region: the set around it; None if it stays.
        weights: balls around parameters, by name.
    """

    x: Tensor
    region: Box | None = None
    weights: Mapping[str, LpBall] = field(default_factory=dict)


Perturbation = Callable[[nn.Module, Tensor, float], Perturbed]
"""(model, batch, share of the full size in [0, 1]) -> what the model is given, and the sets around it."""


@dataclass(frozen=True)
class Balls:
    """A ball around each input, around each weight matrix, or both.

    Args:
        eps: radius of the ball around each input, in the units of inputs in [0, 1]; 0 leaves inputs alone.
        p: of that ball, 1, 2 or inf.
        clip: range of valid inputs, or None.
        weight_eps: radius of an L2 ball around each weight matrix; 0 leaves weights alone.
        weight_names: of the parameters in balls; None for the weights of all linear layers and convolutions.

    Raises:
        ValueError: a radius out of range, or both are 0.
    """

    eps: float = 0.0
    p: float = math.inf
    clip: tuple[float, float] | None = (0.0, 1.0)
    weight_eps: float = 0.0
    weight_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        checks.radius(self.eps)
        checks.nonnegative("weight_eps", self.weight_eps)
        if self.eps == 0 and self.weight_eps == 0:
            raise ValueError("eps and weight_eps are both 0: nothing would be certified; give one of them")

    def __call__(self, model: nn.Module, x: Tensor, share: float) -> Perturbed:
        """The balls around a batch and the model's present weights, of radius share * eps and share * weight_eps."""
        if share == 0:
            return Perturbed(x)
        region = LpBall(x, share * self.eps, self.p, clip=self.clip) if self.eps else None
        weights = weight_balls(model, share * self.weight_eps, names=self.weight_names) if self.weight_eps else {}
        return Perturbed(x, region, weights)


@dataclass(eq=False)
class CertifiedTraining(Objective):
    """Train on a certified upper bound of the worst-case cross-entropy.

    Args:
        perturbation: what may happen, such as `Balls(0.1)`.
        kind: "ibp", "fused" (CROWN-IBP with loss fusion) or "crown-ibp" (one row for each other class).
        ramp: of the sets' size, as a share of its own full value.
        mix: let kappa fall from 1 to 0 as the sets grow; otherwise it stays 1.
        relu: lower slope of ReLUs.

    Raises:
        ValueError: an unknown kind.
    """

    stacks: ClassVar[bool] = False  # networks are certified one at a time
    full_precision: ClassVar[bool] = True  # bounds in half precision prove nothing

    perturbation: Perturbation
    kind: str = "fused"
    ramp: Ramp = field(default_factory=Ramp)
    mix: bool = True
    relu: str = "adaptive"
    _programs: dict[bool, tuple[nn.Module, Program]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        checks.one_of("kind", self.kind, KINDS)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step_fraction: float = 1.0) -> Tensor:
        """The mean loss over the batch, in nats.

        Args:
            model: a classifier, of what `perturbation` makes of x.
            x: the batch, (B, ...).
            y: labels (B,).
            step_fraction: share of the training done, in [0, 1].
        """
        if isinstance(model, Stacked):
            raise ValueError('networks are certified one at a time: train the seeds with strategy="sequential"')
        share = self.ramp.share(step_fraction)
        at = self.perturbation(model, x, share)
        if share == 0:
            return F.cross_entropy(model(at.x), y)
        if any(isinstance(m, _BatchNorm) for m in model.modules()):
            with torch.no_grad():
                model(at.x)  # moves BatchNorm's running statistics
        sets = None if at.region is None else {0: at.region}
        bounds = Bounds(self._program(model, at.x), at.x, sets, weights=at.weights, relu=self.relu)
        kappa = (1 - share if self.mix else 1.0) if self.kind != "ibp" else 0.0
        if kappa < 1e-5:
            return robust_ce(bounds, y, method="ibp").mean()
        if self.kind == "fused":
            return fused_ce(bounds, y, kappa=kappa).mean()
        return robust_ce(bounds, y, kappa=kappa).mean()

    def _program(self, model: nn.Module, x: Tensor) -> Program:
        """The captured model, once for each mode, with x as the example if it has to be captured."""
        kept = self._programs.get(model.training)
        if kept is None or kept[0] is not model:
            self._programs[model.training] = kept = (model, Program(model, x))
        return kept[1]
