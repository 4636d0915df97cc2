"""`load_images`: a name and a split to an ImageSet."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from flatlab import checks
from flatlab.data import cache, digits, sources
from flatlab.data.decode import decode, resize_array
from flatlab.data.errors import DataCorrupt
from flatlab.data.images import ImageSet
from flatlab.data.registry import ENTRIES, Entry


class SplitStatus(NamedTuple):
    """One line of the table of data sets; `where` is a folder, "embedded", or "" where there is none."""

    name: str
    split: str
    rows: int
    classes: int
    where: str


def load_images(
    name: str,
    split: str,
    *,
    root: str | Path | None = None,
    size: int | None = None,
    limit: int | None = None,
    channels: int | None = None,
) -> ImageSet:
    """Return the images of a split as one uint8 tensor (N, C, H, W).

    The first call decodes the files and writes a cache, ROOT/.flatlab or, where that cannot be written,
    `$FLATLAB_CACHE` (default ~/.cache/flatlab); later calls map the cache into memory.

    Args:
        name: one of `available()`, or a folder ROOT/name/SPLIT/CLASS/ of your own (decoded as colour).
        split: "train" or "test"; `pacs` has "train" alone.
        root: folder of the data; default `$FLATLAB_DATA`, then `data` in the user's cache folder.
        size: resize every image to size x size, antialiased; default as stored.
        limit: at most so many images, in proportion of the classes (and domains), always the same ones, in their
            order. A limit above the number of images takes all.
        channels: 1 (luminance) or 3 (grey repeated); default as the set has.

    Raises:
        DataNotFound: if the files are not there; says where they are expected and how to get them.
        DataCorrupt: if they are damaged or not what the name says, or a pipe, a socket or a device lies among them.
        PermissionError: if a folder may not be read.
        ValueError: for an unknown name or split, a bad option, or images of different sizes without `size`.
    """
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels!r}")
    if limit is not None:
        checks.at_least("limit", limit, 1)
    entry, arrays = _load(name, split, root, size)
    images = ImageSet(
        x=torch.from_numpy(arrays.x),
        y=torch.from_numpy(arrays.y),
        classes=entry.classes,
        domains=None if arrays.domains is None else torch.from_numpy(arrays.domains),
        name=name,
        split=split,
        domain_names=entry.domains,
    )
    if limit is not None and limit < len(images):
        images = images.subset(images.stratified(limit, seed=0))
    return images if channels is None else images.with_channels(channels)


def verify(name: str, split: str, *, root: str | Path | None = None, size: int | None = None) -> str:
    """Read every byte of a split and return its SHA-256; DataCorrupt if it is not that of the first decoding.

    Loading checks names, shapes and numbers of rows only, because reading everything would undo the memory mapping.

    Args:
        name, split: of the data set, as in `load_images`.
        root: folder of the data; None for $FLATLAB_DATA.
        size: pixels that images were resized to when decoded; None for their own.
    """
    entry, arrays = _load(name, split, root, size)
    found = cache.checksum(arrays)
    if entry is ENTRIES["digits"]:
        return found  # compared with its constant on every load
    source = sources.locate(name, entry, split, root)
    stem = _stem(name, split, size, source.key(entry))
    for place in cache.folders(source.root):
        expected = cache.manifest(place, stem)
        if expected is not None and expected.get("checksum") != found:
            raise DataCorrupt(
                f"{place / stem}.npy has changed since it was decoded (checksum {found[:12]}, expected "
                f"{str(expected.get('checksum'))[:12]}); delete it, and it will be decoded again"
            )
    return found


def status(root: str | Path | None = None) -> tuple[SplitStatus, ...]:
    """One line per split of every known set, and where it was found; opens no file."""
    return tuple(
        SplitStatus(name, split, rows, len(entry.classes), _where(name, entry, split, root))
        for name, entry in ENTRIES.items()
        for split, rows in entry.rows.items()
    )


def _load(name: str, split: str, root: str | Path | None, size: int | None) -> tuple[Entry, cache.Arrays]:
    if size is not None:
        checks.at_least("size", size, 1)
    entry = sources.resolve(name, root)
    if entry.rows:
        checks.one_of(f"split of {name}", split, entry.rows)
    if name == "digits":
        arrays = digits.load(split)
        return entry, arrays if size is None else cache.Arrays(resize_array(arrays.x, size), arrays.y)
    source = sources.locate(name, entry, split, root)
    stem = _stem(name, split, size, source.key(entry))
    build = partial(decode, source, entry, size, entry.rows.get(split))
    return entry, cache.fetch(cache.folders(source.root), stem, build)


def _stem(name: str, split: str, size: int | None, key: str) -> str:
    return f"{name}-{split}-{size or 'native'}-{key}"


def _where(name: str, entry: Entry, split: str, root: str | Path | None) -> str:
    if name == "digits":
        return "embedded"
    source = sources.find(name, entry, split, root)
    return source.where if source is not None else ""
