"""A loss as an objective of `flatlab.train`: `fit(net, data, objective(MECOLoss(q)), recipe, seeds=...)`."""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from flatlab.ebm.base import EnergyLoss, LossOutput
from flatlab.ebm.noise import NoiseLike
from flatlab.ebm.tilted import TiltedModel
from flatlab.models import Stacked
from flatlab.rng import SeedGenerators
from flatlab.train import Objective


@dataclass(eq=False, repr=False)
class EnergyObjective(Objective):
    """What `objective` returns: the mean loss over the networks, each with draws and a running log Z of its own.

    Attributes:
        loss: as given; training uses fresh copies.
        base, cap: of the model, see `objective`.
        watch: see `objective`.
    """

    loss: EnergyLoss
    _: KW_ONLY
    base: NoiseLike | None = None
    cap: float | None = None
    watch: Callable[[LossOutput], None] | None = field(default=None, compare=False)

    full_precision = True

    def __post_init__(self) -> None:
        self.rng = SeedGenerators(0)

    def __repr__(self) -> str:
        """The settings, without addresses in memory."""
        settings = f"loss={self.loss!r}, base={self.base!r}, cap={self.cap!r}"
        return re.sub(r" at 0x[0-9a-fA-F]+", "", f"{type(self).__name__}({settings})")

    def __call__(self, model: nn.Module, x: Tensor, y: Any = None, step_fraction: float = 1.0) -> Tensor:
        networks = model.count if isinstance(model, Stacked) else 1
        if networks != len(self.rng):
            raise ValueError(
                f"the model holds {networks} network(s), the objective draws for {len(self.rng)}: train with a copy by "
                "seeded(seeds), one seed a network"
            )
        f = TiltedModel(model, self.base, cap=self.cap) if self.base is not None else _OneLogit(model)
        out = self.loss.compute(f, x, self.rng, networks)
        if self.watch is not None:
            self.watch(out.each(Tensor.detach))
        return out.loss.mean()

    def parameters(self) -> list[nn.Parameter]:
        return self.loss.parameters()

    def seeded(self, seeds: int | Sequence[int], device: torch.device | str = "cpu") -> Self:
        made = copy.copy(self)
        made.rng = SeedGenerators(seeds, device)
        made.loss = self.loss.fresh(len(made.rng), device)
        return made

    def state_dict(self) -> dict[str, Tensor]:
        generators = {f"rng.{name}": value for name, value in self.rng.state_dict().items()}
        return generators | {f"loss.{name}": value for name, value in self.loss.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"rng": {}, "loss": {}}
        for name, value in state.items():
            whose, _, rest = name.partition(".")
            if whose not in parts:
                raise ValueError(f"the state has an entry {name}, which {type(self).__name__} does not know")
            parts[whose][rest] = value
        self.rng.load_state_dict(parts["rng"])
        self.loss.load_state_dict({name: value.to(self.rng.device) for name, value in parts["loss"].items()})


class _OneLogit(nn.Module):
    """A network with one output, (N, 1) or (N,), as an energy (N,)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        values = self.net(x)
        return values.squeeze(1) if values.ndim == 2 and values.shape[1] == 1 else values


def objective(
    loss: EnergyLoss,
    *,
    base: NoiseLike | None = None,
    cap: float | None = None,
    watch: Callable[[LossOutput], None] | None = None,
) -> EnergyObjective:
    """What `train.fit` and `train.fit_seeds` take; a loss's learned log Z is trained with the networks.

    Args:
        loss: any of this package.
        base: makes the trained network g the tilt of a density, f = log base + g (`TiltedModel(net, base, cap=cap)`
            afterwards); None trains f itself.
        cap: of the tilt, or None.
        watch: called with the `LossOutput` (S,) of each step, to record log Z and effective draws.
    """
    return EnergyObjective(loss, base=base, cap=cap, watch=watch)
