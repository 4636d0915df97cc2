"""What is measured of disturbed images and of finite samples, against frames and closed forms."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from flatlab import gan
from flatlab.studies.two_time_scale_gan import distances

COVARIANCE = torch.diag(torch.tensor([2.0, 1.0, 1.0, 0.5]))
ROTATED = torch.tensor([[1.0, -1.0], [1.0, 1.0]]) / 2**0.5 @ torch.diag(torch.tensor([3.0, 0.5]))
TILTED = ROTATED @ ROTATED.T  # eigenvalues 9 and 1/4, off the axes


def brightness(scale):
    """Stands for a judge: FID is the mean grey value, the inception score twice its negative."""

    def mean(x):
        return float(x.double().mean())

    return SimpleNamespace(fid=mean, inception=lambda x: -2 * mean(x), scale=scale)


def test_textures_are_smooth_and_follow_their_seed() -> None:
    x = distances.textures(40, (3, 16, 12), 5)
    assert x.shape == (40, 3, 16, 12)
    assert x.dtype == torch.uint8
    assert torch.equal(x, distances.textures(40, (3, 16, 12), 5))
    assert not torch.equal(x, distances.textures(40, (3, 16, 12), 6))
    values = x.double()
    assert values.std() > 40
    assert values.diff(dim=-1).abs().mean() < 0.4 * (values - values.flip(-1)).abs().mean()
    assert not torch.equal(x[0], x[1])


def test_other_images_take_the_shape_of_these(cfg, images) -> None:
    made = distances.others(cfg, images)
    assert torch.equal(made, distances.textures(len(images.test), images.shape, cfg.data_seed))
    coloured = SimpleNamespace(test=range(7), shape=(3, 12, 12), device="cpu")
    found = distances.others(replace(cfg, other=("digits", "train")), coloured)
    assert found.shape == (7, 3, 12, 12)
    assert found.dtype == torch.uint8
    assert torch.equal(found[:, 0], found[:, 1])


def test_each_judge_sees_the_same_disturbed_images(images) -> None:
    panel, other = [brightness(2.0), brightness(4.0)], distances.textures(60, images.shape, 0)
    found = distances.disturbed(panel, images, other, 9)
    assert len(found) == 2 * sum(map(len, gan.LEVELS.values()))
    for kind, levels in gan.LEVELS.items():
        for place, level in enumerate(levels):
            rows = found[(found["kind"] == kind) & (found["place"] == place)].set_index("judge")
            seen = gan.disturb(images.test.x, kind, level, seed=9, other=other).double().mean().item()
            assert rows["level"].tolist() == [level, level]
            assert rows["FID"].tolist() == [seen, seen]
            assert rows["inception score"].tolist() == [-2 * seen, -2 * seen]
            assert rows["relative"].tolist() == [seen / 2, seen / 4]
    least = found.groupby(["kind", "judge"])["IND"].min()
    assert (least == 0).all(), "the best inception score less this one"
    noise = found[(found["kind"] == "rectangles") & (found["judge"] == 1)]
    assert noise["IND"].tolist() == pytest.approx((2 * (noise["FID"] - noise["FID"].min())).tolist())


def test_steps_go_from_level_to_level_with_one_number_a_judge() -> None:
    values = {"blur": [[1, 2, 4], [5, 5, 6]], "noise": [[0, 3, 1], [10, 20, 40]]}
    rows = [
        {"kind": kind, "judge": judge, "place": place, "FID": value, "IND": -value}
        for kind, table in values.items()
        for judge, series in enumerate(table)
        for place, value in enumerate(series)
    ]
    frame = pd.DataFrame(rows[::-1])
    found = distances.steps(frame, "FID")
    assert {key: value.tolist() for key, value in found.items()} == {
        ("blur", 1): [1, 0],
        ("blur", 2): [2, 1],
        ("noise", 1): [3, 10],
        ("noise", 2): [-2, 20],
    }
    assert next(iter(found))[0] == "noise", "kinds in the order of the frame"
    assert distances.steps(frame, "IND")["noise", 2].tolist() == [2, -20]


def test_the_bias_of_normal_samples_is_the_known_one(cfg) -> None:
    """For unit covariance in D dimensions N times the mean FID is 2 D + D (D + 1) / 2."""
    some = replace(cfg, bias_sizes=(200, 400), bias_draws=60)
    found = distances.bias_table(some, torch.eye(4), torch.randn(900, 4))
    assert found.groupby(["of", "N"]).size().to_dict() == dict.fromkeys(
        [("images", 200), ("images", 400), ("normal", 200), ("normal", 400)], 60
    )
    means = (found["FID"] * found["N"]).groupby(found["of"]).mean()
    assert means["normal"] == pytest.approx(18, rel=0.12)
    assert means["images"] == pytest.approx(18, rel=0.25)
    wide = distances.bias_table(some, 9 * torch.eye(4), torch.randn(900, 4))
    assert (wide["FID"] / found["FID"])[found["of"] == "normal"].to_numpy() == pytest.approx(9)
    tilted = distances.bias_table(some, TILTED, torch.randn(900, 2))
    straight = distances.bias_table(some, torch.diag(torch.tensor([0.25, 9.0])), torch.randn(900, 2))
    chosen = found["of"] == "normal"
    assert tilted[chosen]["FID"].tolist() == pytest.approx(straight[chosen]["FID"].tolist(), rel=1e-3)


def test_samples_of_images_are_disjoint_and_no_larger_than_half(cfg, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(distances.metrics, "fid", lambda a, b, **_: seen.append((a, b)) or 0.0)
    features = torch.arange(20.0)[:, None] + torch.tensor([0.0, 100.0])
    found = distances.bias_table(replace(cfg, bias_sizes=(4, 10, 11), bias_draws=5), torch.eye(2), features)
    assert found.groupby(["of", "N"]).size().to_dict() == {
        ("images", 4): 5, ("images", 10): 5, ("normal", 4): 5, ("normal", 10): 5, ("normal", 11): 5
    }  # fmt: skip
    pairs = [(a[:, 0].tolist(), b[:, 0].tolist()) for a, b in seen if float(a[0, 0]).is_integer()]
    assert [len(a) for a, _ in pairs] == [4] * 5 + [10] * 5
    assert all(len({*a, *b}) == 2 * len(a) == 2 * len(b) for a, b in pairs)
    assert len({tuple(a) for a, _ in pairs}) == len(pairs), "another draw each time"


def test_the_truth_of_a_normal_generator_and_what_extrapolation_gains(cfg) -> None:
    found = distances.infinity_table(replace(cfg, bias_sizes=(40, 80), bias_draws=30), COVARIANCE)
    assert found["draw"].tolist() == list(range(30))
    truth = 4.5 * (0.05**2 + (1.3**0.5 - 1) ** 2)
    assert found["truth"].tolist() == pytest.approx([truth] * 30, rel=1e-5)
    assert found["plain"].mean() > 1.5 * truth
    assert abs(found["FID-infinity"].mean() - truth) < 0.5 * abs(found["plain"].mean() - truth)
    tilted = distances.infinity_table(replace(cfg, bias_sizes=(2000,), bias_draws=3), TILTED)
    assert tilted["truth"].iloc[0] == pytest.approx(9.25 * (0.05**2 + (1.3**0.5 - 1) ** 2), rel=1e-5)
    assert tilted["plain"].mean() == pytest.approx(tilted["truth"].iloc[0], rel=0.25)


def test_intervals_are_set_against_the_true_difference(cfg) -> None:
    found = distances.coverage_table(replace(cfg, bias_sizes=(60, 300), coverage=40), TILTED)
    assert len(found) == 40
    assert (found["truth"][1::2] == 0).all(), "every other pair is equally far"
    assert (found["truth"][::2].abs() > 1e-3).all()
    inside = (found["low"] <= found["truth"]) & (found["truth"] <= found["high"])
    assert (inside == found["covered"]).all()
    assert found["covered"].mean() > 0.8
    assert np.corrcoef(found["truth"][::2], found["value"][::2])[0, 1] > 0.9
    assert found["truth"].abs().max() < 9.25 * ((2.5**0.5 - 1) ** 2 - (1.5**0.5 - 1) ** 2)


@pytest.mark.parametrize("table", [distances.infinity_table, distances.coverage_table])
def test_another_seed_draws_other_samples(cfg, table) -> None:
    small = replace(cfg, bias_sizes=(50,), bias_draws=2, coverage=2)
    column = "plain" if table is distances.infinity_table else "value"
    first, again, other = (
        table(replace(small, seeds=seeds), COVARIANCE)[column].tolist() for seeds in ((3, 4), (3,), (4, 3))
    )
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))
