"""Small image sets written by the tests: parquet in the hub's layout, and class folders."""

import io
from pathlib import Path

import numpy as np
import pytest

from flatlab.data.registry import ENTRIES, Entry

TOY = Entry("org/toy", "plain", ("cat", "dog"), 3, {"train": 3}, image="img")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    """No test reads or writes a folder of the user."""
    monkeypatch.delenv("FLATLAB_DATA", raising=False)
    monkeypatch.setenv("FLATLAB_CACHE", str(tmp_path / "user-cache"))


@pytest.fixture
def toy(monkeypatch):
    """A registered set of three colour images in one split."""
    monkeypatch.setitem(ENTRIES, "toy", TOY)
    return TOY


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def pixels():
    """Three images (3, 4, 6, 3): height 4, width 6, so that swapped axes show."""
    return np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)


@pytest.fixture
def png():
    """Encode (H, W) or (H, W, 3) pixels as PNG bytes."""

    def encode(array) -> bytes:
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        return buffer.getvalue()

    return encode


@pytest.fixture
def parquet(root, png):
    """Write a parquet file of the toy set; columns other than image and label as keywords."""

    def write(images, labels=(0, 1, 1), file="org/toy/plain/train-00000-of-00001.parquet", **columns) -> Path:
        import pyarrow as pa
        from pyarrow.parquet import write_table

        cells = [{"bytes": i if isinstance(i, bytes | None) else png(i), "path": None} for i in images]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        name = columns.pop("image_column", "img")
        write_table(pa.table({name: pa.array(cells, kind), "label": pa.array(labels, pa.int64()), **columns}), path)
        return path

    return write


@pytest.fixture
def class_folders(root, png):
    """Write images as ROOT/toy/train/CLASS/N.png, one class after the other."""

    def write(images, names=("cat", "dog", "dog"), folder="toy/train") -> Path:
        for number, (image, name) in enumerate(zip(images, names, strict=True)):
            path = root / folder / name / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(image))
        return root / folder

    return write
