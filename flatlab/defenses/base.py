"""What every defense is: a training objective with its hyperparameters, its random generators and its state."""

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from flatlab import checks, modes
from flatlab.rng import SeedGenerators
from flatlab.train import Objective


@dataclass(eq=False)
class Defense(Objective):
    """A training objective `defense(model, x, y, step_fraction) -> scalar`, a mean of per-sample terms.

    A subclass is one dataclass in one file: its hyperparameters are fields, checked in `__post_init__`, and `loss`
    is its formula. All random numbers come from `self.rng`, one generator a seed. With S seeds a batch holds S
    blocks of B rows, one after the other; for a model that keeps the blocks apart (`flatlab.models.stack_models`),
    S times the objective is then the sum of the S objectives that the seeds would have alone.

    Args:
        eps: L_inf radius of the threat model, in units of the input range [0, 1]. Objectives that need no radius
            ignore it.
        ramp: fraction of the training during which the radius grows linearly from 0 to `eps`; 0 for none.
    """

    _: KW_ONLY
    eps: float
    ramp: float = 0.0

    name: ClassVar[str]
    """The name under which `make` finds the defense."""

    neutral: ClassVar[Mapping[str, float]] = {}
    """The hyperparameters with which the objective is the cross-entropy of `wrap(model)`."""

    memory: ClassVar[tuple[str, ...]] = ()
    """Names of the attributes (Tensor or None) that live from step to step, and belong to `state_dict`."""

    def __post_init__(self) -> None:
        checks.radius(self.eps)
        if checks.nonnegative("ramp", self.ramp) > 1:
            raise ValueError(f"ramp is a fraction of the training and must lie in [0, 1], got {self.ramp!r}")
        self.rng = SeedGenerators(0)

    @abstractmethod
    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """The objective at the radius `eps` that the ramp has reached."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step_fraction: float = 1.0) -> Tensor:
        """The objective of one batch, to be differentiated by the caller with respect to the parameters.

        Leaves `.grad`, `requires_grad` and the train and eval flags of every layer as they were, also after errors.

        Args:
            model: (N, ...) in [0, 1] -> logits (N, C).
            x: inputs (N, ...) in [0, 1]; the range is not checked, since that would halt a GPU at every step.
            y: labels (N,), int64.
            step_fraction: fraction of the training done so far, in [0, 1]; only `ramp` depends on it.

        Raises:
            TypeError: integer or half-precision inputs, half-precision weights, or labels that are not integers.
            ValueError: an empty batch, labels of another length, a fraction outside [0, 1].
        """
        checks.inputs(x, box=False)
        checks.labels(y, len(x))
        for dtype in (x.dtype, modes.dtype_of(model)):
            if dtype in modes.HALF:
                raise TypeError(
                    f"{self.name} moves inputs and weights by less than {dtype} tells apart: train in float32, "
                    "inside torch.autocast if it must be fast"
                )
        return self.loss(model, x, y, self.radius_at(step_fraction))

    def wrap(self, model: nn.Module) -> nn.Module:
        """The classifier to evaluate and to attack: `model` itself, or `model` behind the defense's transform."""
        return model

    def radius_at(self, step_fraction: float) -> float:
        """The radius in use after this fraction of the training."""
        if not 0 <= step_fraction <= 1:
            raise ValueError(f"step_fraction must lie in [0, 1], got {step_fraction!r}")
        return self.eps if step_fraction >= self.ramp else self.eps * step_fraction / self.ramp

    def seeded(self, seeds: int | Sequence[int], device: torch.device | str = "cpu") -> Self:
        """A copy with the same hyperparameters, no memory, and a fresh generator per seed that draws on `device`.

        Draws made on one device are moved to the inputs' device where the two differ, which is correct and slow.
        """
        copy = dataclasses.replace(self)
        copy.rng = SeedGenerators(seeds, device)
        return copy

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, besides the hyperparameters: a flat dictionary of tensors."""
        state = {f"rng.{name}": value for name, value in self.rng.state_dict().items()}
        kept = {name: getattr(self, name) for name in self.memory}
        return state | {name: value.clone() for name, value in kept.items() if value is not None}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where the defense that gave this `state_dict` stood.

        Raises:
            ValueError: entries of another defense, or another number of seeds.
        """
        generators = {name.removeprefix("rng."): v for name, v in state.items() if name.startswith("rng.")}
        kept = {name: value for name, value in state.items() if not name.startswith("rng.")}
        if unknown := sorted(kept.keys() - set(self.memory)):
            raise ValueError(
                f"the state has entries {', '.join(unknown)}, which {type(self).__name__} does not know: "
                "load it into the defense that saved it"
            )
        self.rng.load_state_dict(generators)
        for name in self.memory:
            value = kept.get(name)
            setattr(self, name, None if value is None else value.to(self.rng.device, copy=True))
