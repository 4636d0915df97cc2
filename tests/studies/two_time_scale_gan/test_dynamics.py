"""The toys: which rate belongs to which player, what is measured of a path, and what the theory foretells."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from flatlab import gan
from flatlab.studies.two_time_scale_gan import dynamics


def noise(cfg):
    return torch.Generator().manual_seed(1000 * cfg.seeds[0] + cfg.data_seed)


def test_falling_steps_are_those_of_the_game_with_the_named_powers(cfg) -> None:
    looks, found = dynamics.falling_steps(cfg)
    assert looks == sorted(set(looks))
    assert (looks[0], looks[-1]) == (10, cfg.game_steps)
    assert list(found) == list(dynamics.DECAYS)
    for name, (p, q) in dynamics.DECAYS.items():
        path = gan.quadratic_game(
            1.0, 2.0, 0.5, 0.05, 0.05, cfg.game_steps, decay=(p, q, 100.0), runs=cfg.chains, record=looks,
            generator=noise(cfg),
        )  # fmt: skip
        torch.testing.assert_close(found[name], path.norm(dim=-1), rtol=1e-5, atol=0)
    _, tame = dynamics.falling_steps(cfg, (-0.5, 2.0, 0.5))
    assert all((tame[name][:, -1] < 0.5 * found[name][:, -1]).all() for name in found)


def test_only_rates_that_part_settle_the_game(cfg) -> None:
    """The critical ratio is 2: the ratio of the rates passes it where the generator's power is the larger one."""
    _, found = dynamics.falling_steps(replace(cfg, game_steps=20_000))
    ends = {name: distance[:, -1].median() for name, distance in found.items()}
    assert all((end < 1) if name.startswith("two") else (end > 10) for name, end in ends.items()), ends


def test_another_seed_is_another_noise(cfg) -> None:
    first, second, third = (
        dynamics.falling_steps(replace(cfg, **change))[1]["equal, 1"]
        for change in ({}, {"seeds": (4,)}, {"data_seed": 1})
    )
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(second, dynamics.falling_steps(replace(cfg, seeds=(4, 9)))[1]["equal, 1"])


def test_games_settle_on_one_side_of_the_critical_ratio(cfg) -> None:
    found = dynamics.settles(replace(cfg, games=60))
    assert len(found) == 60
    assert found["ratio"].between(0.25, 4).all()
    assert ((found["ratio"] - 1).abs() > 0.1).all()
    assert (found["foretold"] == (found["ratio"] > 1)).all()
    assert found["foretold"].nunique() == 2
    for seed in (0, 6, 13):
        many = dynamics.settles(replace(cfg, games=200, seeds=(seed,)))
        assert (many["settled"] == many["foretold"]).all()


def test_a_game_with_a_known_ratio_is_judged_by_it(cfg, monkeypatch) -> None:
    """Were the critical ratio twice what it is, games between the two would settle against what is foretold."""
    monkeypatch.setattr(dynamics.gan, "critical_ratio", lambda a, b, c: 2 * a / c)
    found = dynamics.settles(replace(cfg, games=60))
    assert found[found["ratio"].between(0.6, 0.9)]["settled"].any()


def test_hits_and_tails_of_the_saddle(cfg) -> None:
    found, paths = dynamics.saddle_table(cfg)
    assert paths.shape == (len(dynamics.SADDLE), cfg.saddle_steps + 1, 2)
    for (name, (lr_x, lr_y)), path in zip(dynamics.SADDLE.items(), paths, strict=True):
        rows = found[found["rates"] == name]
        assert rows["run"].tolist() == list(range(cfg.saddle_runs))
        alone = gan.saddle(lr_x, lr_y, cfg.saddle_steps, runs=cfg.saddle_runs, generator=noise(cfg))
        torch.testing.assert_close(path, alone[0], rtol=1e-3, atol=1e-4)
        distance = path.norm(dim=1)
        near = (distance < 0.15).nonzero().flatten().tolist()
        assert rows["hit"].iloc[0] == (near[0] if near else cfg.saddle_steps + 1), name
        assert rows["tail"].iloc[0] == pytest.approx(float(distance[-60:].mean()))
    hits = found.groupby("rates")["hit"].median()
    assert hits["two: .01 and .0001"] == cfg.saddle_steps + 1
    assert hits["one: .009"] < hits["two: .0001 and .01"] < hits["one: .0001"]


def test_the_deviation_at_the_saddle_is_the_exact_one(cfg) -> None:
    found, _ = dynamics.saddle_table(replace(cfg, saddle_steps=2000, saddle_runs=20))
    ratio = found.groupby("rates")["deviation"].mean()
    assert ratio[["one: .009", "two: .001 and .01", "two: .0001 and .01"]].to_numpy() == pytest.approx(1, abs=0.15)


def test_the_network_flow_goes_by_its_names(cfg) -> None:
    found = dynamics.flow_table(cfg)
    looks = list(range(180, 201, 10))
    assert (found.groupby("way").size() == cfg.flow_runs).all()
    for name, bias, decay in (("two, falling", 0.0, (1.0, 0.7, 100.0)), ("one, bias .1", 0.1, (0.7, 0.7, 100.0))):
        path = gan.network_flow(
            0.05, 0.05, 200, bias=bias, decay=decay, runs=cfg.flow_runs, record=looks, generator=noise(cfg)
        )
        rows = found[found["way"] == name]
        assert rows["distance"].tolist() == pytest.approx(path.mean(-1).tolist())
        assert rows["run"].tolist() == list(range(cfg.flow_runs))


def test_ripples_are_a_gradient() -> None:
    x = torch.linspace(-3, 3, 41, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad((x.square() / 2 - torch.cos(3 * x) / 2).sum(), x)
    torch.testing.assert_close(dynamics.ripples(x), slope)


def test_adam_follows_the_ball_to_first_order(cfg) -> None:
    errors = dynamics.ode_errors(cfg)
    assert len(errors) == 3 * 4 * 5
    at = errors[(errors["dt"] == 0.1) & (errors["start"].sub(2.2).abs() < 1e-9)].set_index("friction")["error"]
    assert at.tolist() == pytest.approx([0.125, 0.104, 0.045], abs=1e-3)  # measured with scipy's integrator
    slopes = dynamics.slopes(errors)
    assert slopes.shape == (15,)
    assert (np.abs(slopes - 1) < 0.1).all()


def test_the_slope_of_a_known_error() -> None:
    rows = [(g, x, dt, 5 * dt**g) for g in (1.0, 2.0) for x in (0.1, 0.2) for dt in (0.4, 0.1, 0.2)]
    frame = pd.DataFrame(rows, columns=["friction", "start", "dt", "error"])
    assert dynamics.slopes(frame).tolist() == pytest.approx([1, 1, 2, 2])


def test_adam_overshoots_exactly_above_the_threshold(cfg, monkeypatch) -> None:
    found = dynamics.overshoots(cfg)
    assert found.shape == (cfg.games,)
    assert found.all()
    exact = gan.overshoot_threshold
    for factor in (0.85, 1.2):  # both rates lie on one side of the true threshold
        monkeypatch.setattr(dynamics.gan, "overshoot_threshold", lambda b, f=factor: f * exact(b))
        assert not dynamics.overshoots(cfg).any()


def test_the_corrected_moment_leaves_the_ball_behind(cfg) -> None:
    found = dynamics.correction_gaps(cfg)
    gaps = found.pivot(index="start", columns="corrected", values="gap")
    assert gaps.shape == (10, 2)
    assert (gaps[False] < 0.1).all()
    assert (gaps[True] > 2 * gaps[False]).all()


def test_momentum_passes_the_dip_that_stops_it_without(cfg) -> None:
    few = replace(cfg, ball_steps=2000)
    found = dynamics.passes(few, (0.0, 0.9), (0.01, 0.03), noise=0.0)
    shares = found.groupby(["beta1", "lr"])["passed"].agg(["mean", "size"])
    assert shares["mean"].tolist() == [0, 0, 0, 1]
    assert shares["size"].tolist() == [few.starts] * 4
    assert found["start"].tolist() == list(range(few.starts)) * 4
    shaken = dynamics.passes(few, (0.0, 0.9), (0.03,)).groupby("beta1")["passed"].mean()
    assert shaken[0.0] < 0.5 < shaken[0.9], "with the noise of the study"
    wild = dynamics.passes(few, (0.0,), (0.03,), noise=50.0)
    assert 0 < wild["passed"].mean() < 1, "each start has noise of its own"


def test_balls_start_on_the_slope_left_of_the_dip(cfg, monkeypatch) -> None:
    seen = []

    def adam_path(gradient, start, **options):
        seen.append((start, options["betas"], options["lr"]))
        return torch.stack([start, torch.where(start < -2, -0.5, 1.5)])

    monkeypatch.setattr(dynamics.gan, "adam_path", adam_path)
    found = dynamics.passes(replace(cfg, starts=300), (0.0, 0.9), (0.1, 0.2))
    starts = seen[0][0]
    assert starts.max() < gan.dip().stationary[0]
    assert len(starts.unique()) == 300
    assert [rest for _, *rest in seen] == [[(b, 0.999), lr] for b in (0.0, 0.9) for lr in (0.1, 0.2)]
    assert all(torch.equal(start, starts) for start, *_ in seen), "the same starts for each"
    assert found["passed"].tolist() == (starts >= -2).int().tolist() * 4, "past the dip, in the last valley"


def test_slow_balls_end_where_the_flow_does(cfg) -> None:
    ways = [("Adam", 0.9, 0.01), ("momentum", 0.9, 0.05)]
    found = dynamics.into_flat(replace(cfg, ball_steps=1500), ways, noise=0.0)
    assert found["start"].tolist() == list(range(cfg.starts)) * 2
    first, second = (found[found["way"] == kind] for kind, *_ in ways)
    assert 0.4 < first["flow"].mean() < 0.9
    assert first["flow"].tolist() == second["flow"].tolist()
    assert all((rows["flat"] == rows["flow"]).mean() > 0.9 for rows in (first, second))


def test_steps_that_the_sharp_well_cannot_hold_end_in_the_flat_one(cfg) -> None:
    """At rate 0.3 its curvature of 22 is too much for plain steps, and not for Adam's, which are normalised."""
    found = dynamics.into_flat(cfg, [("momentum", 0.0, 0.3), ("Adam", 0.0, 0.03)])
    shares = found.groupby("way")["flat"].mean()
    assert shares["momentum"] == 1
    assert shares["Adam"] < 1


def test_adam_is_normalised_and_corrected_and_momentum_is_neither(cfg, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(
        dynamics.gan, "adam_path", lambda gradient, start, **options: seen.append(options) or start[None]
    )
    found = dynamics.into_flat(cfg, [("Adam", 0.9, 0.1), ("momentum", 0.5, 0.2)], noise=0.7)
    assert found["flat"].tolist() == found["flow"].tolist(), "balls that do not move"
    assert [{key: o[key] for key in ("lr", "betas", "v", "bias_correction", "noise")} for o in seen] == [
        {"lr": 0.1, "betas": (0.9, 0.999), "v": None, "bias_correction": True, "noise": 0.7},
        {"lr": 0.2, "betas": (0.5, 1.0), "v": 1.0, "bias_correction": False, "noise": 0.7},
    ]


def test_closer_is_the_last_distance_over_that_at_a_hundredth_of_the_steps() -> None:
    distances = torch.tensor([[9.0, 1.0, 0.5, 0.01], [9.0, 1.0, 1.0, torch.inf]], dtype=torch.float64)
    assert dynamics.closer([1, 10, 100, 1000], distances).tolist() == [-2, 300]
