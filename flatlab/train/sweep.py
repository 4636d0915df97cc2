"""Tuning on a grid: learning rates and other options of several methods, compared at their own best.

    def score(method, options, seeds):                      # one validation loss per seed
        models = fit_seeds(network, train, next_token, recipe(method, **options), seeds=seeds)
        return [evaluate_loss(model, held.x, held.y).loss for model in models]

    found = sweep(score, {"adam": {"lr": [0.01, 0.03, 0.1]}, "sgd": {"lr": [0.1, 0.3, 1.0]}}, seeds=[0, 1], extend=3)
    found.best["adam"], found.at_edge, found.fresh(range(10, 15))

With `whole=True` a score gets all points at once, so that they can train as one stack: `flatlab.optim.StackedAdam` has
a learning rate for each network.

A method whose best value lies at the end of its grid is not tuned: it may be better beyond, and a comparison with it
favours the method whose grid happens to fit. `extend` lets such grids grow; `at_edge` names those that remain. The
seeds of the sweep chose the options, so results for them are too good: `fresh` refuses to report on them.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from flatlab import checks
from flatlab.train.stepper import TrainingDiverged

Score = Callable[[str, dict[str, Any], tuple[int, ...]], Iterable[Any]]
WholeScore = Callable[[str, list[dict[str, Any]], tuple[int, ...]], Iterable[Iterable[Any]]]
_UNEVEN = 0.2  # how far the steps of a geometric grid may differ: 1, 3, 10 and 1, 2, 5, 10 are geometric


class Trial(NamedTuple):
    """One point of a grid: the options of a method, and its scores in the order of the sweep's seeds."""

    method: str
    options: dict[str, Any]
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds; NaN if any run failed."""
        return math.fsum(self.scores) / len(self.scores) if all(map(math.isfinite, self.scores)) else math.nan


@dataclass(frozen=True)
class Sweep:
    """What a sweep tried, and what it found.

    Attributes:
        trials: every point tried, method by method; points that extend a grid come after those given.
        seeds: of the sweep.
        maximize: whether higher scores are better.
    """

    trials: tuple[Trial, ...]
    seeds: tuple[int, ...]
    maximize: bool = False

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row a run: method, options, seed, score."""
        return [
            {"method": trial.method, "options": dict(trial.options), "seed": seed, "score": score}
            for trial in self.trials
            for seed, score in zip(self.seeds, trial.scores, strict=True)
        ]

    @property
    def best(self) -> dict[str, dict[str, Any]]:
        """Method -> its options with the best mean score; of equal ones the first tried."""
        return {method: dict(_best(trials, self.maximize).options) for method, trials in self._methods().items()}

    @property
    def at_edge(self) -> tuple[str, ...]:
        """Methods with a numeric option whose best value is the least or the largest tried: not shown to be optimal."""
        return tuple(method for method in self._methods() if self.edges(method))

    def edges(self, method: str) -> tuple[str, ...]:
        """The numeric options of `method`, of two values or more, whose best value is the least or the largest."""
        methods = self._methods()
        trials = methods[checks.one_of("method", method, methods)]
        chosen = _best(trials, self.maximize).options
        return tuple(name for name in chosen if _side([trial.options[name] for trial in trials], chosen[name]))

    def table(self) -> list[dict[str, Any]]:
        """One row a point: method, options, the mean score over the seeds, how many runs failed, whether it is best."""
        best = self.best
        return [
            {"method": trial.method}
            | trial.options
            | {
                "mean score": trial.mean,
                "failed": sum(not math.isfinite(score) for score in trial.scores),
                "best": trial.options == best[trial.method],
            }
            for trial in self.trials
        ]

    def fresh(self, seeds: Iterable[int]) -> tuple[int, ...]:
        """Return `seeds`, or raise ValueError if the sweep has used one of them."""
        wanted = tuple(int(seed) for seed in seeds)
        used = sorted(set(wanted) & set(self.seeds))
        if used:
            raise ValueError(
                f"seeds {used} chose the options and may not be reported on; take seeds outside {list(self.seeds)}"
            )
        return wanted

    def _methods(self) -> dict[str, list[Trial]]:
        found: dict[str, list[Trial]] = {}
        for trial in self.trials:
            found.setdefault(trial.method, []).append(trial)
        return found


def sweep(
    score: Score | WholeScore,
    grid: Mapping[str, Mapping[str, Sequence[Any]]],
    *,
    seeds: Iterable[int],
    maximize: bool = False,
    extend: int = 0,
    whole: bool = False,
) -> Sweep:
    """Score every combination of each method's options, and let geometric grids grow until the best is inside.

    Args:
        score: maps (method, options, seeds) to one validation score per seed, lower is better. A score that is NaN or
            infinite is a failed run, and `TrainingDiverged` fails all seeds of the point; a point with a failed run is
            never chosen.
        grid: method -> option -> values to try, such as {"adam": {"lr": [1e-3, 1e-2]}}; several options are crossed. A
            method with nothing to tune is {}.
        seeds: one or more, different; the methods are to be compared on others.
        maximize: higher scores are better.
        extend: how many values may be added to each option. While the best value of a numeric option is the least or
            the largest tried, the next one (by the mean ratio of the grid, three digits; whole numbers stay whole) is
            tried as well, crossed with the values of the other options. Only grids of at least two positive values at
            about equal ratios grow; others stay as they are.
        whole: score many points in one call: `score` maps (method, points, seeds), with a list of P option dicts, to
            one row of scores for each point, (P, S). It is called once for the grid of a method and once for each
            round that extends it; `TrainingDiverged` fails all points of the call, NaN single runs.

    Raises:
        ValueError: an empty grid, repeated seeds or values, scores that do not match the points or the seeds, or a
            method whose every point has a failed run.
    """
    runs = tuple(int(seed) for seed in seeds)
    if not runs or len(set(runs)) != len(runs):
        raise ValueError(f"seeds must be one or more different integers, got {list(runs)}")
    checks.at_least("extend", extend, 0)
    if not grid:
        raise ValueError("grid is empty: name at least one method, such as {'adam': {'lr': [1e-3, 1e-2]}}")
    axes = {method: {name: _values(method, name, given) for name, given in of.items()} for method, of in grid.items()}
    trials: list[Trial] = []
    for method, options in axes.items():
        trials += _tune(functools.partial(_run, score, method, runs, whole), options, maximize, extend)
    return Sweep(tuple(trials), runs, maximize)


def _tune(
    run: Callable[[list[dict[str, Any]]], list[Trial]], axes: dict[str, list[Any]], maximize: bool, extend: int
) -> list[Trial]:
    """All trials of one method; `axes` grows with its grid."""
    trials: list[Trial] = []
    left = dict.fromkeys(axes, extend)
    points = _crossed(axes)
    while points:
        trials += run(points)
        chosen = _best(trials, maximize).options
        points = []
        for name, values in axes.items():
            beyond = _beyond(values, chosen[name]) if left[name] else None
            if beyond is not None:
                left[name] -= 1
                values.append(beyond)
                points += _crossed({**axes, name: [beyond]})
    return trials


def _run(
    score: Callable[..., Iterable[Any]], method: str, seeds: tuple[int, ...], whole: bool, points: list[dict[str, Any]]
) -> list[Trial]:
    """The points scored, in one call if `whole`, else one by one."""
    trials = []
    for part in [points] if whole else [[options] for options in points]:
        given = [dict(options) for options in part]
        try:
            found = score(method, given, seeds) if whole else [score(method, given[0], seeds)]
            rows = [tuple(float(value) for value in row) for row in found]
        except TrainingDiverged:
            rows = [(math.nan,) * len(seeds)] * len(part)
        if len(rows) != len(part):
            raise ValueError(f"{method}: score returned {len(rows)} row(s) for {len(part)} point(s)")
        for options, row in zip(part, rows, strict=True):
            if len(row) != len(seeds):
                raise ValueError(
                    f"{method} with {options}: score returned {len(row)} value(s) for {len(seeds)} seed(s)"
                )
            trials.append(Trial(method, options, row))
    return trials


def _best(trials: Sequence[Trial], maximize: bool) -> Trial:
    finished = [trial for trial in trials if math.isfinite(trial.mean)]
    if not finished:
        tried = "; ".join(str(trial.options) for trial in trials)
        raise ValueError(
            f"every point of {trials[0].method!r} has a failed run (tried {tried}); give it other values, such as a "
            "lower learning rate"
        )
    return max(finished, key=lambda trial: trial.mean) if maximize else min(finished, key=lambda trial: trial.mean)


def _values(method: str, name: str, given: Sequence[Any]) -> list[Any]:
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"{method}: the values of {name} must be a sequence, got {given!r}; write [{given!r}]")
    values = list(given)
    if not values or any(value in values[:index] for index, value in enumerate(values)):
        raise ValueError(f"{method}: the values of {name} must be one or more different ones, got {values}")
    return values


def _crossed(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]


def _side(values: Sequence[Any], chosen: Any) -> int:
    """-1 where `chosen` is the least of several numbers, 1 where it is the largest, else 0."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not numbers or min(values) == max(values):
        return 0
    return -1 if chosen == min(values) else 1 if chosen == max(values) else 0


def _beyond(values: Sequence[Any], chosen: Any) -> float | int | None:
    """The next value of a geometric grid past the end that was chosen, if there is one."""
    side = _side(values, chosen)
    if not side or min(values) <= 0:
        return None
    numbers = sorted(values)
    ratio = (numbers[-1] / numbers[0]) ** (1 / (len(numbers) - 1))
    steps = [right / left / ratio for left, right in itertools.pairwise(numbers)]
    if max(steps) > 1 + _UNEVEN or min(steps) < 1 - _UNEVEN:
        return None
    value = float(f"{chosen * ratio**side:.3g}")
    if all(isinstance(number, int) for number in values):
        value = round(value)
    return value if value > 0 and value not in values else None
