"""The presets of 07 that need data, at a tiny size on whatever device is here: the whole notebook."""

import os
from dataclasses import replace

import pytest
import torch

from flatlab import gan, studies
from flatlab.studies.two_time_scale_gan import settings, spectrum, training
from flatlab.studies.two_time_scale_gan.settings import Arms, Plan, TwoTimeScaleGAN

PRESETS = [preset for preset in studies.presets("two_time_scale_gan") if preset not in ("quick", "cpu")]


def small(plan: Plan) -> Plan:
    """The plan's players and pairs, narrow and for a few updates."""
    return replace(plan, at=(2, 4), z_dim=3, width=4, blocks=1, batch_size=4, samples=40)


def short(arms: Arms, shape: tuple[int, ...]) -> Arms:
    """The arms' steps and rates, narrow and for two looks, after one and two of the longest rounds."""
    plan = small(arms.plan)
    G, D = training.players(plan, shape)(0)
    _, both = gan.TTUR(G, D, lr_g=1e-3, lr_d=1e-3, **plan.options).operations(torch.zeros(4, *shape))
    longest = both * max(arm.n_critic for arm in arms.arms.values()) / 1e9
    return replace(arms, plan=plan, giga=tuple(k * longest for k in (1, 2)), seeds=2)


def tiny(preset: str) -> TwoTimeScaleGAN:
    """The preset with small players, few images and short toys; kinds of players, pairs and data sets stay."""
    cfg = studies.resolve("two_time_scale_gan", preset)
    shape = (1 if cfg.images == "mnist" else 3, cfg.size or 32, cfg.size or 32)
    return replace(
        cfg,
        seeds=cfg.seeds[:3],
        select_seeds=cfg.select_seeds[:2],
        chains=5,
        game_steps=1000,
        games=20,
        saddle_runs=4,
        saddle_steps=200,
        flow_runs=4,
        flow_steps=200,
        starts=8,
        ball_steps=60,
        limits={"train": 80, "test": 60},
        judges=2,
        judge_model="small_cnn",
        judge_options={"widths": (4, 4), "hidden": 6},
        judge_recipe=replace(cfg.judge_recipe, epochs=1, batch_size=20),
        bias_sizes=(20, 40),
        bias_draws=4,
        coverage=8,
        grid=small(cfg.grid),
        conv=cfg.conv and small(cfg.conv),
        wgan=short(cfg.wgan, shape),
        text=short(cfg.text, (len(training.SYMBOLS), cfg.length)),
        spectrum=replace(cfg.spectrum, pairs=cfg.spectrum.pairs[:6], at=(3,), z_dim=3, width=3, samples=40),
        spectrum_seeds=1,
    )


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.skipif(
    not os.environ.get("FLATLAB_DATA"), reason="needs MNIST, CIFAR-10, PACS and Tiny Shakespeare in $FLATLAB_DATA"
)
def test_the_notebook_runs_with_the_large_presets(preset: str, run_cells, monkeypatch) -> None:
    cfg = tiny(preset)
    monkeypatch.setattr(settings, preset.upper(), cfg)
    whole = training.Texts._codes
    monkeypatch.setattr(training.Texts, "_codes", lambda self, *which: whole(*which)[:3000])
    # The search for eigenvalues takes minutes on games of this many weights that were trained for three steps.
    monkeypatch.setattr(spectrum, "leading", lambda game, scale, pair: float((scale * game.rates(*pair)).mean()))
    names = run_cells("07_two_time_scale_gan", preset)
    assert names["cfg"] == cfg
    assert set(names["measured"]) == {claim.id for claim in names["CLAIMS"]}
    assert names["measured"]["C8.1"].n == names["measured"]["C8.3"].n == len(cfg.seeds)
    assert names["measured"]["C10.1"].n == names["measured"]["C11.1"].n == 2
    missing = {claim for claim, estimate in names["measured"].items() if estimate is None}
    assert missing == {"C13"} | ({"C8.5"} if cfg.conv is None else set())
