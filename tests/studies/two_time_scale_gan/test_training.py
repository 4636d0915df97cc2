"""What GANs learn from, who chooses the rates, and who is compared with whom at what cost."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from flatlab import gan, metrics
from flatlab.studies.two_time_scale_gan import training
from flatlab.studies.two_time_scale_gan.settings import WGAN_GP, Arm, Arms, Plan, crossed

TEXTS = {"train": b"Ab, c!\n D\xc3\xa9 zebra " * 20, "validation": b"another ZEBRA 42 and a cab " * 20}


def grey(samples):
    """Stands for a judge: how dark the samples are."""
    level = float(samples.double().add(1).mean())
    return {"fid": 100 * level, "relative": level, "log": math.log10(level)}


def test_images_are_held_in_both_scales(cfg, images) -> None:
    assert (len(images.train), len(images.test)) == (200, 60)
    assert (images.shape, images.classes) == ((1, 8, 8), 10)
    assert images.signed.min() >= -1
    assert images.signed.max() == 1
    assert torch.equal(gan.to_uint8(images.signed), images.train.x)
    wide = training.Images(replace(cfg, size=12, limits={"train": 5, "test": 3}))
    assert wide.shape == (1, 12, 12)
    assert wide.signed.shape == (5, 1, 12, 12)


@pytest.fixture
def texts(cfg, monkeypatch):
    monkeypatch.setattr(training.data, "load_text", lambda name, split, root=None: TEXTS[split])
    return training.Texts(replace(cfg, length=4, grams=(1, 2, 4)))


def test_windows_of_a_text_in_letters_and_spaces(texts) -> None:
    plain = "ab c d zebra " * 20
    assert texts.real.shape == (len(plain) - 3, 27, 4)
    assert set(texts.real.flatten().tolist()) == {0, 1}
    assert texts.spell(texts.real) == [plain[i : i + 4] for i in range(len(plain) - 3)]


def test_the_likeliest_symbol_is_spelled_and_scored(texts) -> None:
    soft = texts.real[:50] * 0.4 + 0.02
    assert texts.spell(soft) == texts.spell(texts.real[:50])
    assert texts.score(soft) == texts.score(texts.real[:50]) == texts.compare(texts.real[:50].argmax(1))
    assert list(texts.floor) == ["JSD-1", "JSD-2", "JSD-4"]
    assert all(value < 0.02 for value in texts.score(texts.real).values())
    only_z = torch.zeros(9, 27, 4)
    only_z[:, 26] = 1
    found = texts.score(only_z)
    p = 20 / (13 * 20)  # the share of z in the text
    jsd = 0.5 * (p * math.log2(p / ((1 + p) / 2)) + (1 - p) * 1) + 0.5 * math.log2(2 / (1 + p))
    assert found["JSD-1"] == pytest.approx(jsd)
    assert found["JSD-2"] == found["JSD-4"] == pytest.approx(1)


def test_the_floor_is_of_as_many_held_out_windows_as_are_generated(cfg, texts, monkeypatch) -> None:
    seen = []
    jsd = metrics.ngram_jsd
    monkeypatch.setattr(training.metrics, "ngram_jsd", lambda real, codes, n: seen.append(codes) or jsd(real, codes, n))
    small = replace(cfg, length=4, grams=(2,), text=replace(cfg.text, plan=replace(cfg.text.plan, samples=30)))
    found = training.Texts(small)
    (codes,) = seen
    held = "another zebra and a cab " * 20
    words = ["".join(training.SYMBOLS[c] for c in row) for row in codes.tolist()]
    assert len(words) == 30
    assert all(word in held for word in words)
    assert len(set(words)) > 10
    assert 0 < found.floor["JSD-2"] < 1
    assert training.Texts(small).floor == found.floor


@pytest.mark.parametrize(
    ("kind", "shape", "extra"),
    [
        ("mlp", (1, 8, 8), {}),
        ("dcgan", (3, 8, 8), {}),
        ("dcgan", (1, 8, 8), {"options": WGAN_GP}),
        ("resnet", (3, 8, 8), {}),
        ("text mlp", (27, 6), {}),
        ("text", (27, 6), {"blocks": 2}),
    ],
)
def test_players_of_a_seed(kind, shape, extra) -> None:
    plan = Plan(kind, (), (), z_dim=5, width=6, **extra)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    make = training.players(plan, shape)
    G, D = make(3)
    assert torch.equal(torch.get_rng_state(), before), "the global stream is left alone"
    assert G.z_dim == 5
    fake = G(torch.randn(4, 5))
    assert fake.shape == (4, *shape)
    assert D(fake).flatten().shape == (4,)
    for one, same, other in zip((G, D), make(3), make(4), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
        assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    normalised = any(isinstance(layer, nn.BatchNorm2d) for layer in D.modules())
    assert normalised == (kind == "dcgan" and not extra), "penalties on slopes allow no batch normalisation"
    gan.TTUR(G, D, lr_g=1e-3, lr_d=1e-3, **plan.options)
    sizes = [[p.numel() for p in player.parameters()] for player in (G, D)]
    wider = [[p.numel() for p in player.parameters()] for player in training.players(replace(plan, width=8), shape)(3)]
    deeper = training.players(replace(plan, blocks=plan.blocks + 1), shape)(3)
    assert all(sum(a) < sum(b) for a, b in zip(sizes, wider, strict=True))
    longer = [len(list(player.parameters())) - len(own) for player, own in zip(deeper, sizes, strict=True)]
    assert longer == ([4, 4] if kind == "text" else [0, 0])


PAIRS = ((0.1, 0.1), (0.2, 0.2), (0.1, 0.2), (0.2, 0.1), (0.3, 0.1))
FIDS = {  # pair -> FID at the last look, by seed: 100 and 101 choose
    (0.1, 0.1): {100: 9, 101: 9, 0: 3, 1: 2, 2: 1},
    (0.2, 0.2): {100: 8, 101: 8, 0: 40, 1: 20, 2: math.nan},
    (0.1, 0.2): {100: 7, 101: 7, 0: 10, 1: 10, 2: 10},
    (0.2, 0.1): {100: 20, 101: 2, 0: 4, 1: 5, 2: 50},  # the least geometric mean, though not the least mean
    (0.3, 0.1): {100: 1, 101: math.nan, 0: 1, 1: 1, 2: 1},
}


@pytest.fixture
def grids(monkeypatch):
    """Grids read from the table above, at looks 5 and 9; FID is 60, or 10 for the pair (0.1, 0.2), at the first."""
    asked = []

    def lr_grid(make, real, pairs, *, seeds, at, **others):
        asked.append((list(pairs), list(seeds), others))
        rows, sheets = [], {}
        for pair in pairs:
            for seed in seeds:
                last = FIDS[pair][seed]
                for update, fid in ((5, 10.0 if pair == (0.1, 0.2) else 60.0), (9, last)):
                    failed = None if math.isfinite(fid) else 7
                    row = {"lr_d": pair[0], "lr_g": pair[1], "seed": seed, "update": update, "diverged": failed}
                    rows.append(row | {"fid": fid, "relative": fid / 100, "log": math.log10(fid / 100)})
                sheets[*pair, seed] = torch.tensor([*pair, seed])
        order = np.random.default_rng(0).permutation(len(rows))
        return gan.Grid([rows[i] for i in order], sheets)

    monkeypatch.setattr(training.gan, "lr_grid", lr_grid)
    return asked


def contest(pairs=PAIRS, seeds=(0, 1, 2)):
    images = SimpleNamespace(shape=(1, 8, 8), device=torch.device("cpu"), signed=torch.zeros(4, 1, 8, 8))
    plan = Plan("mlp", pairs, (5, 9), samples=33, batch_size=7, options={"loss": "hinge"})
    return training.Contest(plan, images, grey, select_seeds=(100, 101), seeds=seeds)


def test_each_arm_chooses_on_its_own_seeds_and_meets_the_others_on_fresh_ones(grids) -> None:
    found = contest()
    (first, choosing, options), (second, fresh, same) = grids
    assert (first, choosing) == (list(PAIRS), [100, 101])
    assert (second, fresh) == ([(0.2, 0.2), (0.2, 0.1), (0.1, 0.2)], [0, 1, 2]), "each chosen pair once"
    assert {k: options[k] for k in ("samples", "batch_size", "options")} == {
        "samples": 33, "batch_size": 7, "options": {"loss": "hinge"}
    }  # fmt: skip
    assert same["samples"] == 33
    pairs = {arm: (chosen.lr_d, chosen.lr_g) for arm, chosen in found.chosen.items()}
    assert pairs == {
        "one rate": (0.2, 0.2), "two rates": (0.2, 0.1), "critic faster": (0.2, 0.1), "generator faster": (0.1, 0.2)
    }  # fmt: skip
    assert found.chosen["two rates"].tested == pytest.approx(np.log10([0.04, 0.05, 0.5]))
    assert len(found.selection) == len(PAIRS) * 2 * 2
    assert set(found.selection["seed"]) == {100, 101}
    assert found.fresh.groupby("arm").size().to_dict() == dict.fromkeys(pairs, 6)
    for arm, pair in pairs.items():
        rows = found.fresh[found.fresh["arm"] == arm]
        assert set(zip(rows["lr_d"], rows["lr_g"], strict=True)) == {pair}
        assert found.sheets[arm].tolist() == pytest.approx([*pair, 0])


def test_scores_are_in_the_order_of_the_seeds_at_the_look_asked_for(grids) -> None:
    found = contest()
    logs = {look: found.logs("two rates", look).tolist() for look in (-1, 0, None)}
    assert logs[-1] == pytest.approx(np.log10([0.04, 0.05, 0.5]).tolist())
    assert logs[0] == pytest.approx(np.log10([0.6] * 3).tolist())
    assert logs[None] == pytest.approx(np.log10([0.04, 0.05, 0.5]).tolist())
    best = found.logs("generator faster", None)
    assert best.tolist() == pytest.approx([-1.0, -1.0, -1.0])


def test_differences_are_paired_and_a_run_that_diverged_counts_as_the_worst(grids) -> None:
    found = contest()
    difference = found.less("two rates", "one rate")
    expected = np.log10([0.04, 0.05, 0.5]) - [math.log10(0.4), math.log10(0.2), training.WORST]
    assert difference.value == pytest.approx(expected.mean())
    assert difference.n == 3
    spread = expected.std(ddof=1) / 3**0.5
    assert difference.high - difference.low == pytest.approx(2 * 4.30265 * spread, rel=1e-4), "paired by seed"
    assert found.less("generator faster", "one rate", 0).value == pytest.approx(math.log10(0.1 / 0.6))
    assert found.less("two rates", "generator faster").value == pytest.approx(
        np.mean(np.log10([0.4, 0.5, 5])), rel=1e-6
    )


def test_no_run_counts_as_worse_than_one_that_diverged(grids, monkeypatch) -> None:
    monkeypatch.setitem(FIDS[0.1, 0.2], 1, 5000.0)
    found = contest()
    assert found.logs("generator faster").tolist() == pytest.approx([-1, training.WORST, -1])
    assert found.logs("one rate").tolist() == pytest.approx([math.log10(0.4), math.log10(0.2), training.WORST])
    assert found.logs("one rate", None)[2] == pytest.approx(math.log10(0.6)), "its best look, before it diverged"
    assert training.filled(np.array([0.5, np.nan, np.inf, -2])).tolist() == [0.5, 1, 1, -2]


def test_the_summary_is_of_geometric_means(grids) -> None:
    found = contest().summary()
    assert found.loc["two rates"].tolist() == pytest.approx(
        [0.2, 0.1, (0.2 * 0.02) ** (1 / 2), (0.04 * 0.05 * 0.5) ** (1 / 3), 0.04]
    )
    assert found.loc["one rate", "fresh seeds"] == pytest.approx((0.4 * 0.2 * 10) ** (1 / 3))


def test_an_arm_without_pairs_is_not_compared(grids) -> None:
    found = contest(pairs=PAIRS[:2] + PAIRS[3:4])
    assert set(found.chosen) == {"one rate", "two rates", "critic faster"}
    assert found.less("generator faster", "one rate") is None
    assert found.less("one rate", "generator faster") is None
    assert found.less("critic faster", "one rate") is not None


def test_a_seed_that_chooses_and_reports_is_refused(grids) -> None:
    with pytest.raises(ValueError, match="must be some, and differ"):
        contest(seeds=(100, 1))


def test_a_contest_trains(images) -> None:
    plan = Plan("mlp", crossed(1e-3, 1e-2), (2, 4), z_dim=3, width=4, batch_size=8, samples=5)
    found = training.Contest(plan, images, grey, select_seeds=(9,), seeds=(0, 1))
    assert found.sheets["one rate"].shape == (5, 1, 8, 8)
    one = found.chosen["one rate"]
    alone = gan.lr_grid(
        training.players(plan, images.shape), images.signed, [(one.lr_d, one.lr_g)], seeds=(0, 1), at=(2, 4),
        score=grey, batch_size=8, samples=5,
    )  # fmt: skip
    assert one.tested == pytest.approx([row["log"] for row in alone.rows if row["update"] == 4], rel=1e-4)
    assert set(found.selection["update"]) == {2, 4}


ARMS = Arms(
    Plan("mlp", (), (), z_dim=3, width=4, options=WGAN_GP, batch_size=8, samples=6),
    {"3:1": Arm(3, 2e-3, 1e-3), "1:1": Arm(1, 3e-3, 1e-3)},
    (1e-3,),
    (2e-4, 1e-3),
    2,
)


def test_arms_are_looked_at_where_they_have_cost_the_same(images) -> None:
    found, sheets = training.arms(ARMS, images.signed, grey, (4, 2))
    assert found.groupby(["arm", "giga"]).size().to_dict() == {
        (arm, giga): 2 for arm in ARMS.arms for giga in ARMS.giga
    }
    G, D = training.players(ARMS.plan, images.shape)(0)
    alone, both = gan.TTUR(G, D, lr_g=1, lr_d=1, **WGAN_GP).operations(images.signed[:8])
    for name, arm in ARMS.arms.items():
        rows = found[found["arm"] == name]
        assert (rows["lr_d"] == arm.lr_d).all()
        assert (rows["lr_g"] == arm.lr_g).all()
        assert (rows["update"] % arm.n_critic == 0).all(), "whole rounds"
        cost = alone * (arm.n_critic - 1) + both
        assert (rows["operations"] == rows["update"] / arm.n_critic * cost).all()
        assert ((rows["operations"] - rows["giga"] * 1e9).abs() <= cost / 2).all()
        assert sheets[name].shape == (6, 1, 8, 8)
    assert found["update"].max() > 5


def test_sheets_are_of_the_first_seed_and_a_small_budget_is_a_round(images) -> None:
    small = replace(ARMS, giga=(1e-9,))
    found, sheets = training.arms(small, images.signed, grey, (4, 2))
    assert found.groupby("arm")["update"].unique().map(list).to_dict() == {"1:1": [1], "3:1": [3]}
    _, first = training.arms(small, images.signed, grey, (4,))
    assert all(torch.allclose(sheets[name], first[name], atol=1e-5) for name in sheets)


def test_pairs_of_an_arm_are_tried_at_its_own_steps(images) -> None:
    made = training.arm_grid(ARMS, ARMS.arms["3:1"], images.signed, grey, (1,), [(1e-3, 1e-3), (4e-3, 2e-3)])
    assert [(row["lr_d"], row["lr_g"]) for row in made.rows[:2]] == [(1e-3, 1e-3), (4e-3, 2e-3)]
    assert {row["giga"] for row in made.rows} == set(ARMS.giga)
    assert all(row["update"] % 3 == 0 for row in made.rows)


def test_by_seed_sorts_and_selects() -> None:
    frame = pd.DataFrame({"seed": [2, 0, 1, 0], "arm": ["a", "a", "a", "b"], "giga": [1, 1, 1, 1], "fid": [3, 1, 2, 9]})
    assert training.by_seed(frame, "fid", arm="a", giga=1).tolist() == [1.0, 2.0, 3.0]
    assert training.by_seed(frame, "fid", arm="b").tolist() == [9.0]
    assert training.by_seed(frame[:3], "fid").dtype == float


def test_ahead_pairs_seeds_at_one_look_and_fills_what_diverged() -> None:
    rows = pd.DataFrame(
        [
            ("a", 5, 0, -1.0),
            ("a", 5, 1, -0.4),
            ("b", 5, 1, 0.1),
            ("b", 5, 0, np.nan),
            ("a", 9, 0, 7.0),
            ("b", 9, 0, 7.0),
        ],
        columns=["arm", "giga", "seed", "log"],
    )
    found = training.ahead(rows, "a", "b", "log", 5)
    assert (found.value, found.n) == (pytest.approx((-1.0 - training.WORST - 0.4 - 0.1) / 2), 2)
