"""Certified training as an objective of the one training loop: natural at first, then on bounds over a growing ball.

    loss = CE                                          while eps = 0
    loss = kappa CROWN-IBP + (1 - kappa) IBP           as eps grows; kappa falls from 1 to 0, or is 1 throughout

BatchNorm uses the statistics of the clean batch in the bounds, and keeps its running ones by a clean pass.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flatlab import checks
from flatlab.bounds.engine import Bounds
from flatlab.bounds.graph import Program
from flatlab.bounds.losses import EpsSchedule, fused_ce, robust_ce
from flatlab.bounds.sets import Box, LpBall
from flatlab.bounds.weights import weight_balls
from flatlab.models import Stacked
from flatlab.train import Objective

KINDS = ("ibp", "fused", "crown-ibp")


class Captured(Objective):
    """An objective that keeps what was captured of the model, once for each mode."""

    stacks = False  # networks are certified one at a time
    full_precision = True  # bounds in half precision prove nothing

    def program(self, model: nn.Module, x: Tensor) -> Program:
        """The captured model, with x as the example if it has to be captured."""
        programs: dict[bool, tuple[nn.Module, Program]] = self.__dict__.setdefault("_programs", {})
        kept = programs.get(model.training)
        if kept is None or kept[0] is not model:
            programs[model.training] = kept = (model, Program(model, x))
        return kept[1]


@dataclass(eq=False)
class CertifiedTraining(Captured):
    """Train on a certified upper bound of the worst-case cross-entropy.

    Args:
        eps: radius of the ball around each input, in the units of inputs in [0, 1]; 0 leaves inputs alone.
        kind: "ibp", "fused" (CROWN-IBP with loss fusion) or "crown-ibp" (one row for each other class).
        p: of the ball, 1, 2 or inf.
        clip: range of valid inputs, or None.
        schedule: of the radii; its own `eps` does not matter, as shares of it are used. None for the default ramp.
        mix: let kappa fall to 0 as the radius grows; otherwise it stays 1.
        weight_eps: radius of an L2 ball around each weight matrix, on the same ramp; 0 leaves weights alone.
        weight_names: of the parameters in balls; None for the weights of all linear layers and convolutions.
        relu: lower slope of ReLUs.

    Raises:
        ValueError: both radii are 0, or an option is out of range.
    """

    eps: float = 0.0
    kind: str = "fused"
    p: float = math.inf
    clip: tuple[float, float] | None = (0.0, 1.0)
    schedule: EpsSchedule | None = None
    mix: bool = True
    weight_eps: float = 0.0
    weight_names: Sequence[str] | None = None
    relu: str = "adaptive"

    def __post_init__(self) -> None:
        checks.radius(self.eps)
        checks.nonnegative("weight_eps", self.weight_eps)
        checks.one_of("kind", self.kind, KINDS)
        if self.eps == 0 and self.weight_eps == 0:
            raise ValueError("eps and weight_eps are both 0: nothing would be certified; give one of them")

    @property
    def ramp(self) -> EpsSchedule:
        """The schedule in use."""
        return self.schedule or EpsSchedule(1.0)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step_fraction: float = 1.0) -> Tensor:
        """The mean loss over the batch."""
        if isinstance(model, Stacked):
            raise ValueError('networks are certified one at a time: train the seeds with strategy="sequential"')
        share = self.ramp(step_fraction) / self.ramp.eps
        if share == 0:
            return F.cross_entropy(model(x), y)
        if any(isinstance(m, _BatchNorm) for m in model.modules()):
            with torch.no_grad():
                model(x)  # moves BatchNorm's running statistics
        bounds = Bounds(self.program(model, x), x, self.sets(model, x, share), relu=self.relu)
        return certified_loss(bounds, y, self.kind, share, mix=self.mix)

    def sets(self, model: nn.Module, x: Tensor, share: float = 1.0) -> dict[int | str, Box]:
        """The perturbation sets at a share of the full radii."""
        found: dict[int | str, Box] = {}
        if self.eps:
            found[0] = LpBall(x, share * self.eps, self.p, clip=self.clip)
        if self.weight_eps:
            found |= weight_balls(model, share * self.weight_eps, names=self.weight_names)
        return found


def certified_loss(bounds: Bounds, y: Tensor, kind: str, share: float, *, mix: bool) -> Tensor:
    """The mean certified cross-entropy of a batch.

    Args:
        y: labels (B,).
        kind: "ibp", "fused" or "crown-ibp".
        share: of the full radius, in (0, 1].
        mix: with the weight 1 - share on CROWN-IBP, and the rest on IBP.
    """
    kappa = (1 - share if mix else 1.0) if kind != "ibp" else 0.0
    if kappa < 1e-5:
        return robust_ce(bounds, y, method="ibp").mean()
    if kind == "fused":
        return fused_ce(bounds, y, kappa=kappa).mean()
    return robust_ce(bounds, y, kappa=kappa).mean()
