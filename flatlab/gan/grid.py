"""A grid of learning rates for two players, and the comparison of arms of it on seeds that did not choose.

The best of many pairs of rates on a few seeds is better than it deserves: it was chosen for its luck as well. So a grid
is scored on seeds for selection, each arm (one rate for both, two rates, ...) chooses its pair there, and the chosen
pairs are compared on fresh seeds:

    rows = lr_grid(players, real, pairs, seeds=range(100, 103), at=[500, 2000], score=score).rows
    best = {pair for pair, _ in best_pairs(rows, "fid", seeds=range(100, 103)).values()}
    rows += lr_grid(players, real, best, seeds=range(8), at=[500, 2000], score=score).rows
    chosen = select_then_test(rows, "fid", select_seeds=range(100, 103), test_seeds=range(8))

All pairs and seeds train side by side as one stacked run where the players can be stacked. At one seed every pair of
rates starts from the same weights and sees the same batches and the same z.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.gan.ttur import TTUR
from flatlab.models.stacked import stackable
from flatlab.rng import SeedGenerators
from flatlab.train import TrainingDiverged, fingerprint, resume_training, save_training

Players = Callable[[int], tuple[nn.Module, nn.Module]]
Pair = tuple[float, float]
Run = tuple[float, float, int]
_OTHER = 1_000_003  # apart from the seeds of z
Arms = Mapping[str, Callable[[float, float], bool]]
ARMS: Arms = {
    "one rate": lambda lr_d, lr_g: lr_d == lr_g,
    "two rates": lambda lr_d, lr_g: lr_d != lr_g,
    "critic faster": lambda lr_d, lr_g: lr_d > lr_g,
    "generator faster": lambda lr_d, lr_g: lr_d < lr_g,
}
"""Parts of a grid, by what they say of (lr_d, lr_g)."""


@dataclass(frozen=True)
class Grid:
    """What a grid measured.

    Attributes:
        rows: one a run and look: lr_d, lr_g, seed, update, operations (floating-point, of training so far), diverged
            (the update at which it did, or None), and what `score` found, NaN once a run has diverged.
        sheets: (lr_d, lr_g, seed) -> the first 25 samples at the end, all from the same z.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    sheets: dict[tuple[float, float, int], Tensor] = field(default_factory=dict)


class Chosen(NamedTuple):
    """What an arm chose, and how it did: its pair, its mean on the seeds that chose, its scores on the others."""

    lr_d: float
    lr_g: float
    selected: float
    tested: tuple[float, ...]


def lr_grid(
    players: Players,
    real: Tensor,
    pairs: Iterable[Pair],
    *,
    seeds: Sequence[int],
    at: Sequence[int],
    score: Callable[[Tensor], Mapping[str, float]],
    batch_size: int = 64,
    samples: int = 1000,
    options: Mapping[str, Any] | None = None,
    side_by_side: int = 24,
    checkpoint: str | Path | None = None,
) -> Grid:
    """Train every pair of rates with every seed, and look at the samples at some updates.

    Args:
        players: makes the generator and the critic of a seed, on the device of `real`.
        real: (N, ...) in [-1, 1]; batches are drawn from it with replacement.
        pairs: (lr_d, lr_g).
        seeds: of first weights, batches and z.
        at: updates, rising, at which `score` is called; training ends with the last.
        score: maps samples (n, ...) to numbers by name.
        batch_size: rows of a batch.
        samples: n.
        options: further options of `TTUR`, such as {"loss": "wgan-gp", "n_critic": 5}.
        side_by_side: runs trained in one stack at most.
        checkpoint: stem of files that keep what is done at each look, so that a run that was stopped goes on there and
            ends with the same numbers; `score` has to be the same then.

    Raises:
        ValueError: no pairs or no seeds, updates that do not rise, a number below 1, or files of other runs.
    """
    looks = [checks.at_least("at", update, 1) for update in at]
    runs = list(dict.fromkeys((float(lr_d), float(lr_g), int(seed)) for lr_d, lr_g in pairs for seed in seeds))
    if not runs or not looks or looks != sorted(set(looks)):
        raise ValueError(f"need pairs, seeds, and updates that rise, got {len(runs)} run(s) and at={looks}")
    size = checks.at_least("side_by_side", side_by_side, 1) if all(map(stackable, players(runs[0][2]))) else 1
    found = Grid()
    for start in range(0, len(runs), size):
        stack = _Stack(
            players, real, runs[start : start + size], options or {},
            batch_size=checks.at_least("batch_size", batch_size, 1), samples=checks.at_least("samples", samples, 1),
        )  # fmt: skip
        if checkpoint is not None:
            stack.resume(Path(f"{checkpoint}.{start}.safetensors"), looks)
        for look in looks:
            stack.train(look)
            stack.look(look, score)
        found.rows.extend(stack.rows)
        found.sheets.update(zip(stack.runs, stack.sheets, strict=True))
    names = dict.fromkeys((name for row in found.rows for name in row), math.nan)
    return Grid([names | row for row in found.rows], found.sheets)


def best_pairs(
    rows: Iterable[Mapping[str, Any]], score: str, *, seeds: Iterable[int], arms: Arms = ARMS, update: int | None = None
) -> dict[str, tuple[Pair, float]]:
    """The pair of rates with the least mean score in each arm, and that mean.

    Args:
        rows: of `lr_grid`; lower scores are better.
        score: name of the number in a row.
        seeds: on which the mean is taken; a pair with a run that diverged is never chosen.
        arms: name -> which (lr_d, lr_g) belong to it; an arm without pairs is left out.
        update: at which to look; None for the last.

    Raises:
        ValueError: no seeds, an arm whose every pair diverged, a run that is missing, or an unknown score.
    """
    table, chosen_on = _Table(rows, score, update), [int(seed) for seed in seeds]
    checks.at_least("len(seeds)", len(chosen_on), 1)
    found = {}
    for name, belongs in arms.items():
        means = {pair: math.fsum(table.of(pair, chosen_on)) / len(chosen_on) for pair in table.pairs if belongs(*pair)}
        finite = {pair: mean for pair, mean in means.items() if math.isfinite(mean)}
        if means and not finite:
            raise ValueError(f"every pair of {name!r} has a run that diverged (tried {list(means)}): give lower rates")
        if finite:
            pair = min(finite, key=finite.__getitem__)
            found[name] = pair, finite[pair]
    return found


def select_then_test(
    rows: Iterable[Mapping[str, Any]],
    score: str,
    *,
    select_seeds: Iterable[int],
    test_seeds: Iterable[int],
    arms: Arms = ARMS,
    update: int | None = None,
) -> dict[str, Chosen]:
    """Let each arm choose its pair of rates on some seeds, and say how the pair does on others.

    Args:
        rows: of `lr_grid`, with the runs of both kinds of seeds.
        score, arms, update: as in `best_pairs`.
        select_seeds: on which the pairs are chosen.
        test_seeds: others.

    Returns:
        Arm -> `Chosen`; NaN for a tested run that diverged.

    Raises:
        ValueError: a seed that both chooses and tests, and what `best_pairs` raises.
    """
    table = list(rows)
    update = _last(table) if update is None else update  # one for both kinds of seeds
    chosen_on, tested_on = ([int(seed) for seed in seeds] for seeds in (select_seeds, test_seeds))
    if not chosen_on or not tested_on or set(chosen_on) & set(tested_on):
        raise ValueError(f"seeds that choose {chosen_on} and seeds that test {tested_on} must be some, and differ")
    best = best_pairs([r for r in table if r["seed"] in chosen_on], score, seeds=chosen_on, arms=arms, update=update)
    values = _Table(table, score, update)
    return {name: Chosen(*pair, mean, values.of(pair, tested_on)) for name, (pair, mean) in best.items()}


class _Table:
    """One score a run at one update."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], score: str, update: int | None) -> None:
        table = list(rows)
        self.update = _last(table) if update is None else update
        self.values: dict[Run, float] = {}
        for row in table:
            if row["update"] == self.update:
                value = math.nan if row["diverged"] is not None else float(row[checks.one_of("score", score, row)])
                self.values[row["lr_d"], row["lr_g"], row["seed"]] = value
        if not self.values:
            looks = sorted({row["update"] for row in table})
            raise ValueError(f"no run was looked at at update {self.update}: choose one of {looks}, or train on")
        self.pairs = list(dict.fromkeys((lr_d, lr_g) for lr_d, lr_g, _ in self.values))

    def of(self, pair: Pair, seeds: Sequence[int]) -> tuple[float, ...]:
        missing = [seed for seed in seeds if (*pair, seed) not in self.values]
        if missing:
            where = f"lr_d={pair[0]:g}, lr_g={pair[1]:g} at update {self.update}"
            raise ValueError(f"no run of {where} with seeds {missing}: train them with lr_grid")
        return tuple(self.values[*pair, seed] for seed in seeds)


def _last(rows: Sequence[Mapping[str, Any]]) -> int:
    return max((row["update"] for row in rows), default=0)


class _Stack:
    """Some runs side by side, with what was measured of them so far, which is its state."""

    def __init__(
        self,
        players: Players,
        real: Tensor,
        runs: Sequence[Run],
        options: Mapping[str, Any],
        *,
        batch_size: int,
        samples: int,
    ) -> None:
        self.real, self.runs, self.batch_size, self.samples = real, runs, batch_size, samples
        rates_d, rates_g, seeds = zip(*runs, strict=True)
        made = {seed: players(seed) for seed in dict.fromkeys(seeds)}
        generators, critics = zip(*(made[seed] for seed in seeds), strict=True)
        self.gan = TTUR(generators, critics, lr_g=rates_g, lr_d=rates_d, seed=seeds, **options)
        self.batches = SeedGenerators([seed + _OTHER for seed in made], real.device)
        self.place = torch.tensor([list(made).index(seed) for seed in seeds], device=real.device)
        self.costs = self.gan.operations(self._batch())
        self.over = False
        self.rows: list[dict[str, Any]] = []
        self.sheets = real.new_empty(0)
        self.file: Path | None = None
        self.settings = {
            "runs": [list(run) for run in runs],
            "options": dict(options),
            "batch_size": batch_size,
            "samples": samples,
            "real": fingerprint(real),
            "players": fingerprint(made),
        }

    def train(self, update: int) -> None:
        """Go on until that update, or until every run has diverged."""
        try:
            while self.gan.updates < update and not self.over:
                self.gan.step(self._batch())
            self.gan.check()
        except TrainingDiverged:
            self.over = True

    def look(self, update: int, score: Callable[[Tensor], Mapping[str, float]]) -> None:
        """Measure the samples of every run, unless this was done before; keep everything in the file, if there is one.

        The generator may have overflowed where no loss has.
        """
        if any(row["update"] == update for row in self.rows):
            return
        drawn = self.gan.sample(self.samples).view(len(self.runs), self.samples, *self.real.shape[1:])
        both = update // self.gan.n_critic
        spent = self.costs[0] * (update - both) + self.costs[1] * both
        for place, ((lr_d, lr_g, seed), images) in enumerate(zip(self.runs, drawn, strict=True)):
            if not images.isfinite().all():
                self.gan.diverged.setdefault(place, update)
            failed = self.gan.diverged.get(place)
            row = {"lr_d": lr_d, "lr_g": lr_g, "seed": seed, "update": update, "operations": spent, "diverged": failed}
            scores = {} if failed is not None else {name: float(value) for name, value in score(images).items()}
            self.rows.append(row | scores)
        self.sheets = drawn[:, :25]
        if self.file is not None:
            save_training(self.file, self._parts(), settings=self.settings)

    def resume(self, file: Path, looks: Sequence[int]) -> None:
        """Go on where a file ends, and keep what follows in it."""
        self.file = file
        resume_training(file, self._parts(), settings=self.settings)
        done = sorted({row["update"] for row in self.rows})
        if done != list(looks[: len(done)]):
            raise ValueError(f"{file} holds other looks, {done}, than {list(looks)}: delete it or name another file")

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "sheets": self.sheets, "over": self.over}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows, self.sheets, self.over = state["rows"], state["sheets"].to(self.real.device), state["over"]

    def _parts(self) -> dict[str, Any]:
        return {"found": self, "gan": self.gan, "batches": self.batches}

    def _batch(self) -> Tensor:
        index = self.batches.integers((len(self.batches) * self.batch_size,), len(self.real))
        return self.real[index.view(len(self.batches), -1)[self.place].flatten()]
