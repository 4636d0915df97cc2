"""Protocols: what is trained on and what selects, and that nothing else can be told from the result."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flatlab import dg
from flatlab.models import FeatureNet, mlp
from flatlab.rng import SeedGenerators

every_algorithm = pytest.mark.parametrize("name", dg.ALGORITHMS)

Seen = list[tuple[dg.Algorithm, list[tuple[Tensor, Tensor]]]]


def toy(sizes: dict[str, int] | None = None) -> dict[str, dg.Domain]:
    """Noise, brighter in the rows of its class; each domain at its own level."""
    g, found = torch.Generator().manual_seed(3), {}
    for index, (name, n) in enumerate((sizes or {"a": 40, "b": 40, "c": 40}).items()):
        y = torch.arange(n) % 3
        x = torch.randint(0, 150, (n, 1, 4, 4), generator=g)
        x[torch.arange(n), 0, y] += 20 * (index + 1)
        found[name] = dg.Domain(x.byte(), y, name)
    return found


def net(seed: int) -> nn.Module:
    return FeatureNet(mlp((1, 4, 4), 3, widths=(8,)))


def layers(*inner: nn.Module) -> nn.Module:
    return FeatureNet(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), *inner, nn.ReLU(), nn.Linear(8, 3)))


def train(name: str = "ERM", domains: Any = None, sources: Any = "ab", targets: Any = "c", **changed: Any) -> Any:
    usual = {"make_model": net, "steps": 4, "batch_size": 12, "eval_every": 1, "lr": 0.03}
    return dg.train_domains(name, domains or toy(), list(sources), list(targets), **{**usual, **changed})


def weights(run: dg.RunResult, rule: str = "last") -> dict[str, Tensor]:
    return run.selected[rule].model.state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def same_runs(a: dg.RunResult, b: dg.RunResult) -> bool:
    return a.history == b.history and all(
        same(weights(a, rule), weights(b, rule)) and a.selected[rule][:3] == b.selected[rule][:3] for rule in dg.RULES
    )


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What each step of any algorithm is given."""
    found: Seen = []
    update = dg.Algorithm.update

    def recording(self: dg.Algorithm, minibatches: Any) -> dict[str, float]:
        found.append((self, [(x.clone(), y.clone()) for x, y in minibatches]))
        return update(self, minibatches)

    monkeypatch.setattr(dg.Algorithm, "update", recording)
    return found


def pixels(x: Tensor) -> list[bytes]:
    """One name for each image, by its content."""
    x = x if x.dtype == torch.uint8 else (x * 255).round().byte()
    return [image.numpy().tobytes() for image in x]


@every_algorithm
def test_labels_of_a_target_move_no_model_but_the_oracles(name: str) -> None:
    domains = toy({"a": 40, "b": 40, "c": 300})
    other = domains | {"c": replace(domains["c"], y=(domains["c"].y + 1) % 3)}
    first, second = (train(name, found, steps=3) for found in (domains, other))
    for rule in ("iid", "last"):
        assert same(weights(first, rule), weights(second, rule))
        assert first.selected[rule].step == second.selected[rule].step
    assert [row["val"] for row in first.history] == [row["val"] for row in second.history]
    for score in ("oracle", "test"):
        assert [row[score] for row in first.history] != [row[score] for row in second.history]


def test_the_oracle_follows_the_labels_of_the_target() -> None:
    domains = toy({"a": 90, "b": 90, "c": 600})
    other = domains | {"c": replace(domains["c"], y=(domains["c"].y + 1) % 3)}
    runs = [train(domains=found, steps=80, eval_every=20, lr=0.01) for found in (domains, other)]
    steps = [run.selected["oracle"].step for run in runs]
    assert steps[0] > steps[1], "the better the network, the worse it is by wrong labels"
    for run in runs:
        assert run.selected["oracle"].step == max(run.history, key=lambda row: row["oracle"])["step"]
        assert run.selected["last"].step == 80


def test_selected_models_are_those_of_their_step() -> None:
    domains = toy({"a": 40, "b": 55, "c": 40, "d": 70})
    made: list[nn.Module] = []
    run = train(
        domains=domains,
        targets="cd",
        steps=30,
        holdout=0.3,
        seed=2,
        lr=0.1,
        make_model=lambda s: made.append(net(s)) or made[0],
    )
    parts = {name: dg.split_domain(domain, 0.3, seed=2) for name, domain in domains.items()}
    rows = {row["step"]: row for row in run.history}
    assert list(rows) == list(range(1, 31))
    assert len({chosen.step for chosen in run.selected.values()}) == 3, "a case where the rules differ"
    for step, val, test, model, targets in run.selected.values():
        row = rows[step]
        for part in "ab":
            assert dg.domain_accuracy(model, parts[part][1]) == row[f"val/{part}"]
        for part in "cd":
            assert dg.domain_accuracy(model, parts[part][0]) == row[f"test/{part}"] == targets[part]
            assert dg.domain_accuracy(model, parts[part][1]) == row[f"oracle/{part}"]
        assert val == row["val"] == pytest.approx((row["val/a"] + row["val/b"]) / 2)
        assert test == row["test"] == pytest.approx((row["test/c"] + row["test/d"]) / 2)
        assert row["oracle"] == pytest.approx((row["oracle/c"] + row["oracle/d"]) / 2)
        assert not any(module.training for module in model.modules())
    models = [*made, *(chosen.model for chosen in run.selected.values())]
    assert len({p.data_ptr() for model in models for p in model.parameters()}) == 4 * 4, "networks of their own"
    assert [(r["rule"], r["target"]) for r in run.rows()] == [(rule, t) for rule in dg.RULES for t in "cd"]
    assert run.ms_per_step > 0


def test_a_row_tells_the_mean_of_what_steps_report_and_the_last_step_is_a_row() -> None:
    each = train("UDIM", hparams={"warmup": 0.4}, steps=5).history
    some = train("UDIM", hparams={"warmup": 0.4}, steps=5, eval_every=2).history
    assert [row["step"] for row in some] == [2, 4, 5]
    assert some[0]["loss"] == pytest.approx((each[0]["loss"] + each[1]["loss"]) / 2)
    assert some[1]["penalty"] == pytest.approx((each[2]["penalty"] + each[3]["penalty"]) / 2)
    assert some[2]["loss"] == each[4]["loss"]
    assert "penalty" not in some[0]
    assert list(some[1])[:4] == ["step", "loss", "penalty", "ratio"]
    assert [row["test"] for row in some] == [each[k]["test"] for k in (1, 3, 4)]
    told: list[dict[str, float]] = []
    assert train(eval_every=3, progress=told.append).history == told


@every_algorithm
def test_a_run_is_that_of_its_seed_and_leaves_the_global_generator_alone(name: str, seen: Seen) -> None:
    def noisy(seed: int) -> nn.Module:
        return layers(nn.Dropout(0.5))

    runs = []
    for before, seed in ((0, 0), (5, 0), (5, 1)):
        torch.manual_seed(before)
        state = torch.get_rng_state()
        runs.append(train(name, make_model=noisy, seed=seed, steps=2))
        assert torch.equal(torch.get_rng_state(), state)
    assert same_runs(runs[0], runs[1])
    assert not same(weights(runs[0]), weights(runs[2]))
    assert [method.seed for method, _ in seen] == [0, 0, 0, 0, 1, 1]
    first, _, again, _, other, _ = (pixels(torch.cat([x for x, _ in batch])) for _, batch in seen)
    assert first == again
    assert first != other
    assert set(first) != set(other), "another split or order"


def test_another_seed_is_another_split_another_order_and_another_network(seen: Seen) -> None:
    starts: list[Tensor] = []

    def kept(seed: int) -> nn.Module:
        model = net(seed)
        starts.append(model.classifier.weight.detach().clone())
        return model

    for seed in (0, 1):
        train(seed=seed, make_model=kept, steps=16)
    assert not torch.equal(*starts)
    rows = [[row for _, batch in seen[k : k + 16] for row in pixels(batch[0][0])] for k in (0, 16)]
    assert set(rows[0]) != set(rows[1])
    splits = [pixels(dg.split_domain(toy()["a"], seed=seed)[0].x) for seed in (0, 1)]
    places = [[split.index(row) for row in found] for split, found in zip(splits, rows, strict=True)]
    assert places[0] != places[1]


def test_all_methods_start_from_one_network_and_see_the_same_rows_in_the_same_order(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[dict[str, Tensor]] = []

    def kept(seed: int) -> nn.Module:
        model = net(seed)
        starts.append({name: value.clone() for name, value in model.state_dict().items()})
        return model

    for name in dg.ALGORITHMS:
        torch.manual_seed(len(starts))
        train(name, make_model=kept, steps=3)
    assert all(same(start, starts[0]) for start in starts)
    batches = [[pixels(x) for x, _ in batch] for _, batch in seen]
    assert len(batches) == 3 * len(dg.ALGORITHMS)
    assert batches == batches[:3] * len(dg.ALGORITHMS)


def test_training_rows_alone_are_trained_on_each_once_a_pass(seen: Seen) -> None:
    domains = toy({"a": 40, "b": 40, "c": 40, "d": 50})
    train(domains=domains, sources="abd", targets="c", steps=24, batch_size=14, seed=1)
    for index, name in enumerate("abd"):
        part, _ = dg.split_domain(domains[name], seed=1)
        allowed = dict(zip(pixels(part.x), part.y.tolist(), strict=True))
        batches = [batch[index] for _, batch in seen]
        assert {len(x) for x, _ in batches} == {4}
        rows = [row for x, _ in batches for row in pixels(x)]
        assert [allowed[row] for row in rows] == torch.cat([y for _, y in batches]).tolist()
        passes = [rows[k : k + len(part)] for k in range(0, len(rows), len(part))]
        assert all(sorted(turn) == sorted(allowed) for turn in passes if len(turn) == len(part))
        assert len(set(passes[-1])) == len(passes[-1])
        assert passes[0] != passes[1]
    order = [[pixels(dg.split_domain(domains[name], seed=1)[0].x).index(pixels(batch[k][0])[0]) for _, batch in seen]
             for k, name in enumerate("ab")]  # fmt: skip
    assert order[0] != order[1], "domains of one size are shuffled differently"
    assert {x.dtype for _, batch in seen for x, _ in batch} == {torch.float32}
    assert max(float(x.max()) for _, batch in seen for x, _ in batch) <= 1


def test_a_batch_may_be_larger_than_a_domain(seen: Seen) -> None:
    train(sources="a", steps=2, batch_size=70)
    part, _ = dg.split_domain(toy()["a"], seed=0)
    rows = [row for _, batch in seen for row in pixels(batch[0][0])]
    assert [len(batch[0][0]) for _, batch in seen] == [70, 70]
    assert all(sorted(rows[k : k + 32]) == sorted(pixels(part.x)) for k in (0, 32, 64, 96))


@pytest.mark.parametrize("name", ["ERM", "SAM", "GSAM", "UDIM"])
def test_the_learning_rate_follows_the_schedule(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.SGD.step

    def recording(self: torch.optim.SGD, closure: Any = None) -> Any:
        rates.extend(group["lr"] for group in self.param_groups)
        return step(self, closure)

    monkeypatch.setattr(torch.optim.SGD, "step", recording)
    train(name, steps=5, lr=0.2, schedule="cosine", optimizer=torch.optim.SGD)
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * k / 5)) for k in range(5)])
    assert rates[0] == 0.2


def test_augmented_batches_are_trained_on_and_evaluations_are_not_augmented(seen: Seen) -> None:
    drawn: list[list[float]] = []
    given: list[list[bytes]] = []

    def darker(x: Tensor, rng: SeedGenerators) -> Tensor:
        drawn.append(rng.uniform((2,)).tolist())
        given.append(pixels(x))
        return x * 0.1

    run = train(augment=darker, steps=3, seed=4)
    plain = train(steps=3, seed=4)
    assert len(drawn) == 6
    assert len({value for pair in drawn for value in pair}) == 12, "new draws for each domain of each step"
    assert given == [pixels(x) for _, batch in seen[3:] for x, _ in batch]
    for (_, dark), (_, bright) in zip(seen[:3], seen[3:], strict=True):
        assert all(torch.equal(a[0], b[0] * 0.1) for a, b in zip(dark, bright, strict=True))
    assert not same(weights(run), weights(plain))
    test, _ = dg.split_domain(toy()["c"], seed=4)
    assert dg.domain_accuracy(run.selected["last"].model, test) == run.history[-1]["test"]
    before, drawn[:] = list(drawn), []
    train(augment=darker, steps=3, seed=5)
    assert not {tuple(pair) for pair in before} & {tuple(pair) for pair in drawn}


def test_layers_draw_anew_in_each_step_and_not_what_augmentation_draws() -> None:
    draws: dict[str, list[float]] = {"layer": [], "augment": []}

    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                draws["layer"].append(torch.rand(()).item())
            return x

    def noted(x: Tensor, rng: SeedGenerators) -> Tensor:
        draws["augment"].append(rng.uniform((1,)).item())
        return x

    train(make_model=lambda seed: layers(Noise()), augment=noted, sources="a", steps=5)
    assert len(draws["layer"]) == len(draws["augment"]) == 5
    assert len({*draws["layer"], *draws["augment"]}) == 10


@pytest.mark.parametrize("name", ["UDIM", "SWAD"])
def test_methods_with_phases_are_told_the_number_of_steps(name: str, seen: Seen) -> None:
    train(name, steps=3)
    train(name, steps=3, hparams={"total_steps": 9})
    assert [method.total_steps for method, _ in seen] == [3] * 3 + [9] * 3


def test_udim_that_only_warms_up_is_sam() -> None:
    sam, warm, udim = train("SAM"), train("UDIM", hparams={"warmup": 1.0}), train("UDIM")
    assert same_runs(sam, warm)
    assert not same_runs(sam, udim)


def test_the_network_of_swad_is_the_average() -> None:
    run = train("SWAD", hparams={"start": 0.0})
    steps = [weights(train("ERM", steps=steps)) for steps in (1, 2, 3, 4)]
    for name, value in weights(run).items():
        torch.testing.assert_close(value, torch.stack([step[name] for step in steps]).mean(0))
        assert not torch.allclose(value, steps[-1][name])
    test, _ = dg.split_domain(toy()["c"], seed=0)
    assert dg.domain_accuracy(run.selected["last"].model, test) == run.history[-1]["test"]


def batch_normed(seed: int) -> nn.Module:
    return layers(nn.BatchNorm1d(8))


@every_algorithm
def test_frozen_statistics_stay_and_running_ones_move_once_a_step(name: str) -> None:
    frozen = train(name, make_model=batch_normed, batch_norm="frozen").selected["last"].model.featurizer[2]
    assert torch.equal(frozen.running_mean, torch.zeros(8))
    assert torch.equal(frozen.running_var, torch.ones(8))
    assert frozen.num_batches_tracked == 0
    assert not torch.equal(frozen.weight, torch.ones(8))
    if name == "SWAD":
        with pytest.raises(ValueError, match=r"^SWAD averages weights.*\"frozen\", or a network with GroupNorm"):
            train(name, make_model=batch_normed)
        train(name, make_model=lambda seed: layers(nn.GroupNorm(2, 8)))
    else:
        running = train(name, make_model=batch_normed).selected["last"].model.featurizer[2]
        assert running.num_batches_tracked == 4
        assert not torch.equal(running.running_mean, torch.zeros(8))


@every_algorithm
def test_a_run_that_diverges_is_stopped_and_recorded(name: str) -> None:
    run = train(name, optimizer=torch.optim.SGD, lr=1e38, steps=30, eval_every=10)
    assert run.diverged is not None
    assert run.diverged < 10
    assert [row["step"] for row in run.history] == [run.diverged]
    assert not math.isfinite(run.history[-1]["loss"])
    assert [chosen.step for chosen in run.selected.values()] == [run.diverged] * 3
    assert {row["diverged"] for row in run.rows()} == {run.diverged}


def broken_in(step: int) -> Callable[[Tensor, SeedGenerators], Tensor]:
    """Nothing but a NaN in a step of two domains."""
    calls = iter(range(10**6))
    return lambda x, rng: x * (math.nan if next(calls) // 2 == step - 1 else 1.0)


def test_after_divergence_the_rules_take_what_was_there_before(tmp_path) -> None:
    good = train(steps=4)
    run = train(steps=9, augment=broken_in(5), checkpoint=tmp_path / "run")
    assert run.diverged == 5
    assert [row["step"] for row in run.history] == [1, 2, 3, 4, 5]
    assert run.history[:4] == good.history
    for rule in ("iid", "oracle"):
        assert run.selected[rule][:3] == good.selected[rule][:3]
        assert same(weights(run, rule), weights(good, rule))
    assert run.selected["last"][:3] == (5, 0, 0), "weights that are no numbers have no class, not the first one"

    again = train(steps=9, augment=broken_in(5), checkpoint=tmp_path / "run")
    assert again.diverged == 5
    assert again.ms_per_step is None
    assert again.history[:4] == good.history
    assert len(again.history) == 5
