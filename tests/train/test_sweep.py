"""Sweeps: the best by the mean, optima inside their grids, failed runs, and seeds that are not used twice."""

import json
import math

import pytest
import torch

from flatlab.models import build
from flatlab.optim import StackedAdam
from flatlab.train import Recipe, Stepper, TrainingDiverged, cross_entropy, evaluate_loss, fit_seeds, sweep


def valley(at: float):
    """A score with its least value at lr = `at` on a logarithmic scale, and a little noise by seed."""

    def score(method: str, options: dict, seeds: tuple[int, ...]) -> list[float]:
        return [math.log10(options["lr"] / at) ** 2 + 0.001 * seed for seed in seeds]

    return score


def test_rows_best_and_table() -> None:
    calls = []

    def score(method, options, seeds):
        calls.append((method, dict(options), seeds))
        if method == "plain":
            return [2.0, 4.0]
        return [options["lr"] * 10 + options["rho"], 2.0 if options["lr"] == 0.1 else 0.0]

    found = sweep(score, {"plain": {}, "sam": {"lr": [0.1, 0.2], "rho": [0.5, 0.05]}}, seeds=range(7, 9))
    points = [{"lr": lr, "rho": rho} for lr in (0.1, 0.2) for rho in (0.5, 0.05)]
    assert calls == [("plain", {}, (7, 8))] + [("sam", point, (7, 8)) for point in points]
    assert found.seeds == (7, 8)
    assert len(found.rows) == 10
    assert found.rows[1] == {"method": "plain", "options": {}, "seed": 8, "score": 4.0}
    assert found.best == {"plain": {}, "sam": {"lr": 0.2, "rho": 0.05}}
    table = found.table()
    assert [row["best"] for row in table] == [True, False, False, False, True]
    assert table[2] == {"method": "sam", "lr": 0.1, "rho": 0.05, "mean score": 1.525, "failed": 0, "best": False}
    assert table[0] == {"method": "plain", "mean score": 3.0, "failed": 0, "best": True}
    json.dumps(found.best)


def test_the_mean_over_seeds_decides_and_the_first_of_equals_wins() -> None:
    scores = {1: [0.0, 5.0], 2: [2.0, 2.0], 3: [4.0, 0.0]}

    def score(method, options, seeds):
        return torch.tensor(scores[options["a"]])

    assert sweep(score, {"m": {"a": [1, 2, 3]}}, seeds=[0, 1]).best == {"m": {"a": 2}}
    assert sweep(score, {"m": {"a": [3, 2]}}, seeds=[0, 1]).best == {"m": {"a": 3}}
    assert sweep(score, {"m": {"a": [2, 3, 1]}}, seeds=[0, 1], maximize=True).best == {"m": {"a": 1}}


@pytest.mark.parametrize(("at", "edge"), [(1e-3, True), (1e-2, False), (1e-1, True), (1e-5, True)])
@pytest.mark.parametrize("grid", [[1e-3, 1e-2, 1e-1], [1e-2, 1e-1, 1e-3]])
def test_an_optimum_at_the_end_of_its_grid_is_reported(at, edge, grid) -> None:
    found = sweep(valley(at), {"one": {"lr": grid}, "fixed": {"lr": [0.1]}}, seeds=[0])
    assert found.at_edge == (("one",) if edge else ())
    assert found.edges("one") == (("lr",) if edge else ())
    with pytest.raises(ValueError, match="did you mean 'fixed'"):
        found.edges("fixd")


def test_options_that_are_no_numbers_have_no_edge() -> None:
    def score(method, options, seeds):
        return [len(options["memory"]) + options["nesterov"]]

    found = sweep(score, {"cm": {"memory": ["momentum", "g"], "nesterov": [False, True]}}, seeds=[0], extend=3)
    assert found.best == {"cm": {"memory": "g", "nesterov": False}}
    assert found.at_edge == ()
    assert len(found.trials) == 4


@pytest.mark.parametrize("at", [2e-5, 1e-3, 1e-2, 3.0])
@pytest.mark.parametrize("grid", [[1e-3, 1e-2], [1e-3, 3e-3, 1e-2], [1e-2, 1e-3]])
def test_extended_grids_hold_their_optimum_inside(at, grid) -> None:
    found = sweep(valley(at), {"one": {"lr": grid}}, seeds=[0, 1], extend=8)
    assert found.at_edge == ()
    tried = [trial.options["lr"] for trial in found.trials]
    assert tried[: len(grid)] == grid
    assert len(set(tried)) == len(tried)
    ratio = 10 ** (1 / (len(grid) - 1))
    assert abs(math.log(found.best["one"]["lr"] / at)) <= math.log(ratio) * 0.6
    steps = [right / left for left, right in zip(sorted(tried), sorted(tried)[1:], strict=False)]
    assert all(step == pytest.approx(ratio, rel=0.1) for step in steps)


def test_an_extension_stops_at_its_bound_and_says_so() -> None:
    found = sweep(valley(1e9), {"one": {"lr": [0.1, 1.0]}}, seeds=[0], extend=3)
    assert [trial.options["lr"] for trial in found.trials] == [0.1, 1.0, 10.0, 100.0, 1000.0]
    assert found.at_edge == ("one",)


def test_each_option_is_extended_across_the_others() -> None:
    def score(method, options, seeds):
        return [math.log10(options["lr"]) ** 2 + (options["capacity"] - 40) ** 2]

    found = sweep(score, {"cm": {"lr": [0.01, 0.1], "capacity": [5, 10]}}, seeds=[0], extend=5)
    assert found.best == {"cm": {"lr": 1.0, "capacity": 40}}
    assert found.at_edge == ()
    assert isinstance(found.best["cm"]["capacity"], int)
    tried = [(trial.options["lr"], trial.options["capacity"]) for trial in found.trials]
    assert sorted(tried) == [(lr, c) for lr in (0.01, 0.1, 1.0, 10.0) for c in (5, 10, 20, 40, 80)]


@pytest.mark.parametrize("grid", [[0.0, 0.1], [-1.0, -2.0], [1.0, 2.0, 8.0], [1, 2]])
def test_what_is_not_geometric_does_not_grow(grid) -> None:
    found = sweep(lambda method, options, seeds: [abs(options["a"])], {"m": {"a": grid}}, seeds=[0], extend=5)
    assert [trial.options["a"] for trial in found.trials] == grid
    assert found.at_edge == ("m",)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("maximize", [False, True])
def test_a_point_with_a_failed_run_is_never_chosen(bad, maximize) -> None:
    def score(method, options, seeds):
        return [1.0, bad if options["lr"] == 0.1 else 1.0]

    found = sweep(score, {"m": {"lr": [0.1, 0.01]}}, seeds=[0, 1], maximize=maximize)
    assert found.best == {"m": {"lr": 0.01}}
    assert [row["failed"] for row in found.table()] == [1, 0]
    assert math.isnan(found.table()[0]["mean score"])


def test_failed_runs_bound_a_grid_from_above() -> None:
    """A best value whose larger neighbour diverges is an optimum inside the grid."""

    def score(method, options, seeds):
        if options["lr"] > 1:
            raise TrainingDiverged("the loss became nan")
        return [1 / options["lr"]] * len(seeds)

    found = sweep(score, {"sgd": {"lr": [0.1, 1.0]}}, seeds=[0, 1], extend=5)
    assert [trial.options["lr"] for trial in found.trials] == [0.1, 1.0, 10.0]
    assert found.best == {"sgd": {"lr": 1.0}}
    assert found.at_edge == ()
    assert all(math.isnan(row["score"]) for row in found.rows[-2:])


def test_a_method_that_always_fails_is_named() -> None:
    def score(method, options, seeds):
        return [math.nan if method == "cm" else 0.0]

    with pytest.raises(ValueError, match=r"every point of 'cm' has a failed run \(tried \{'lr': 1\}; \{'lr': 2\}\)"):
        sweep(score, {"adam": {"lr": [1]}, "cm": {"lr": [1, 2]}}, seeds=[0], extend=2)


def test_other_errors_are_not_swallowed() -> None:
    def score(method, options, seeds):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        sweep(score, {"m": {}}, seeds=[0])


def by_point(score, calls: list):
    """The same score for `whole=True`."""

    def whole(method, points, seeds):
        calls.append((method, [dict(point) for point in points], seeds))
        rows = [score(method, options, seeds) for options in points]
        points[0].clear()  # what is done to them does not matter
        return torch.tensor(rows, dtype=torch.float64)

    return whole


@pytest.mark.parametrize("at", [1e-5, 3e-3, 1.0])
@pytest.mark.parametrize("maximize", [False, True])
def test_a_whole_grid_in_one_call_gives_the_same_sweep(at: float, maximize: bool) -> None:
    calls: list = []

    def score(method, options, seeds):
        bowl = (math.log10(options.get("lr", 1) / at) ** 2 + math.log2(options["size"] / 8) ** 2) * (1, -1)[maximize]
        return [math.nan if seed == 1 and options["size"] == 1 else bowl + 0.001 * seed for seed in seeds]

    grid = {"one": {"lr": [1e-3, 1e-2], "size": [1, 2]}, "two": {"size": [8]}}
    apart = sweep(score, grid, seeds=[0, 1], extend=4, maximize=maximize)
    found = sweep(by_point(score, calls), grid, seeds=[0, 1], extend=4, maximize=maximize, whole=True)
    assert found.best == apart.best
    assert str(found) == str(apart), "NaN is not equal to itself"
    assert [method for method, _, _ in calls] == ["one"] * (len(calls) - 1) + ["two"]
    assert calls[0] == ("one", [{"lr": lr, "size": size} for lr in (1e-3, 1e-2) for size in (1, 2)], (0, 1))
    assert [point for _, points, _ in calls for point in points] == [trial.options for trial in found.trials]
    assert 3 <= len(calls) < len(found.trials), "a call for each round"


def test_a_whole_grid_fails_run_by_run_or_all_at_once() -> None:
    def score(method, points, seeds):
        if any(options["lr"] > 1 for options in points):
            raise TrainingDiverged("the loss of all networks became nan")
        return [[math.nan, 1.0] if options["lr"] == 0.5 else [0.0, 1.0 - options["lr"]] for options in points]

    found = sweep(score, {"m": {"lr": [0.5, 1.0]}}, seeds=[0, 1], extend=2, whole=True)
    assert [str(trial.scores) for trial in found.trials] == ["(nan, 1.0)", "(0.0, 0.0)", "(nan, nan)"]
    assert found.best == {"m": {"lr": 1.0}}
    assert found.at_edge == ()


def test_a_whole_grid_trains_as_one_stack() -> None:
    """Least squares at S learning rates and seeds at once: the best rate is the one that a run of its own finds."""
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([1.0, -2.0, 0.5])

    def score(method, points, seeds):
        rates = torch.tensor([options["lr"] for options in points for _ in seeds])
        w = torch.zeros(len(rates), 3, requires_grad=True)
        stepper = Stepper([w], StackedAdam, lr=rates, networks=len(rates))
        for _ in range(30):
            loss = stepper.step(lambda: (w @ x.T - y).square().mean(1))
        return loss.unflatten(0, (len(points), len(seeds)))

    found = sweep(score, {"adam": {"lr": [1e-3, 1e-2, 1e-1]}}, seeds=[0, 1], extend=3, whole=True)
    alone = [sweep(score, {"adam": {"lr": [t.options["lr"]]}}, seeds=[0], whole=True).trials[0] for t in found.trials]
    assert [t.scores[0] for t in found.trials] == pytest.approx([t.scores[0] for t in alone], rel=1e-5)
    assert found.at_edge == ()
    assert found.best["adam"]["lr"] >= 0.1


def test_rows_that_do_not_match_a_whole_grid_are_refused() -> None:
    grid = {"m": {"lr": [1.0, 2.0]}}
    with pytest.raises(ValueError, match=r"m: score returned 1 row\(s\) for 2 point\(s\)"):
        sweep(lambda method, points, seeds: [[1.0]], grid, seeds=[0], whole=True)
    with pytest.raises(ValueError, match=r"m with \{'lr': 2\.0\}: score returned 2 value\(s\) for 1 seed\(s\)"):
        sweep(lambda method, points, seeds: [[1.0], [1.0, 2.0]], grid, seeds=[0], whole=True)


def test_the_seeds_of_a_sweep_may_not_be_reported_on() -> None:
    found = sweep(valley(1), {"m": {"lr": [1.0]}}, seeds=[0, 1, 2])
    assert found.fresh(range(10, 13)) == (10, 11, 12)
    with pytest.raises(ValueError, match=r"seeds \[1, 2\] chose the options .* outside \[0, 1, 2\]"):
        found.fresh([2, 5, 1])


def test_bad_arguments() -> None:
    score, grid = valley(1), {"m": {"lr": [1.0]}}
    with pytest.raises(ValueError, match=r"got \[\]"):
        sweep(score, grid, seeds=[])
    with pytest.raises(ValueError, match=r"different integers, got \[1, 1\]"):
        sweep(score, grid, seeds=[1, 1])
    with pytest.raises(ValueError, match="grid is empty"):
        sweep(score, {}, seeds=[0])
    with pytest.raises(ValueError, match="m: the values of lr must be one or more different ones, got \\[\\]"):
        sweep(score, {"m": {"lr": []}}, seeds=[0])
    with pytest.raises(ValueError, match="different ones, got"):
        sweep(score, {"m": {"lr": [1.0, 1.0]}}, seeds=[0])
    with pytest.raises(TypeError, match=r"must be a sequence, got 0\.1; write \[0\.1\]"):
        sweep(score, {"m": {"lr": 0.1}}, seeds=[0])
    with pytest.raises(TypeError, match="must be a sequence, got 'paper'"):
        sweep(score, {"m": {"init": "paper"}}, seeds=[0])
    with pytest.raises(ValueError, match="extend must be an integer >= 0, got -1"):
        sweep(score, grid, seeds=[0], extend=-1)
    with pytest.raises(ValueError, match=r"m with \{'lr': 1\.0\}: score returned 1 value\(s\) for 2 seed\(s\)"):
        sweep(lambda method, options, seeds: [1.0], grid, seeds=[0, 1])


def test_a_sweep_of_real_trainings_finds_an_optimum_inside(digits, digits_test) -> None:
    def network(seed: int) -> torch.nn.Module:
        return build("mlp", (1, 8, 8), 10, seed=seed, options={"widths": (16,)})

    def score(method, options, seeds):
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[method]
        recipe = Recipe(epochs=3, batch_size=100, optimizer=kind, schedule="cosine", grad_clip=None, **options)
        models = fit_seeds(network, digits, cross_entropy, recipe, seeds=seeds)
        return [evaluate_loss(model, digits_test.x, digits_test.y).loss for model in models]

    grid = {"adam": {"lr": [1e-3, 1e-2]}, "sgd": {"lr": [1e-2, 1e-1]}}
    found = sweep(score, grid, seeds=[0, 1], extend=5)
    assert found.at_edge == ()
    assert found.best["sgd"]["lr"] > found.best["adam"]["lr"] > 1e-3
