"""The embedded digits against scikit-learn, and the constants the study rests on."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flatlab.data import DataCorrupt, digits, load_images, verify


@pytest.fixture(scope="module")
def original():
    from sklearn.datasets import load_digits

    return load_digits()


def sixteenths(images):
    """Invert the map from 0..16 to bytes."""
    return (images.x.double() * 16 / 255).round().long()


def test_shapes_and_class_counts():
    train, test = load_images("digits", "train"), load_images("digits", "test")
    assert train.x.shape == (1200, 1, 8, 8)
    assert test.x.shape == (597, 1, 8, 8)
    assert torch.bincount(train.y).tolist() == [119, 122, 118, 122, 121, 122, 121, 119, 116, 120]
    assert torch.bincount(test.y).tolist() == [59, 60, 59, 61, 60, 60, 60, 60, 58, 60]
    assert train.classes == tuple("0123456789")


def test_split_is_the_recorded_one():
    assert verify("digits", "train") == "11905301645b82a2896f9a0addb06b5c999f8e4e2ba81de1d4d20a726df55fbf"
    assert verify("digits", "test") == "3ef1db92db7c20d82da7151df58456e25d6ec05043d2daf3ce1df757db472685"


def test_splits_are_disjoint_and_exhaustive(original):
    """As multisets of (pixels, label), train and test together are the whole set."""
    parts = [load_images("digits", split) for split in ("train", "test")]
    ours = np.concatenate([np.c_[sixteenths(p).flatten(1).numpy(), p.y.numpy()] for p in parts])
    theirs = np.c_[original.data.astype(int), original.target]
    assert len(np.unique(theirs, axis=0)) == len(theirs)  # so that equal multisets mean disjoint parts
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_bytes_are_lossless_and_close_to_sixteenths():
    images = load_images("digits", "train")
    x, _ = images.float()
    assert sixteenths(images).unique().tolist() == list(range(17))
    assert images.x.unique().tolist() == [(v * 255 + 8) // 16 for v in range(17)]
    assert float((x - sixteenths(images) / 16).abs().max()) < 0.002


def test_size_limit_channels_apply():
    images = load_images("digits", "test", size=16, limit=50, channels=3)
    assert images.x.shape == (50, 3, 16, 16)
    assert torch.bincount(images.y).tolist() == [5] * 10


def test_changed_source_is_noticed(monkeypatch, original):
    altered = SimpleNamespace(images=original.images.copy(), target=original.target)
    altered.images[7, 0, 0] += 1
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: altered)
    with pytest.raises(DataCorrupt, match="checksum differs"):
        digits.load("train")


def test_import_is_light():
    code = "import sys, flatlab.data; print([m for m in {} if m in sys.modules])".format(
        ["sklearn", "scipy", "pandas", "pyarrow", "PIL", "huggingface_hub", "matplotlib"]
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
