"""What every algorithm for domain generalisation is: one network, one optimizer, and a step on a batch of each domain.

    algorithm = UDIM(model, functools.partial(torch.optim.Adam, lr=1e-3), rho=0.05)
    for _ in range(steps):
        algorithm.update([(x1, y1), (x2, y2)])      # one (x, y) for each source domain
    algorithm.predict(x)

A step makes one forward pass over the batches of all domains together, so that normalisation layers see the same
mixture under every method, and their running statistics move once, whatever a method does besides. Means over domains
weigh domains alike; means over rows (ERM and the SAM family) weigh rows alike. Both agree for batches of one size.
"""

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from flatlab import checks
from flatlab.modes import evaluating
from flatlab.optim.two_pass import TwoPass

OptimizerLike = Optimizer | Callable[..., Optimizer]
Minibatches = Sequence[tuple[Tensor, Tensor]]


class Batch(NamedTuple):
    """The minibatches of all domains, one after the other: x (N, ...), y (N,) in int64, and the rows of each domain."""

    x: Tensor
    y: Tensor
    sizes: list[int]


@dataclass(eq=False, repr=False)
class Algorithm(ABC):
    """A way to train `model` on several source domains. A subclass is a dataclass: its fields are its own options.

    `update` leaves train and eval flags as they are: they say which layers use the statistics of the batch.

    Args:
        model: logits (N, C) are model.classifier(model.featurizer(x)), and the classifier is an nn.Linear.
        optimizer: an instance, over parameters of `model`, or a factory, called with those that require gradients.
        seed: of what the method itself draws.

    Raises:
        TypeError: a model without `.featurizer` or `.classifier`, or an optimizer that is none.
        ValueError: an option out of range, or an optimizer of other parameters.
    """

    model: nn.Module
    optimizer: OptimizerLike
    _: KW_ONLY
    seed: int = 0

    neutral: ClassVar[Mapping[str, Any]] = {}
    """The options with which a step is that of ERM."""

    memory: ClassVar[tuple[str, ...]] = ()
    """Names of the tensors (or None) that live from step to step, besides those of the network and the optimizer."""

    min_rows: ClassVar[int] = 1
    """Rows that each domain's minibatch must have."""

    def __post_init__(self) -> None:
        check_model(self.model)
        checks.at_least("seed", self.seed, 0)
        self.trained = self.model
        self.steps = 0
        self.parameters = [p for p in self.trained.parameters() if p.requires_grad]
        self.optimizer = self._optimizer = self._wrapped(self._given())

    def update(self, minibatches: Minibatches) -> dict[str, float]:
        """One step on one minibatch (x, y) of each source domain: x (N, ...) floating, y (N,) labels in 0..C-1.

        Returns:
            "loss", before the step, and what the method reports besides.

        Raises:
            ValueError: no minibatches, too few rows, shapes that differ, labels out of range.
            TypeError: integer inputs; use x.float() / 255.
        """
        values = self._step(self._join(minibatches))
        self.steps += 1
        together = torch.stack([value.detach().double() for value in values.values()])  # one wait for the device
        return dict(zip(values, together.tolist(), strict=True))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the optimizer: a schedule sets their "lr"."""
        return self._optimizer.param_groups

    def predict(self, x: Tensor) -> Tensor:
        """Logits (N, C) of inputs (N, ...), in eval mode and without a graph; flags are left as they were."""
        with evaluating(self.model), torch.no_grad():
            return self.model(x)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on, besides the options: weights, optimizer, count of steps, memory."""
        kept = {name: getattr(self, name) for name in self.memory}
        return {
            "model": {name: value.clone() for name, value in self.trained.state_dict().items()},
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),  # torch hands out the live tensors
            "steps": self.steps,
            "memory": {name: value.clone() for name, value in kept.items() if value is not None},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` of an algorithm of this class returned; ValueError for another one."""
        if unknown := sorted(set(state["memory"]) - set(self.memory)):
            raise ValueError(
                f"the state holds {', '.join(unknown)}, which {type(self).__name__} does not know: "
                "load it into the algorithm that saved it"
            )
        self.trained.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]
        for name in self.memory:
            value = state["memory"].get(name)
            setattr(self, name, None if value is None else value.clone())

    @classmethod
    def own_options(cls) -> dict[str, Any]:
        """The options of the method, with their defaults."""
        given = {field.name for field in dataclasses.fields(Algorithm)}
        return {field.name: field.default for field in dataclasses.fields(cls) if field.name not in given}

    @abstractmethod
    def _step(self, batch: Batch) -> dict[str, Tensor]:
        """Change the weights; scalars to report, "loss" first."""

    def _wrapped(self, optimizer: Optimizer) -> Optimizer:
        """The optimizer that the method steps, made of the one that was given."""
        return optimizer

    def _given(self) -> Optimizer:
        """The optimizer that was given or made by the factory that was, checked."""
        made = self.optimizer
        if not isinstance(made, Optimizer) and callable(made):
            made = made(self.parameters)
        if not isinstance(made, Optimizer):
            raise TypeError(f"optimizer must be a torch optimizer or a factory of one, got {made!r}")
        if isinstance(made, TwoPass):
            raise ValueError(
                f"optimizer is {type(made).__name__}, which needs two gradients a step: give its base optimizer, and "
                "take the algorithm of that name"
            )
        held = {id(p) for group in made.param_groups for p in group["params"]}
        if not held <= {id(p) for p in self.trained.parameters()}:
            raise ValueError(
                "optimizer holds parameters that are not the model's: make it of model.parameters(), or give a factory"
            )
        return made

    def _draws(self) -> np.random.Generator:
        """The random numbers of this step: they depend on the seed and the number of the step alone."""
        return np.random.default_rng([self.seed, self.steps])

    def _join(self, minibatches: Minibatches) -> Batch:
        if len(minibatches) == 0:
            raise ValueError("minibatches is empty: give one (x, y) for each source domain")
        for index, (x, y) in enumerate(minibatches):
            if len(x) < self.min_rows:
                raise ValueError(
                    f"minibatch {index} has {len(x)} rows, and {type(self).__name__} needs at least {self.min_rows} "
                    "of each domain: raise batch_size"
                )
            checks.labels(y, len(checks.inputs(x, box=False)))
            if x.shape[1:] != minibatches[0][0].shape[1:]:
                first = tuple(minibatches[0][0].shape[1:])
                raise ValueError(f"minibatch {index} has inputs of shape {tuple(x.shape[1:])}, minibatch 0 of {first}")
        xs, ys = zip(*minibatches, strict=True)
        y = torch.cat(ys).long()
        checks.labels(y, len(y), classes(self.trained))
        return Batch(torch.cat(xs), y, [len(x) for x in xs])


def check_model(model: nn.Module) -> None:
    """Raise TypeError unless `model` has a module `.featurizer` and an nn.Linear as `.classifier`."""
    for name, kind in (("featurizer", nn.Module), ("classifier", nn.Linear)):
        part = getattr(model, name, None)
        if not isinstance(part, kind):
            found = "has none" if part is None else f"has a {type(part).__name__}"
            raise TypeError(
                f"model must have a .{name} that is an nn.{kind.__name__}, but {type(model).__name__} {found}: "
                "its logits are model.classifier(model.featurizer(x))"
            )


def classes(model: nn.Module) -> int:
    """How many classes the classifier of `model` tells apart."""
    return int(model.classifier.out_features)  # type: ignore[union-attr, arg-type]


def features_and_logits(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the classifier sees (N, d), and its logits (N, C)."""
    features = model.featurizer(x)  # type: ignore[operator]
    return features, model.classifier(features)  # type: ignore[operator]


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The layers of BatchNorm."""
    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]


@contextmanager
def resting_statistics(model: nn.Module) -> Iterator[None]:
    """BatchNorm in train mode still normalises by the batch, but its running statistics stay as they are.

    Nothing is copied back afterwards, which a later backward pass through these layers would refuse.
    """
    layers = [layer for layer in batch_norms(model) if layer.training and layer.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
