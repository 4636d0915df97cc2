"""ImageSet, holdout and the stratified draw behind them."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flatlab.data import ImageSet, holdout, load_images, noisy_labels
from flatlab.data.sampling import _GAMMA, _mix, stratified_rows

LABELS = st.lists(st.integers(0, 4), min_size=2, max_size=60)


def numbered(labels, **options) -> ImageSet:
    """Images whose first two bytes are their row number, so that a row can be told wherever it goes."""
    rows = torch.arange(len(labels))
    x = torch.stack([rows // 256, rows % 256], dim=1).to(torch.uint8).reshape(-1, 1, 1, 2)
    return ImageSet(x, torch.as_tensor(labels), tuple("abcde"), **options)


def rows_of(images: ImageSet) -> list[int]:
    return [int(a) * 256 + int(b) for a, b in images.x.flatten(1)]


def test_splitmix64_known_answers():
    """The first outputs for state 1234567, as published with the reference implementation's ports."""
    states = np.array([1234567], dtype=np.uint64) + np.arange(1, 4, dtype=np.uint64) * _GAMMA
    assert _mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@settings(deadline=None, max_examples=60)
@given(labels=LABELS, fraction=st.floats(0, 1), seed=st.integers(-5, 2**70))
def test_stratified_rows_give_each_class_its_share(labels, fraction, seed):
    labels = np.array(labels)
    size = round(fraction * len(labels))
    rows = stratified_rows(labels, size, seed=seed)
    assert len(rows) == size
    assert (np.diff(rows) > 0).all()
    for label in np.unique(labels):
        share = (labels == label).sum() * size / len(labels)
        assert np.floor(share) <= (labels[rows] == label).sum() <= np.ceil(share)


def test_stratified_rows_are_spread_and_depend_on_the_seed():
    labels = np.zeros(2000, dtype=np.int64)
    draws = [set(stratified_rows(labels, 1000, seed=seed).tolist()) for seed in range(4)]
    for draw in draws:
        assert 420 < sum(row < 1000 for row in draw) < 580  # neither a prefix nor every second row
    for one, other in pairwise(draws):
        for move in (-1, 0, 1):  # as many as independent halves share, also if one is moved by a row
            assert 420 < len({row + move for row in one} & other) < 580


@settings(deadline=None, max_examples=40)
@given(labels=LABELS, data=st.data(), seed=st.integers(0, 1000))
def test_holdout_partitions_in_order(labels, data, seed):
    images = numbered(labels)
    size = data.draw(st.integers(1, len(labels) - 1))
    rest, held = holdout(images, size, seed=seed)
    assert len(held) == size
    assert sorted(rows_of(rest) + rows_of(held)) == list(range(len(labels)))
    for part in (rest, held):
        assert rows_of(part) == sorted(rows_of(part))
        assert part.y.tolist() == [labels[row] for row in rows_of(part)]
    assert rows_of(holdout(images, size, seed=seed)[1]) == rows_of(held)


def test_holdout_by_fraction_and_by_domain():
    images = numbered([0, 1] * 20, domains=torch.arange(40) // 20, domain_names=("photo", "sketch"))
    rest, held = holdout(images, 0.2, seed=3)
    assert (len(rest), len(held)) == (32, 8)
    assert torch.bincount(held.domains * 2 + held.y).tolist() == [2, 2, 2, 2]
    assert held.domain_names == ("photo", "sketch")


@pytest.mark.parametrize("size", [0, 10, 11, -1, 0.0, 1.0, 0.01, True, float("nan")])
def test_holdout_refuses_an_empty_part(size):
    with pytest.raises(ValueError, match="size"):
        holdout(numbered([0, 1] * 5), size, seed=0)


def test_float_scales_and_keeps_the_bytes():
    images = numbered([0, 1, 2])
    before = images.x.clone()
    x, y = images.float("cpu")
    assert x.dtype == torch.float32
    assert x[2, 0, 0, 1] == torch.tensor(2 / 255)
    assert torch.equal(images.x, before)
    assert torch.equal(y, images.y)
    full = ImageSet(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), ("a",))
    assert (full.float()[0] == 1).all()


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ([3, 1, -1], [3, 1, 4]),
        (torch.tensor([2, 2]), [2, 2]),
        (np.array([0, 4]), [0, 4]),
        (slice(1, None, 2), [1, 3]),
        (torch.tensor([True, False, False, True, False]), [0, 3]),
    ],
)
def test_subset_takes_every_kind_of_index(index, expected):
    domains = torch.tensor([0, 1, 0, 1, 0])
    images = numbered([0, 1, 2, 3, 4], domains=domains, domain_names=("p", "q"), name="set", split="train")
    part = images.subset(index)
    assert rows_of(part) == expected
    assert part.y.tolist() == expected
    assert part.domains.tolist() == [row % 2 for row in expected]
    assert (part.name, part.split, part.classes) == ("set", "train", images.classes)


@pytest.mark.parametrize("index", [[], slice(0, 0), 2, [[0, 1]]])
def test_subset_refuses_nothing_and_scalars(index):
    with pytest.raises((ValueError, IndexError)):
        numbered([0, 1, 2]).subset(index)


def test_subset_out_of_range_is_an_index_error():
    with pytest.raises(IndexError):
        numbered([0, 1, 2]).subset([3])


def test_luminance_is_pillows():
    from PIL import Image

    colours = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    images = ImageSet(torch.from_numpy(colours).permute(2, 0, 1)[None], torch.zeros(1, dtype=torch.int64), ("a",))
    expected = np.asarray(Image.fromarray(colours).convert("L"))
    np.testing.assert_array_equal(images.with_channels(1).x[0, 0].numpy(), expected)


def test_grey_is_repeated_and_equal_channels_are_left():
    images = numbered([0, 1])
    colour = images.with_channels(3)
    assert colour.x.shape == (2, 3, 1, 2)
    assert (colour.x == images.x).all()
    assert images.with_channels(1) is images
    with pytest.raises(ValueError, match="1 or 3, got 2"):
        images.with_channels(2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(2, 1, 2, 2)}, TypeError, "uint8"),
        ({"x": torch.zeros(2, 4, dtype=torch.uint8)}, ValueError, r"\(N, C, H, W\)"),
        ({"x": torch.zeros(0, 1, 2, 2, dtype=torch.uint8)}, ValueError, "non-empty"),
        ({"y": torch.tensor([0, 2])}, ValueError, r"0\.\.1"),
        ({"y": torch.tensor([0])}, ValueError, r"\(2,\)"),
        ({"y": torch.tensor([0, 1], dtype=torch.int32)}, TypeError, "int64"),
        ({"y": torch.tensor([0.0, 1.0])}, TypeError, "int64"),
        ({"classes": ("a", "a")}, ValueError, "different"),
        ({"domains": torch.tensor([0, 1])}, ValueError, "domains does not index the 0 names"),
    ],
)
def test_invalid_sets_are_refused(change, error, message):
    valid = {"x": torch.zeros(2, 1, 2, 2, dtype=torch.uint8), "y": torch.tensor([0, 1]), "classes": ("a", "b")}
    ImageSet(**valid)
    with pytest.raises(error, match=message):
        ImageSet(**(valid | change))


def test_label_noise() -> None:
    digits = load_images("digits", "train", limit=120)
    noisy = noisy_labels(digits, 0.5, seed=0)
    changed = (noisy.y != digits.y).sum().item()
    assert 40 < changed <= 60
    assert torch.equal(noisy.x, digits.x)
    assert torch.equal(noisy_labels(digits, 0.0, seed=0).y, digits.y)
    with pytest.raises(ValueError, match=r"fraction must lie in \[0, 1\], got 1.5"):
        noisy_labels(digits, 1.5, seed=0)
