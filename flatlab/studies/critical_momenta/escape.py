"""Out of a sharp basin: which starts leave it, over learning rates and sharpnesses, and where theory draws the line.

The basins are those of `flatlab.test_functions.two_basins` on the line. Inside the sharp one alone the loss is a
function of sqrt(s) (x - 1), and Adam and its kin do not see the scale of a gradient: only lr sqrt(s) counts there, the
learning rate in units of the basin's width.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from flatlab import checks
from flatlab.optim.theory import cycle_size, stable_curvature
from flatlab.studies.critical_momenta.settings import Method
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
