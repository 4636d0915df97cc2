"""Out of a sharp basin: which starts leave it, over learning rates and sharpnesses, and where theory draws the line.

The basins are those of `flatlab.test_functions.two_basins` on the line. Inside the sharp one alone the loss is a
function of sqrt(s) (x - 1), and Adam and its kin do not see the scale of a gradient: only lr sqrt(s) counts there, the
learning rate in units of the basin's width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatlab import checks, stats
from flatlab.optim.theory import cycle_size, stable_curvature
from flatlab.studies.critical_momenta.settings import CriticalMomenta, Method
from flatlab.test_functions import Surface, two_basins, two_basins_value
from flatlab.train import descend


def escape_grid(
    optimizer: Callable[..., torch.optim.Optimizer],
    rates: Sequence[float],
    sharpness: Sequence[float],
    *,
    starts: int,
    steps: int,
    seed: int,
) -> Tensor:
    """Which starts in the sharp basin end on the flat one's side, (starts, rates, sharpnesses) bool.

    A start lies at one place, in widths 1 / sqrt(s) of the basin, in every basin and for every method of one seed. All
    basins are descended side by side.

    Args:
        optimizer: as in `flatlab.train.descend`.
        rates: learning rates, each kept constant.
        sharpness: of the basins.
        starts: how many.
        steps: from each.
        seed: of the starts.
    """
    basins = [two_basins(1, s) for s in sharpness]
    at = torch.cat([b.sharp_starts(starts, generator=torch.Generator().manual_seed(seed)) for b in basins])
    each = torch.tensor(sharpness, dtype=at.dtype).repeat_interleave(starts)
    value = partial(two_basins_value, sharpness=each)
    together = Surface("two_basins", value, 1, basins[0].box, basins[0].minima)
    ends = [descend(together, at, optimizer, steps=steps, lr=lr).x for lr in rates]
    return basins[0].escaped(torch.stack(ends)).view(len(rates), len(sharpness), starts).permute(2, 0, 1)


def first_rates(left: Tensor, rates: Sequence[float]) -> Tensor:
    """The learning rate from which each start leaves each basin, as log10, (starts, sharpnesses).

    It lies between the lowest rate of the grid that takes the start out and the next lower one: the middle of the two
    is returned. A start that no rate takes out counts as leaving at one step of the grid above its end.

    Args:
        left: what `escape_grid` returns.
        rates: those of `left`, ascending.

    Raises:
        ValueError: fewer than two rates, rates that do not ascend, or another number of them than in `left`.
    """
    if len(rates) != left.shape[1] or len(rates) < 2 or list(rates) != sorted(set(rates)):
        raise ValueError(f"rates must be the {left.shape[1]} ascending ones of the grid, two at least, got {rates!r}")
    logs = torch.tensor(rates, dtype=torch.float64).log10()
    step = (logs[-1] - logs[0]) / (len(rates) - 1)
    edges = torch.cat([logs[:1] - step, logs, logs[-1:] + step])
    first = torch.where(left.any(dim=1), left.int().argmax(dim=1), len(rates))
    return (edges[first] + edges[first + 1]) / 2


def predicted_rate(method: Method, sharpness: float) -> float | None:
    """The learning rate at which the stability threshold lets an iterate circle at the basin's half width.

    Beyond it the circle leaves the part of the basin that is curved upwards, |x - 1| < 1 / sqrt(sharpness). None where
    there is no such theory: it speaks of Adam, and of critical momenta whose memory is nearly always the last items.

    Args:
        method: with Adam's usual decays.
        sharpness: of the basin.

    Raises:
        ValueError: a sharpness that is not positive.
    """
    root = checks.positive("sharpness", sharpness) ** 0.5
    if method.optimizer == "adam":
        return stable_curvature(0) / root
    if method.optimizer != "adam_cm" or "decay" in method.options:
        return None
    return 1 / (cycle_size(method.options.get("capacity", 5)) * root)


@dataclass(frozen=True, eq=False)
class Escapes:
    """Which starts leave which basins at which learning rates, for several methods.

    Attributes:
        cfg: names the rates and the sharpnesses of the grid.
        left: method -> 1 where a start left, (starts, rates, sharpnesses) float64.
    """

    cfg: CriticalMomenta
    left: dict[str, Tensor]

    @classmethod
    def run(cls, cfg: CriticalMomenta, names: Sequence[str]) -> "Escapes":
        """Over the whole grid of the settings, with starts of the first reported seed."""
        return cls(cfg, {name: leave(cfg, name, cfg.rates, cfg.starts, cfg.seeds[0]) for name in names})

    def shares(self, name: str) -> Tensor:
        """The share of starts that leave, (rates, sharpnesses)."""
        return self.left[name].mean(0)

    def predicted(self, name: str) -> list[float] | None:
        """`predicted_rate` at each sharpness, or None."""
        found = [predicted_rate(self.cfg.method(name), s) for s in self.cfg.sharpness]
        known = [rate for rate in found if rate is not None]
        return known if len(known) == len(found) else None

    def more(self, a: str, b: str) -> stats.Estimate:
        """By how much a larger share of the grid a leaves than b, over starts."""
        return _share(self.left[a].mean((1, 2)).numpy(), self.left[b].mean((1, 2)).numpy())

    def more_at(self, a: str, lr_a: float, b: str, lr_b: float) -> stats.Estimate:
        """The same of the basins alone, each method at one rate of the grid."""
        return _share(self._at(a, lr_a), self._at(b, lr_b))

    def trend(self, name: str) -> stats.Estimate:
        """By how much the share of rates that leave rises with a tenfold sharpness, over starts."""
        return stats.trend(self.left[name].mean(1).numpy(), np.log10(self.cfg.sharpness))

    def off_by(self, name: str) -> stats.Estimate:
        """log10 of the rate from which a start leaves over the predicted one, for two one-sided tests.

        Raises:
            ValueError: a method without a prediction.
        """
        predicted = self.predicted(name)
        if predicted is None:
            raise ValueError(f"nothing predicts from which rate {name!r} leaves")
        found = first_rates(self.left[name].bool(), self.cfg.rates).mean(1).numpy()
        return stats.equivalence(found, np.full(len(found), np.log10(predicted).mean()))

    def _at(self, name: str, lr: float) -> NDArray[np.float64]:
        made: NDArray[np.float64] = self.left[name][:, self.cfg.rates.index(lr)].mean(1).numpy()
        return made


def leave(cfg: CriticalMomenta, name: str, rates: Sequence[float], starts: int, seed: int) -> Tensor:
    """`escape_grid` of a method of the settings over all of their sharpnesses, as float64.

    Args:
        cfg: the settings.
        name: of the method.
        rates, starts, seed: as in `escape_grid`.
    """
    options: dict[str, Any] = {"starts": starts, "steps": cfg.toy_steps, "seed": seed}
    return escape_grid(cfg.factory(name), rates, cfg.sharpness, **options).double()


def escape_score(cfg: CriticalMomenta) -> Callable[[str, dict[str, Any], tuple[int, ...]], list[float]]:
    """For `flatlab.train.sweep`: the share of 128 starts and all basins that do not end in a leave."""

    def score(name: str, options: dict[str, Any], seeds: tuple[int, ...]) -> list[float]:
        return [1 - leave(cfg, name, (options["lr"],), 128, seed).mean().item() for seed in seeds]

    return score


_share = partial(stats.paired_difference, support=(0, 1))
