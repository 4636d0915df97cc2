"""Damaged, truncated and mislabelled files: an error that names the file, never wrong data."""

import json

import numpy as np
import pytest

from flatlab.data import DataCorrupt, load_images, verify
from flatlab.data.registry import ENTRIES, Entry


def load(root, **options):
    return load_images("toy", "train", root=root, **options)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_parquet(toy, root, parquet, pixels, keep):
    path = parquet(pixels)
    content = path.read_bytes()
    path.write_bytes(content[: keep if keep >= 1 else int(len(content) * keep)])
    with pytest.raises(DataCorrupt, match=r"train-00000-of-00001\.parquet.*delete it and fetch it again"):
        load(root)


def test_damage_in_the_middle_of_a_parquet_file(monkeypatch, root, parquet):
    """The footer is whole, so only reading the pages shows it."""
    monkeypatch.setitem(ENTRIES, "toy", Entry("org/toy", "plain", ("a", "b"), 3, {"train": 40}, image="img"))
    noise = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    path = parquet(noise, [0, 1] * 20)
    content = bytearray(path.read_bytes())
    content[4:600] = bytes(596)
    path.write_bytes(content)
    with pytest.raises(DataCorrupt, match="train-00000"):
        load(root)


def test_missing_rows(toy, root, parquet, pixels):
    parquet(pixels[:2], [0, 1])
    with pytest.raises(DataCorrupt, match="holds 2 rows where a complete copy has 3"):
        load(root)


def test_missing_files_in_class_folders(toy, root, class_folders, pixels):
    class_folders(pixels[:2], ("cat", "dog"))
    with pytest.raises(DataCorrupt, match="2 rows"):
        load(root)


@pytest.mark.parametrize("label", [2, -1, None])
def test_label_out_of_range(toy, root, parquet, pixels, label):
    parquet(pixels, [0, label, 1])
    with pytest.raises(DataCorrupt, match=r"row 1 of .*0\.\.1"):
        load(root)
    assert not (root / ".flatlab").exists()


def test_unknown_domain(monkeypatch, root, parquet, pixels):
    entry = Entry("org/toy", "plain", ("cat", "dog"), 3, {"train": 3}, "img", domain="style", domains=("photo",))
    monkeypatch.setitem(ENTRIES, "toy", entry)
    parquet(pixels, style=["photo", "photo", "mural"])
    with pytest.raises(DataCorrupt, match=r"row 2 of .*'mural'"):
        load(root)


def test_misspelt_class_folder(toy, root, class_folders, pixels):
    class_folders(pixels, ("cat", "dogs", "dog"))
    with pytest.raises(DataCorrupt, match="did you mean 'dog'"):
        load(root)


def test_missing_column(toy, root, parquet, pixels):
    parquet(pixels, image_column="picture")
    with pytest.raises(DataCorrupt, match=r"lacks the columns img.*picture"):
        load(root)


@pytest.mark.parametrize("content", [None, b"", b"not an image"])
def test_unreadable_image(toy, root, parquet, pixels, content):
    parquet([pixels[0], content, pixels[2]])
    with pytest.raises(DataCorrupt, match="row 1 of "):
        load(root)


def test_truncated_image(toy, root, parquet, png):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    parquet([png(noise), png(noise)[:-400], png(noise)])
    with pytest.raises(DataCorrupt, match="row 1 of "):
        load(root)


def test_sixteen_bit_image_is_not_clipped(toy, root, parquet, pixels):
    deep = np.full((4, 6), 40_000, dtype=np.uint16)
    parquet([pixels[0], deep, pixels[2]])
    with pytest.raises(DataCorrupt, match="8 bits"):
        load(root)


def test_mixed_sizes_need_a_size(toy, root, parquet, pixels):
    parquet([pixels[0], pixels[1], pixels[2, :, :5]])
    with pytest.raises(ValueError, match=r"row 2 of .* is 4 x 5 pixels .* 4 x 6: pass size="):
        load(root)
    assert load(root, size=4).x.shape == (3, 3, 4, 4)


@pytest.fixture
def cached(toy, root, parquet, pixels):
    """The three files of a cache, by suffix."""
    parquet(pixels)
    load(root)
    return {path.name.split(".", 1)[1]: path for path in (root / ".flatlab").iterdir()}


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("npy", lambda content: content[:-10]),
        ("npy", lambda content: b""),
        ("npy", lambda content: b"\x80pickle" + content),
        ("labels.npy", lambda content: content[:-1]),
        ("json", lambda content: content[:-5]),
        ("json", lambda content: b"[]"),
        ("json", lambda content: content.replace(b"[3, ", b"[4, ")),
    ],
)
def test_broken_cache_is_made_again(cached, root, pixels, suffix, damage):
    whole = cached[suffix].read_bytes()
    cached[suffix].write_bytes(damage(whole))
    np.testing.assert_array_equal(load(root).x.numpy(), pixels.transpose(0, 3, 1, 2))
    assert cached[suffix].read_bytes() == whole


@pytest.mark.parametrize("suffix", ["npy", "labels.npy"])
def test_verify_finds_one_changed_byte(cached, root, suffix):
    assert verify("toy", "train", root=root) == json.loads(cached["json"].read_text())["checksum"]
    content = bytearray(cached[suffix].read_bytes())
    content[-8] ^= 1
    cached[suffix].write_bytes(content)
    with pytest.raises(DataCorrupt, match=r"toy-train-native-.*\.npy has changed.*delete it"):
        verify("toy", "train", root=root)
    for path in cached.values():
        path.unlink()
    assert verify("toy", "train", root=root)


def test_row_number_counts_across_batches(monkeypatch, root, parquet, pixels):
    monkeypatch.setitem(ENTRIES, "toy", Entry("org/toy", "plain", ("a", "b"), 3, {"train": 1500}, image="img"))
    parquet([pixels[0]] * 1500, [0] * 1400 + [7] + [0] * 99)
    with pytest.raises(DataCorrupt, match="row 1400 of "):
        load(root)
