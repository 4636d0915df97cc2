"""Grids of rates against runs one by one, what diverges in them, files of a stopped grid, and choices by hand."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flatlab import gan
from flatlab.gan import TTUR, Chosen, Grid, best_pairs, grid, lr_grid, select_then_test

REAL = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(8)) * 2 - 1
PAIRS = [(0.01, 0.01), (0.02, 0.005)]
FATAL = 1e38  # a rate that throws weights out of float32
CHOICES = {"seeds": [3, 4], "at": [2, 5], "batch_size": 6, "samples": 30}


def players(seed: int) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(seed)
    return gan.MLPGenerator(4, 1, 3, 5), gan.MLPDiscriminator(4, 1, 5)


def score(images: Tensor) -> dict[str, float]:
    assert images.isfinite().all(), "only samples are scored"
    return {"fid": float(images.double().square().mean()), "mean": float(images.double().mean())}


def run(pairs: Sequence[tuple[float, float]] = PAIRS, score: Callable[..., Any] = score, **changed: Any) -> Grid:
    return lr_grid(players, REAL, pairs, score=score, **(CHOICES | changed))


def names(rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float, int, int]]:
    return [(row["lr_d"], row["lr_g"], row["seed"], row["update"]) for row in rows]


class Recording(TTUR):
    """Keeps the batches of every step, and raises where it is told to."""

    batches: list[Tensor]

    def step(self, real: Tensor) -> dict[str, Tensor]:
        self.batches.append(real.view(self.count, -1, *real.shape[1:]))
        return super().step(real)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> type[Recording]:
    monkeypatch.setattr(Recording, "batches", [], raising=False)
    monkeypatch.setattr(grid, "TTUR", Recording)
    return Recording


class TestRuns:
    def test_rows_are_what_each_run_says_alone(self, recording: type[Recording]) -> None:
        options = {"loss": "wgan-gp", "betas": (0.0, 0.9), "n_critic": 2, "ema": 0.5}
        found = run(options=options)
        by_run = dict.fromkeys(names(found.rows))
        assert list(by_run) == [(d, g, s, k) for k in (2, 5) for d, g in PAIRS for s in (3, 4)]
        batches = torch.stack(recording.batches[-5:], 1)  # (runs, updates, rows, ...)
        runs = [(pair, seed) for pair in PAIRS for seed in (3, 4)]
        for place, ((lr_d, lr_g), seed) in enumerate(runs):
            alone = TTUR(*players(seed), lr_d=lr_d, lr_g=lr_g, seed=seed, **options)
            for k, real in enumerate(batches[place], 1):
                alone.step(real)
                for row in found.rows:
                    if (row["lr_d"], row["lr_g"], row["seed"], row["update"]) == (lr_d, lr_g, seed, k):
                        wanted = score(alone.sample(30))
                        assert {name: row[name] for name in wanted} == pytest.approx(wanted, rel=1e-4, abs=1e-6)
                        assert row["diverged"] is None
            sheet = found.sheets[lr_d, lr_g, seed]
            torch.testing.assert_close(sheet, alone.sample(30)[:25], rtol=1e-4, atol=1e-5)
        assert set(found.sheets) == {(*pair, seed) for pair, seed in runs}

    def test_runs_of_one_seed_start_alike_and_see_the_same(self, recording: type[Recording]) -> None:
        found = run([(1e-12, 1e-12), (2e-12, 1e-12)], at=[1])
        first, other, same, again = (row["fid"] for row in found.rows)  # seeds 3, 4, 3, 4
        assert (same, again) == pytest.approx((first, other), rel=1e-5)
        assert abs(first - other) > 1e-4
        (batch,) = recording.batches
        assert torch.equal(batch[:2], batch[2:])
        assert not torch.equal(batch[0], batch[1])
        assert all(any(torch.equal(x, y) for y in REAL) for x in batch.flatten(0, 1))

    @pytest.mark.parametrize("side_by_side", [1, 3])
    def test_it_does_not_matter_what_trains_side_by_side(self, side_by_side: int) -> None:
        whole, parts = run().rows, run(side_by_side=side_by_side).rows
        assert sorted(names(parts)) == sorted(names(whole))
        rows = dict(zip(names(parts), parts, strict=True))
        for key, row in zip(names(whole), whole, strict=True):
            assert rows[key] | {"diverged": 0} == pytest.approx(row | {"diverged": 0}, rel=1e-4, abs=1e-6)
            assert rows[key]["diverged"] is row["diverged"] is None

    def test_players_that_cannot_be_stacked_train_one_by_one(self) -> None:
        def residual(seed: int) -> tuple[nn.Module, nn.Module]:
            torch.manual_seed(seed)
            return gan.ResNetGenerator(8, 1, 3, 2), gan.ResNetDiscriminator(8, 1, 2)

        real = torch.rand(10, 1, 8, 8)
        found = lr_grid(residual, real, PAIRS, score=score, seeds=[0], at=[1], batch_size=4, samples=3)
        assert names(found.rows) == [(*pair, 0, 1) for pair in PAIRS]
        assert found.sheets[*PAIRS[0], 0].shape == (3, 1, 8, 8)

    def test_operations_of_each_row(self) -> None:
        """n_critic = 2: of five updates, two move both players."""
        alone, both = TTUR(*players(0), lr_g=0.1, lr_d=0.1, n_critic=2).operations(REAL[:6])
        spent = {row["update"]: row["operations"] for row in run(options={"n_critic": 2}).rows}
        assert spent == {2: alone + both, 5: 3 * alone + 2 * both}

    def test_runs_that_are_asked_for_twice_run_once(self) -> None:
        assert names(run(PAIRS + PAIRS, seeds=[3, 3], at=[1]).rows) == [(*pair, 3, 1) for pair in PAIRS]

    @pytest.mark.parametrize(
        ("pairs", "changed", "message"),
        [
            ([], {}, r"need pairs, seeds, and updates that rise, got 0 run\(s\)"),
            (PAIRS, {"seeds": []}, r"got 0 run\(s\)"),
            (PAIRS, {"at": []}, r"at=\[\]"),
            (PAIRS, {"at": [3, 3]}, r"updates that rise, got 4 run\(s\) and at=\[3, 3\]"),
            (PAIRS, {"at": [5, 2]}, r"at=\[5, 2\]"),
            (PAIRS, {"at": [0, 2]}, "at must be an integer >= 1, got 0"),
            (PAIRS, {"side_by_side": 0}, "side_by_side must be an integer >= 1, got 0"),
            (PAIRS, {"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
            (PAIRS, {"samples": 0}, "samples must be an integer >= 1, got 0"),
            ([(0.01, 0.0)], {}, "lr_g must be a finite number > 0, got 0.0"),
        ],
    )
    def test_bad_arguments(self, pairs: Sequence[tuple[float, float]], changed: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            run(pairs, **changed)


class TestDivergence:
    @pytest.mark.parametrize("side_by_side", [1, 24])
    def test_a_run_that_diverged_keeps_its_rows_with_the_update_and_without_a_score(self, side_by_side: int) -> None:
        """The critic's first step throws it out: its loss is not finite at the next, the generator's at the same."""
        found = run([PAIRS[0], (FATAL, 0.01)], at=[1, 2, 5], options={"n_critic": 2}, side_by_side=side_by_side)
        assert sorted(names(found.rows)) == sorted(
            (*pair, seed, k) for pair in (PAIRS[0], (FATAL, 0.01)) for seed in (3, 4) for k in (1, 2, 5)
        )
        for row in found.rows:
            bad = row["lr_d"] == FATAL and row["update"] >= 2
            assert row["diverged"] == (2 if bad else None)
            assert math.isnan(row["fid"]) == math.isnan(row["mean"]) == bad

    def test_all_of_them(self) -> None:
        found = run([(FATAL, 0.01)])
        assert [(row["update"], row["diverged"]) for row in found.rows] == [(2, 1), (2, 1), (5, 1), (5, 1)]
        assert set(found.rows[0]) == {"lr_d", "lr_g", "seed", "update", "operations", "diverged"}

    def test_late_looks_at_losses_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As on a GPU, where losses are looked at every 20 steps: each look at samples comes after one at losses."""

        class Late(TTUR):
            def step(self, real: Tensor) -> dict[str, Tensor]:
                for player in (self.critic, self.generator):
                    player.device = torch.device("meta")
                found = super().step(real)
                for player in (self.critic, self.generator):
                    player.device = torch.device("cpu")
                return found

        pairs, how = [PAIRS[0], (FATAL, 0.01)], {"options": {"n_critic": 2}, "at": [3, 5]}
        wanted = run(pairs, **how).rows
        monkeypatch.setattr(grid, "TTUR", Late)
        assert repr(run(pairs, **how).rows) == repr(wanted)
        assert {row["diverged"] for row in run(pairs[1:], **how).rows} == {2}

    def test_samples_that_overflow_where_no_loss_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Overflowing(TTUR):
            def sample(self, n: int, **options: Any) -> Tensor:
                found = super().sample(n, **options)
                found[1, -1] = torch.inf
                return found

        monkeypatch.setattr(grid, "TTUR", Overflowing)
        rows = run().rows
        assert [row["diverged"] for row in rows] == [None, 2, None, None] * 2
        assert [math.isnan(row["fid"]) for row in rows] == [False, True, False, False] * 2


class Stopped(Exception):
    """The lights went out."""


class TestFiles:
    def stopping(self, calls: int) -> Callable[[Tensor], dict[str, float]]:
        left = [calls]

        def scored(images: Tensor) -> dict[str, float]:
            left[0] -= 1
            if left[0] < 0:
                raise Stopped
            return score(images)

        return scored

    @pytest.mark.parametrize("options", [{"n_critic": 2, "ema": 0.5}, {"loss": "wgan-gp", "betas": (0.0, 0.9)}])
    @pytest.mark.parametrize(("side_by_side", "calls"), [(24, 7), (3, 7), (3, 11), (1, 5)])
    def test_a_stopped_grid_goes_on_and_ends_the_same(
        self, options: dict[str, Any], side_by_side: int, calls: int, tmp_path: Path, recording: type[Recording]
    ) -> None:
        how = {"options": options, "side_by_side": side_by_side, "at": [1, 3, 4]}
        pairs = [*PAIRS, (FATAL, 0.01)]
        whole = run(pairs, **how)
        with pytest.raises(Stopped):
            run(pairs, self.stopping(calls), checkpoint=tmp_path / "grid", **how)
        recording.batches.clear()
        again = run(pairs, checkpoint=tmp_path / "grid", **how)
        stacks = math.ceil(6 / side_by_side)
        assert 0 < len(recording.batches) < 4 * stacks
        assert repr(again.rows) == repr(whole.rows)
        assert again.sheets.keys() == whole.sheets.keys()
        assert all(torch.equal(again.sheets[key].nan_to_num(), x.nan_to_num()) for key, x in whole.sheets.items())
        recording.batches.clear()
        assert repr(run(pairs, checkpoint=str(tmp_path / "grid"), **how).rows) == repr(whole.rows)
        assert not recording.batches, "all was done"

    def test_a_finished_grid_can_be_continued(self, tmp_path: Path) -> None:
        run(checkpoint=tmp_path / "grid")
        further = run(at=[2, 5, 6], checkpoint=tmp_path / "grid").rows
        assert repr(further) == repr(run(at=[2, 5, 6]).rows)

    @pytest.mark.parametrize(
        ("changed", "what"),
        [
            ({"seeds": [3, 5]}, "runs"),
            ({"pairs": PAIRS[::-1]}, "runs"),
            ({"batch_size": 7}, "batch_size"),
            ({"samples": 31}, "samples"),
            ({"options": {"loss": "hinge"}}, "options"),
            ({"at": [1, 5]}, r"grid.0.safetensors holds other looks, \[2, 5\], than \[1, 5\]: delete it or name"),
            ({"at": [2]}, r"other looks, \[2, 5\], than \[2\]"),
        ],
    )
    def test_files_of_others_are_refused(self, changed: dict[str, Any], what: str, tmp_path: Path) -> None:
        run(checkpoint=tmp_path / "grid")
        with pytest.raises(ValueError, match=what):
            run(checkpoint=tmp_path / "grid", **changed)

    def test_files_of_other_images_are_refused(self, tmp_path: Path) -> None:
        run(checkpoint=tmp_path / "grid")
        with pytest.raises(ValueError, match=r"other settings \(real\); delete it or name another file"):
            lr_grid(players, REAL[1:], PAIRS, score=score, checkpoint=tmp_path / "grid", **CHOICES)
        with pytest.raises(ValueError, match=r"other settings \(real\)"):  # as many, with other values
            lr_grid(players, REAL.flip(0), PAIRS, score=score, checkpoint=tmp_path / "grid", **CHOICES)

    def test_files_of_other_players_are_refused(self, tmp_path: Path) -> None:
        run(checkpoint=tmp_path / "grid")
        with pytest.raises(ValueError, match=r"grid\.0\.safetensors was made with other settings \(players\)"):
            lr_grid(lambda seed: players(seed + 1), REAL, PAIRS, score=score, checkpoint=tmp_path / "grid", **CHOICES)

    def test_scores_of_any_kind_of_number_are_kept(self, tmp_path: Path) -> None:
        found = run(score=lambda images: {"fid": images.mean()}, checkpoint=tmp_path / "grid")
        assert all(type(row["fid"]) is float for row in found.rows)


def table(scores: Mapping[tuple[float, float], Mapping[int, float | None]], update: int = 9) -> list[dict[str, Any]]:
    """Rows of a grid: (lr_d, lr_g) -> seed -> FID, None for a run that diverged, whose number nobody may use."""
    return [
        {"lr_d": d, "lr_g": g, "seed": seed, "update": update, "fid": 0.0 if fid is None else fid}
        | {"diverged": 4 if fid is None else None}
        for (d, g), found in scores.items()
        for seed, fid in found.items()
    ]


ROWS = table({
    (1, 1): {0: 5.0, 1: 7.0, 10: 8.0, 11: 4.0},
    (2, 2): {0: 1.0, 1: None, 10: 1.0, 11: 1.0},  # the best, where it does not diverge
    (2, 1): {0: 4.0, 1: 6.0, 10: 9.0, 11: None},
    (4, 1): {0: 6.0, 1: 5.0, 10: 2.0, 11: 2.0},
    (1, 2): {0: 3.0, 1: 8.0},
    (1, 4): {0: 9.0, 1: 9.0},
})  # fmt: skip
FIRST_TWO = {"one rate": lambda lr_d, lr_g: lr_d == lr_g, "critic faster": lambda lr_d, lr_g: lr_d > lr_g}


class TestChoices:
    def test_the_least_mean_in_each_arm(self) -> None:
        assert best_pairs(ROWS, "fid", seeds=[0, 1]) == {
            "one rate": ((1, 1), 6.0),
            "two rates": ((2, 1), 5.0),
            "critic faster": ((2, 1), 5.0),
            "generator faster": ((1, 2), 5.5),
        }
        assert best_pairs(ROWS, "fid", seeds=[0])["one rate"] == ((2, 2), 1.0)
        assert best_pairs(ROWS, "fid", seeds=iter([0, 1]), arms=FIRST_TWO).keys() == FIRST_TWO.keys()

    def test_arms_without_pairs_are_left_out(self) -> None:
        rows = [row for row in ROWS if row["lr_d"] >= row["lr_g"]]
        assert best_pairs(rows, "fid", seeds=[0, 1]).keys() == {"one rate", "two rates", "critic faster"}

    def test_the_update_is_the_last_or_what_is_asked_for(self) -> None:
        earlier = table({(1, 1): {0: 2.0}, (2, 2): {0: 1.5}, (3, 3): {0: 1.0}}, 5)
        rows = earlier + table({(1, 1): {0: 1.0}, (2, 2): {0: 2.0}, (3, 3): {0: None}}, 7)
        assert best_pairs(rows, "fid", seeds=[0])["one rate"] == ((1, 1), 1.0)
        assert best_pairs(rows, "fid", seeds=[0], update=5)["one rate"] == ((3, 3), 1.0)

    def test_what_chose_does_not_test(self) -> None:
        found = select_then_test(ROWS, "fid", select_seeds=[0, 1], test_seeds=[10, 11], arms=FIRST_TWO)
        assert found["one rate"] == Chosen(1, 1, 6.0, (8.0, 4.0))
        critic = found["critic faster"]
        assert critic[:3] == (2, 1, 5.0)
        assert critic.tested[0] == 9
        assert math.isnan(critic.tested[1])
        again = select_then_test(
            iter(ROWS), "fid", select_seeds=iter([1, 0]), test_seeds=iter([11, 10]), arms=FIRST_TWO
        )
        assert again["one rate"] == Chosen(1, 1, 6.0, (4.0, 8.0))

    def test_at_an_earlier_update(self) -> None:
        rows = ROWS + table({(1, 1): {0: 3.0, 10: 30.0}, (2, 2): {0: 2.0, 10: 20.0}}, 4)
        arms = {"one rate": FIRST_TWO["one rate"]}
        found = select_then_test(rows, "fid", select_seeds=[0], test_seeds=[10], arms=arms, update=4)
        assert found == {"one rate": Chosen(2, 2, 2.0, (20.0,))}

    def test_arms_that_diverged(self) -> None:
        rows = table({(1, 1): {0: None, 1: 2.0}, (2, 2): {0: 1.0, 1: None}, (1, 2): {0: 1.0, 1: 1.0}})
        with pytest.raises(ValueError, match=r"every pair of 'one rate' has a run that diverged .*: give lower rates"):
            best_pairs(rows, "fid", seeds=[0, 1])

    @pytest.mark.parametrize("call", [best_pairs, select_then_test])
    def test_runs_that_are_missing(self, call: Callable[..., Any]) -> None:
        seeds = {"seeds": [0, 1, 2]} if call is best_pairs else {"select_seeds": [0, 2], "test_seeds": [10]}
        with pytest.raises(ValueError, match=r"no run of lr_d=1, lr_g=1 at update 9 with seeds \[2\]: train them"):
            call(ROWS, "fid", **seeds)

    def test_other_refusals(self) -> None:
        both = {"select_seeds": [0, 1], "test_seeds": [10, 11]}
        with pytest.raises(ValueError, match=r"lr_d=1, lr_g=2 at update 9 with seeds \[10, 11\]"):
            select_then_test(ROWS, "fid", **both)
        with pytest.raises(ValueError, match=r"choose \[0, 1\] and seeds that test \[1, 10\] must be some, and differ"):
            select_then_test(ROWS, "fid", select_seeds=[0, 1], test_seeds=[1, 10])
        for name in both:
            with pytest.raises(ValueError, match="must be some"):
                select_then_test(ROWS, "fid", **(both | {name: []}))
        with pytest.raises(ValueError, match=r"len\(seeds\) must be an integer >= 1, got 0"):
            best_pairs(ROWS, "fid", seeds=[])
        with pytest.raises(ValueError, match="unknown score 'fdi': choose one of .*did you mean 'fid'"):
            best_pairs(ROWS, "fdi", seeds=[0])
        for rows, looks in ((ROWS, r"\[9\]"), ([], r"\[\]")):
            with pytest.raises(ValueError, match=f"looked at at update 3: choose one of {looks}, or train on"):
                best_pairs(rows, "fid", seeds=[0], update=3)

    def test_selection_and_test_look_at_one_update(self) -> None:
        """Fresh runs that trained longer are no answer to what was chosen earlier."""
        rows = table({(1, 1): {0: 1.0}}, 5) + table({(1, 1): {10: 1.0}}, 9)
        with pytest.raises(ValueError, match=r"no run was looked at at update 9: choose one of \[5\]"):
            select_then_test(rows, "fid", select_seeds=[0], test_seeds=[10])
