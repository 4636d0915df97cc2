"""The spectrum of trained games: which weight moves at which rate, and what a pair of rates makes of it."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from flatlab import gan
from flatlab.studies.two_time_scale_gan import spectrum
from flatlab.studies.two_time_scale_gan.settings import Plan
from flatlab.studies.two_time_scale_gan.training import players

PLAN = Plan("mlp", ((1e-3, 1e-3), (4e-3, 2e-3)), (3, 6), z_dim=3, width=4, batch_size=8, samples=5)
PAIR = (2e-3, 1e-3)


@pytest.fixture(scope="module")
def small(images):
    """Every second pixel: so few weights that the whole Jacobian is taken."""
    return SimpleNamespace(signed=images.signed[..., ::2, ::2], shape=(1, 4, 4), device=images.device)


@pytest.fixture(scope="module")
def trained(small):
    return spectrum.trained_game(PLAN, small, PAIR, 5)


def test_the_game_stands_where_training_ended(small, trained) -> None:
    found, game, _ = trained
    assert found.updates == 6
    G, D = players(PLAN, small.shape)(5)
    assert game.point.dtype == torch.float64
    sizes = [sum(p.numel() for p in player.parameters()) for player in (D, G)]
    assert len(game.point) == sum(sizes)
    start = torch.cat([p.detach().flatten() for player in (D, G) for p in player.parameters()])
    moved = (game.point - start).abs()
    assert 0 < moved[: sizes[0]].max() <= 6 * 2.5 * PAIR[0]
    assert 0 < moved[sizes[0] :].max() <= 6 * 2.5 * PAIR[1]
    assert moved[: sizes[0]].max() > 1.2 * moved[sizes[0] :].max(), "the critic has the larger rate"
    knows_nothing = lambda x: torch.zeros(len(x), dtype=x.dtype)  # noqa: E731
    assert float(game.loss_d(knows_nothing, game.generator)) == pytest.approx(2 * math.log(2))
    assert float(game.loss_g(knows_nothing, game.generator)) == pytest.approx(math.log(2))


def test_the_scale_is_that_of_adams_next_step(trained) -> None:
    """Rate over the root of the corrected second moment, critic first: one more step without memory moves by it."""
    found, game, scale = trained
    place = 0
    for player in (found.critic, found.generator):
        for p in player.parameters:
            state = player.optimizer.state[p]
            second = state["exp_avg_sq"].double().flatten() / (1 - 0.999**6)
            torch.testing.assert_close(scale[place : place + p.numel()], 1 / (second.sqrt() + 1e-8), rtol=1e-5, atol=0)
            place += p.numel()
    assert place == len(scale) == len(game.point)


def test_the_field_is_descent_of_both_losses_on_one_batch(trained) -> None:
    _, game, _ = trained
    point = game.point
    torch.testing.assert_close(game.field(point), game.field(point), rtol=0, atol=0)
    D, G = game.discriminator, game.generator
    step = 1e-6 * game.field(point) / game.field(point).norm()
    sizes = [[p.numel() for p in player.parameters()] for player in (D, G)]

    def losses(shift):
        parts = iter((point + shift).split(sizes[0] + sizes[1]))
        with torch.no_grad():
            for player in (D, G):
                for p in player.parameters():
                    p.copy_(next(parts).view_as(p))
            return float(game.loss_d(D, G)), float(game.loss_g(D, G))

    halves = torch.zeros_like(step), torch.zeros_like(step)
    n = sum(sizes[0])
    halves[0][:n], halves[1][n:] = step[:n], step[n:]
    before, critic, generator = losses(0 * step), losses(halves[0]), losses(halves[1])
    losses(0 * step)
    assert critic[0] < before[0], "the critic's own step lowers its loss"
    assert generator[1] < before[1], "the generator's own step lowers its loss"


def test_the_leading_part_is_that_of_the_scaled_jacobian_and_grows_with_the_rates(trained) -> None:
    _, game, scale = trained
    rates = torch.cat([
        torch.full_like(p, lr).flatten()
        for player, lr in ((game.discriminator, 4e-3), (game.generator, 2e-3))
        for p in player.parameters()
    ])  # fmt: skip
    jacobian = torch.func.jacfwd(game.field)(game.point)
    expected = torch.linalg.eigvals((scale * rates)[:, None] * jacobian).real.max()
    found = spectrum.leading(game, scale, (4e-3, 2e-3))
    assert found == pytest.approx(float(expected), rel=1e-6)
    assert spectrum.leading(game, scale, (8e-3, 4e-3)) == pytest.approx(2 * found, rel=1e-6)


def test_the_table_sets_the_spectrum_beside_the_runs(small) -> None:
    def score(samples):
        level = float(samples.mean())
        return {"fid": level, "relative": level}

    found = spectrum.table(PLAN, small, score, PAIR, (5, 6))
    assert len(found) == 2 * 2 * 2
    rows = gan.lr_grid(
        players(PLAN, small.shape), small.signed, PLAN.pairs, seeds=(5, 6), at=(3, 6), score=score, batch_size=8,
        samples=5,
    ).rows  # fmt: skip
    assert found["fid"].tolist() == pytest.approx([row["fid"] for row in rows], abs=1e-5)
    games = {seed: spectrum.trained_game(PLAN, small, PAIR, seed)[1:] for seed in (5, 6)}
    for row in list(found.itertuples())[::3]:
        assert row.leading == pytest.approx(spectrum.leading(*games[row.seed], (row.lr_d, row.lr_g)), rel=1e-2)


def test_points_are_means_over_seeds_freed_of_the_size_of_the_rates() -> None:
    table = pd.DataFrame(
        {"lr_d": [0.4, 0.4, 0.1], "lr_g": [0.1, 0.1, 0.1], "leading": [0.2, 0.4, 0.1], "log": [-1.0, np.nan, -0.5]}
    )
    found = spectrum.points(table).set_index("ratio")
    assert found["per rate"].round(9).to_dict() == {1.0: 1.0, 4.0: 1.5}
    assert found["log"].to_dict() == {1.0: -0.5, 4.0: (-1.0 + 1.0) / 2}
