"""Corruptions: known answers on pictures of a few pixels, and what every kind keeps to."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from flatlab.data import CORRUPTIONS, corrupt
from flatlab.data.corruptions import STRENGTHS

SEVERITIES = range(1, 6)
DETERMINISTIC = [kind for kind in CORRUPTIONS if kind != "noise"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 6, channels: int = 3, rows: int = 12, columns: int = 10) -> Tensor:
    return torch.rand(count, channels, rows, columns, generator=seeded(), dtype=torch.float64)


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_shape_dtype_and_range_stay_and_the_input_is_left_alone(kind: str, dtype: torch.dtype) -> None:
    exact = pictures()
    x = (exact * 255).round().to(dtype) if dtype == torch.uint8 else exact.to(dtype)
    before = x.clone()
    for severity in SEVERITIES:
        out = corrupt(x, kind, severity, generator=seeded())
        assert (out.shape, out.dtype) == (x.shape, dtype)
        assert 0 <= out.min() <= out.max() <= (255 if dtype == torch.uint8 else 1)
        assert not torch.equal(out, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_bytes_are_the_floats_rounded(kind: str) -> None:
    x = (pictures() * 255).round().byte()
    as_bytes = corrupt(x, kind, 4, generator=seeded())
    as_floats = corrupt(x.double() / 255, kind, 4, generator=seeded()) * 255
    assert (as_bytes.double() - as_floats).abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("size", [8, 28])
def test_the_change_grows_with_the_severity(kind: str, size: int, digits) -> None:
    x = torch.nn.functional.interpolate(digits.x[:300].double(), size=size, mode="bilinear")
    changes = [(corrupt(x, kind, s, generator=seeded()) - x).square().mean().item() for s in SEVERITIES]
    assert changes[0] > 1e-5
    assert all(weak < strong for weak, strong in itertools.pairwise(changes)), changes


@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_an_image_does_not_see_its_batch(kind: str) -> None:
    x = pictures()
    alone = torch.cat([corrupt(image[None], kind, 3) for image in x])
    torch.testing.assert_close(corrupt(x, kind, 3), alone, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_large_batches_are_worked_on_block_by_block(kind: str, monkeypatch) -> None:
    x = pictures(7)
    whole = corrupt(x, kind, 2, generator=seeded())
    monkeypatch.setattr("flatlab.data.corruptions._BLOCK", 3 * 360)
    parts = corrupt(x, kind, 2, generator=seeded())
    assert not torch.equal(parts[3:], x[3:])
    if kind != "noise":
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-14)


def test_noise_has_its_deviation_and_its_seed() -> None:
    x = torch.full((50, 1, 20, 20), 0.5, dtype=torch.float64)
    for severity in (1, 2):  # clips nothing to speak of
        change = corrupt(x, "noise", severity, generator=seeded()) - x
        strength = STRENGTHS["noise"][severity - 1]
        assert float(change.std()) == pytest.approx(strength, rel=4 / math.sqrt(2 * change.numel()))
        assert abs(float(change.mean())) < 4 * strength / math.sqrt(change.numel())
    one, same, other = (corrupt(x, "noise", 3, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


def test_contrast_and_brightness_by_hand() -> None:
    x = torch.tensor([0.0, 0.2, 0.4, 1.0, 0.5, 0.5, 0.5, 0.5], dtype=torch.float64).reshape(1, 2, 2, 2)
    faint = corrupt(x, "contrast", 4).flatten()  # the means of the channels are .4 and .5
    torch.testing.assert_close(faint, torch.tensor([0.28, 0.34, 0.4, 0.58, *[0.5] * 4], dtype=torch.float64))
    bright = corrupt(x, "brightness", 5).flatten()
    torch.testing.assert_close(bright, torch.tensor([0.5, 0.7, 0.9, 1.0, *[1.0] * 4], dtype=torch.float64))


def test_pixelate_by_hand() -> None:
    x = torch.arange(16, dtype=torch.float64).reshape(1, 1, 4, 4) / 15
    cells = torch.tensor([[2.5, 4.5], [10.5, 12.5]], dtype=torch.float64) / 15
    wanted = cells.repeat_interleave(2, 0).repeat_interleave(2, 1)
    torch.testing.assert_close(corrupt(x, "pixelate", 3)[0, 0], wanted)
    torch.testing.assert_close(corrupt(x, "pixelate", 5), torch.full_like(x, 0.5))


def test_pixelating_twice_changes_nothing_more() -> None:
    once = corrupt(pictures(), "pixelate", 1)
    torch.testing.assert_close(corrupt(once, "pixelate", 1), once)


def test_blur_has_its_width_in_proportion_to_the_image_and_keeps_the_sum() -> None:
    for side in (21, 63):
        point = torch.zeros(1, 1, side, side, dtype=torch.float64)
        point[..., side // 2, side // 2] = 1
        spread = corrupt(point, "blur", 3)[0, 0]
        assert float(spread.sum()) == pytest.approx(1, abs=1e-12)
        torch.testing.assert_close(spread, spread.T)
        torch.testing.assert_close(spread, spread.flip(0))
        place = torch.arange(side, dtype=torch.float64) - side // 2
        variance = float((spread.sum(1) * place.square()).sum())
        # a pixel adds the variance of its own width, 1/12; 4 deviations and a bit are kept, so .1 % may be missing
        assert variance == pytest.approx((0.07 * side) ** 2 + 1 / 12, rel=2e-3)


def test_blur_repeats_the_edge_and_does_not_wrap_round() -> None:
    x = torch.zeros(1, 1, 20, 20, dtype=torch.float64)
    x[..., 0] = 1
    line = corrupt(x, "blur", 2)[0, 0, 7]
    assert line[0] > 0.6
    assert line[-1] == 0


@pytest.mark.parametrize("kind", ["blur", "contrast", "pixelate"])
def test_an_even_image_stays_as_it_is(kind: str) -> None:
    x = torch.full((2, 1, 9, 7), 0.3, dtype=torch.float64)
    torch.testing.assert_close(corrupt(x, kind, 5), x)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_rows_and_columns_are_told_apart(kind: str) -> None:
    x = pictures(2, 1, 12, 6)
    if kind == "noise":
        assert corrupt(x, kind, 3).shape == x.shape
    else:
        torch.testing.assert_close(corrupt(x.mT, kind, 3), corrupt(x, kind, 3).mT)


@pytest.mark.parametrize("severity", [0, 6, -1, 1.5, True, float("nan"), "3"], ids=repr)
def test_a_severity_outside_one_to_five_is_refused(severity) -> None:
    with pytest.raises(ValueError, match=f"severity must be an integer in 1..5, got {severity!r}"):
        corrupt(pictures(), "blur", severity)


@pytest.mark.parametrize(
    ("images", "kind", "error", "message"),
    [
        (pictures(), "blurr", ValueError, "unknown corruption 'blurr': choose one of noise, .* did you mean 'blur'"),
        (pictures()[0], "blur", ValueError, r"batch \(N, C, H, W\), got shape \(3, 12, 10\)"),
        (pictures()[:0], "blur", ValueError, "non-empty batch"),
        (pictures() * 255, "blur", ValueError, r"must lie in \[0, 1\]"),
        (pictures() * math.nan, "blur", ValueError, r"must lie in \[0, 1\]"),
        (pictures().long(), "blur", TypeError, "torch.int64"),
    ],
    ids=["kind", "one image", "empty", "0 to 255", "NaN", "int64"],
)
def test_what_is_no_batch_of_images_is_refused(images: Tensor, kind: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        corrupt(images, kind, 1)
