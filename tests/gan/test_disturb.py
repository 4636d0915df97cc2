"""Disturbances: known answers on small pictures, what every kind keeps to, and that a level contains those below."""

import itertools
import math
import sys

import pytest
import torch
from torch import Tensor

from flatlab.gan import LEVELS, disturb, monotone

KINDS = tuple(LEVELS)
PLACED = ("rectangles", "salt_pepper", "contaminate")


def pictures(count: int = 6, channels: int = 3, rows: int = 12, columns: int = 10, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, rows, columns, generator=generator, dtype=torch.float64) * 0.9 + 0.05


def smooth(side: int, count: int = 20) -> Tensor:
    """Pictures of a few waves, (count, 1, side, side)."""
    coarse = pictures(count, 1, 4, 4)
    return torch.nn.functional.interpolate(coarse, size=side, mode="bilinear")


def point(side: int) -> Tensor:
    x = torch.zeros(1, 1, side, side, dtype=torch.float64)
    x[..., side // 2, side // 2] = 1
    return x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64], ids=str)
def test_shape_dtype_and_range_stay_and_level_zero_changes_no_bit(kind: str, dtype: torch.dtype) -> None:
    x, other = (
        (p * 255).round().to(dtype) if dtype == torch.uint8 else p.to(dtype) for p in (pictures(), pictures(seed=1))
    )
    before = x.clone()
    assert LEVELS[kind][0] == 0
    same = disturb(x, kind, 0.0, other=other)
    assert torch.equal(same, x)
    assert same.data_ptr() != x.data_ptr()
    for level in LEVELS[kind][1:]:
        out = disturb(x, kind, level, other=other)
        assert (out.shape, out.dtype) == (x.shape, dtype)
        assert 0 <= out.min() <= out.max() <= (255 if dtype == torch.uint8 else 1)
        assert not torch.equal(out, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "contaminate"])
def test_bytes_are_the_floats_rounded(kind: str) -> None:
    x = (pictures() * 255).round().byte()
    as_floats = disturb(x.double() / 255, kind, LEVELS[kind][2]) * 255
    assert (disturb(x, kind, LEVELS[kind][2]).double() - as_floats).abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [8, 28, 64])
def test_the_change_grows_with_the_level(kind: str, side: int) -> None:
    x = smooth(side)
    changes = [(disturb(x, kind, level, other=x.flip(0)) - x).square().mean().item() for level in LEVELS[kind]]
    assert monotone(changes).strict, changes


@pytest.mark.parametrize("kind", PLACED)
@pytest.mark.parametrize("side", [8, 31])
def test_what_is_disturbed_at_a_level_is_disturbed_above_it(kind: str, side: int) -> None:
    x, other = pictures(40, 2, side, side), pictures(50, 2, side, side, seed=1)
    levels = [i / 20 for i in range(21)]
    outs = [disturb(x, kind, level, other=other, seed=3) for level in levels]
    for low, high in itertools.pairwise(outs):
        changed = low != x
        assert torch.equal(high[changed], low[changed])
    assert (outs[-1] != x).all()
    share = (outs[10] != x).double().mean()
    wanted = 0.5 if kind != "rectangles" else 0.62  # five squares of a quarter of the area, which overlap
    assert share == pytest.approx(wanted, abs=0.1)


@pytest.mark.parametrize("kind", ["noise", *PLACED])
def test_seeds_decide_and_images_draw_their_own(kind: str) -> None:
    x, other = pictures(20, 1).new_full((20, 1, 12, 10), 0.5), pictures(20, 1)
    first, again, second = (disturb(x, kind, 0.5, seed=seed, other=other) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    if kind != "contaminate":
        assert len({tuple(image.flatten().tolist()) for image in first}) > 15


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "contaminate"])
def test_large_sets_are_worked_on_block_by_block(kind: str, monkeypatch) -> None:
    x = pictures(7)
    whole = disturb(x, kind, 0.5)
    monkeypatch.setattr(sys.modules[disturb.__module__], "_BLOCK", 3 * 360)
    parts = disturb(x, kind, 0.5)
    assert (parts != x).flatten(1).any(1).all()
    if kind in ("blur", "swirl"):
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-14)


def test_noise_is_a_mixture_with_a_gaussian_of_fixed_deviation() -> None:
    x = torch.full((40, 1, 50, 50), 0.2, dtype=torch.float64)
    for level in (0.25, 0.75):
        n = (disturb(x, "noise", level) - (1 - level) * x) / level
        assert float(n.mean()) == pytest.approx(0.5, abs=2e-3)
        assert float(n.std()) == pytest.approx(0.125, rel=0.01)
        assert n.min() >= -1e-6
        assert n.max() <= 1 + 1e-6
    assert torch.allclose(disturb(x, "noise", 1.0) - disturb(1 - x, "noise", 1.0), torch.zeros(1).double(), atol=1e-12)


@pytest.mark.parametrize("level", [1.0, 2.0, 4.0])
def test_blur_has_its_width_in_proportion_to_the_image(level: float) -> None:
    for side in (65, 129, 33):
        spread = disturb(point(side), "blur", level)[0, 0]
        assert float(spread.sum()) == pytest.approx(1, abs=1e-12)
        torch.testing.assert_close(spread, spread.T)
        place = torch.arange(side, dtype=torch.float64) - side // 2
        variance = float((spread.sum(1) * place.square()).sum())
        assert variance == pytest.approx((level * side / 64) ** 2, rel=1e-6)


def test_blurs_add_up_mirror_at_the_edge_and_go_by_the_shorter_side() -> None:
    x = pictures(2, 2, 16, 24)
    twice = disturb(disturb(x, "blur", 3.0), "blur", 4.0)
    torch.testing.assert_close(disturb(x, "blur", 5.0), twice, rtol=0, atol=1e-12)
    torch.testing.assert_close(disturb(x, "blur", 3.0).mean((2, 3)), x.mean((2, 3)), rtol=0, atol=1e-12)
    mirrored = torch.cat([x.flip(2), x, x.flip(2)], 2)  # 48 by 24: the shorter side is 24, not 16
    whole = disturb(mirrored, "blur", 2.0)[:, :, 16:32]
    torch.testing.assert_close(disturb(x, "blur", 3.0), whole, rtol=0, atol=1e-6)
    even = torch.full((1, 1, 9, 7), 0.3, dtype=torch.float64)
    torch.testing.assert_close(disturb(even, "blur", 4.0), even)


@pytest.mark.parametrize(("rows", "columns", "level"), [(12, 8, 0.25), (20, 20, 0.75), (8, 8, 0.5)])
def test_rectangles_are_black_and_have_their_sides(rows: int, columns: int, level: float) -> None:
    x = pictures(300, 2, rows, columns)
    out = disturb(x, "rectangles", level)
    black = out[:, 0] == 0
    assert torch.equal(black, out[:, 1] == 0)
    assert torch.equal(out[:, 0][~black], x[:, 0][~black])
    height, width = round(level * rows), round(level * columns)
    area = black.flatten(1).sum(1)
    assert height * width <= area.min() <= area.max() <= min(5 * height * width, rows * columns)
    if level == 0.25:
        assert area.max() == 5 * height * width  # some five do not overlap
    first = black.any(2).double().argmax(1)  # the upper edge of the topmost: it reaches the top, and spares it too
    assert first.min() == 0 < first.max()
    assert black[:, -1].any()
    assert black[:, :, -1].any()


def test_swirl_turns_by_its_angle() -> None:
    side, level = 65, 2.0
    middle = side // 2
    place = torch.arange(side, dtype=torch.float64) - middle
    y, z = torch.meshgrid(place, place, indexing="ij")
    x = ((torch.cos(torch.atan2(y, z)) + 1) / 2)[None, None]  # says at which angle a pixel was
    out = disturb(x, "swirl", level)[0, 0]
    radius, angle = torch.hypot(z, y), torch.atan2(y, z)
    rho = 25 * side / 64
    wanted = (torch.cos(angle + level * torch.exp(-5 * radius / (rho * math.log(2)))) + 1) / 2
    ring = (radius > 4) & (radius < middle)
    torch.testing.assert_close(out[ring], wanted[ring], rtol=0, atol=0.01)
    assert out[middle, middle] == x[0, 0, middle, middle]


def test_a_swirl_by_nearly_nothing_moves_nothing() -> None:
    x = pictures()
    torch.testing.assert_close(disturb(x, "swirl", 1e-9), x, rtol=0, atol=1e-7)


def test_swirl_keeps_what_is_round_and_a_whole_turn_at_the_centre() -> None:
    place = torch.arange(40, dtype=torch.float64) - 19.5
    radius = torch.hypot(place[:, None], place)
    round_image = (-radius / 15).exp()[None, None]
    change = (disturb(round_image, "swirl", 4.0) - round_image).abs()[0, 0]
    assert change[radius < 19].max() < 0.012
    wide = torch.nn.functional.interpolate(pictures(3, 2, 4, 6), size=(24, 36), mode="bilinear")
    torch.testing.assert_close(  # mirrored along the diagonal, it turns the other way: rows and columns are told apart
        disturb(wide.mT.flip(2), "swirl", 2.0), disturb(wide, "swirl", 2.0).mT.flip(2), rtol=0, atol=1e-12
    )


def test_salt_and_pepper() -> None:
    x = pictures(50, 3, 30, 30)
    out = disturb(x, "salt_pepper", 0.2)
    hit = out != x
    assert torch.equal(hit.all(1), hit.any(1))  # all channels together
    assert float(hit.double().mean()) == pytest.approx(0.2, abs=0.01)
    assert set(out[hit].tolist()) == {0.0, 1.0}
    assert float(out[hit].mean()) == pytest.approx(0.5, abs=0.02)


def test_contamination_takes_each_image_once() -> None:
    x, other = torch.zeros(20, 1, 2, 2), (torch.arange(1, 16) / 16).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    out = disturb(x, "contaminate", 0.75, other=other)[:, 0, 0, 0]
    assert sorted(out[out > 0].tolist()) == other[:, 0, 0, 0].tolist()
    assert (out == 0).sum() == 5
    assert (out[:15] == 0).any()  # any of them may go, and any of the others come
    few = disturb(x, "contaminate", 0.25, other=other)[:, 0, 0, 0]
    assert sorted(few[few > 0].tolist()) != other[:5, 0, 0, 0].tolist()


def test_steps() -> None:
    steps = monotone([0.7, 371, 383, 381])  # the paper's salt and pepper
    assert steps.differences.tolist() == pytest.approx([370.3, 12, -2])
    assert (steps.reversed, steps.strict) == (1, False)
    assert (monotone([1, 1, 2]).reversed, monotone([1, 1, 2]).strict) == (0, False)
    assert monotone(torch.tensor([1.0, 2.0])).strict
    for values in ([1.0], [1.0, math.nan], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="at least two finite numbers"):
            monotone(values)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((pictures(), "gauss", 0.5), ValueError, "unknown disturbance 'gauss': choose one of noise"),
        ((pictures(), "noise", 1.5), ValueError, r"level of noise is a share and must lie in \[0, 1\], got 1.5"),
        ((pictures(), "salt_pepper", 2), ValueError, "level of salt_pepper is a share"),
        ((pictures(), "blur", -1.0), ValueError, "level must be a finite number >= 0"),
        ((pictures()[0], "blur", 1.0), ValueError, r"batch \(N, C, H, W\), got shape \(3, 12, 10\)"),
        ((pictures()[:0], "blur", 1.0), ValueError, "non-empty batch"),
        ((pictures() * 255, "noise", 0.5), ValueError, r"must lie in \[0, 1\]"),
        ((pictures().long(), "noise", 0.5), TypeError, "torch.int64"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        disturb(*arguments)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (None, "give them with other="),
        (pictures(6, 1), r"images like the first, \(3, 12, 10\) torch.float64, got \(1, 12, 10\)"),
        (pictures().float(), "got .* torch.float32; resize and convert"),
        (pictures(2), "at least 3 images to replace as many, got 2"),
        (pictures() * 2, r"must lie in \[0, 1\]"),
    ],
)
def test_other_images_must_fit(other: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        disturb(pictures(), "contaminate", 0.5, other=other)
