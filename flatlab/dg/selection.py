"""Which checkpoint of a run is taken, and what a run leaves behind.

    iid      the best mean accuracy on the held-out parts of the sources: training-domain validation
    oracle   the best on the held-out part of the target, which nobody has in earnest: an upper limit, not a result
    last     the final step

The names and the first two rules are DomainBed's (Gulrajani and Lopez-Paz 2021), whose oracle however takes the last
step and chooses among hyperparameters. Of equal ones the first is taken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from flatlab import checks

RULES = ("iid", "oracle", "last")
_SCORES = {"iid": "val", "oracle": "oracle", "last": "step"}

Row = dict[str, float]
"""One evaluation: "step", "loss" (mean since the one before), "val", "oracle" and "test", see `RunResult.history`."""


def select(history: Sequence[Mapping[str, Any]], rule: str) -> int | None:
    """The number of the row that `rule` takes, or None of an empty history.

    Args:
        history: rows in the order of their steps, with "step" and the score of the rule: "val" or "oracle".
        rule: one of `RULES`.
    """
    score = _SCORES[checks.one_of("rule", rule, RULES)]
    return max(range(len(history)), key=lambda index: history[index][score], default=None)


class Selection(NamedTuple):
    """What a rule takes: the step, accuracies in [0, 1], and the network as it was then, in eval mode.

    `val` is on held-out parts of the sources, `test` the mean over targets, `targets` each of them.
    """

    step: int
    val: float
    test: float
    model: nn.Module
    targets: dict[str, float]


@dataclass(frozen=True, eq=False)
class RunResult:
    """One training.

    Attributes:
        algorithm, seed, sources, targets: what was trained on, and tested.
        selected: rule -> what it takes.
        history: a row per evaluation: "step", "loss", "val" (mean over sources, held-out parts), "oracle" and "test"
            (means over targets: their held-out parts, and the rest), the same of each domain as "val/NAME", and means
            of what the algorithm reports.
        diverged: the step whose loss was no finite number, where training stopped; or None.
        ms_per_step: milliseconds by the clock of a step, evaluations not counted; None if no step was made here.
    """

    algorithm: str
    seed: int
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    selected: dict[str, Selection]
    history: list[Row]
    diverged: int | None
    ms_per_step: float | None

    def rows(self) -> list[dict[str, Any]]:
        """One row per rule and target: what a table of results is made of."""
        return [
            {
                "algorithm": self.algorithm,
                "seed": self.seed,
                "sources": "+".join(self.sources),
                "target": target,
                "rule": rule,
                "step": chosen.step,
                "val": chosen.val,
                "test": chosen.targets[target],
                "diverged": self.diverged,
                "ms_per_step": self.ms_per_step,
            }
            for rule, chosen in self.selected.items()
            for target in self.targets
        ]
