"""What an objective may tell the training loop."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LossFunction = Callable[[nn.Module, Tensor, Any, float], Tensor]


class Objective(ABC):
    """What is minimised: `objective(model, x, y, step_fraction)` is the mean loss over a batch, a scalar.

    Everything else has a default, so that a subclass says only what is special about it. A plain function of the same
    arguments is an objective with all of the defaults.

    A checkpoint knows its objective by the code of its class and by its attributes, without those that `state_dict`
    names; of a dataclass by the fields that are compared (`field(compare=False)` leaves one out).
    """

    stacks: ClassVar[bool] = True
    """Whether S stacked networks can be trained on it side by side: S times the mean is the sum of their losses."""

    full_precision: ClassVar[bool] = False
    """True where bfloat16 would drown the objective: bounds, second derivatives, small differences."""

    @property
    def replays(self) -> int:
        """How often the training loop should take a step on the same batch."""
        return 1

    @abstractmethod
    def __call__(self, model: nn.Module, x: Tensor, y: Any, step_fraction: float = 1.0) -> Tensor:
        """The mean loss over the batch.

        Args:
            model: in training.
            x: inputs (N, ...); of S stacked networks, S blocks of rows, one after the other.
            y: what the data set holds beside x, by row: targets (N, ...), a tuple of such tensors, or None.
            step_fraction: fraction of the training done so far, in [0, 1].
        """

    def seeded(self, seeds: int | Sequence[int], device: torch.device | str = "cpu") -> Self:
        """The objective to train with: a copy with a fresh random generator per seed, if it draws any numbers."""
        return self

    def parameters(self) -> Sequence[nn.Parameter]:
        """What is trained beside the model's weights; with S stacked networks their first axis is S."""
        return ()

    def state_dict(self) -> Mapping[str, Any]:
        """What its next value depends on besides its arguments and settings; it becomes part of checkpoints."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (nothing to restore by default)
        """Continue from what `state_dict` returned."""


@dataclass(frozen=True, eq=False, repr=False)
class PlainFunction(Objective):
    """A plain function as an objective."""

    func: LossFunction

    def __call__(self, model: nn.Module, x: Tensor, y: Any, step_fraction: float = 1.0) -> Tensor:
        return self.func(model, x, y, step_fraction)

    def __repr__(self) -> str:
        return self.func.__name__ if isinstance(self.func, FunctionType) else repr(self.func)


def as_objective(given: Objective | LossFunction) -> Objective:
    """`given` itself, or a plain function as an objective.

    Raises:
        TypeError: an object that has some of an objective's attributes without being one: they would not be heard.
    """
    if isinstance(given, Objective):
        return given
    unheard = [name for name in vars(Objective) if not name.startswith("_") and hasattr(given, name)]
    if unheard or not callable(given):
        raise TypeError(
            f"{type(given).__name__} has {', '.join(unheard) or 'no __call__'}, but is no Objective: derive it from "
            "flatlab.train.Objective"
        )
    return PlainFunction(given)


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor, step_fraction: float = 1.0) -> Tensor:
    """The plain objective: mean cross-entropy, in nats; its arguments are those of `Objective`."""
    return F.cross_entropy(model(x), y)


def next_token(model: nn.Module, x: Tensor, y: Tensor, step_fraction: float = 1.0) -> Tensor:
    """The objective of a language model: mean cross-entropy over all positions of codes x and next codes y, (N, T).

    Its other arguments are those of `Objective`.
    """
    return F.cross_entropy(model(x).flatten(0, -2), y.flatten())
