"""Decoded images on disk: three files per split and size, memory-mapped when read.

    STEM.npy         images, uint8 (N, C, H, W)
    STEM.labels.npy  int64 (1, N): labels; (2, N): labels and domains
    STEM.json        shape and checksum; written last, so that its presence means the others are complete

A file is written under a name of its own and renamed, so any number of processes may decode the same set at once:
the last one wins with equal content. Nothing is pickled.
"""

import hashlib
import json
import os
import stat
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatlab.files import replacing, write_text

_ABANDONED_AFTER = 3600  # seconds after which a part file is taken for one of a process that died


@dataclass(frozen=True)
class Arrays:
    """x uint8 (N, C, H, W), y int64 (N,), domains int64 (N,) or None."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]
    domains: NDArray[np.int64] | None = None

    def labels(self) -> NDArray[np.int64]:
        """Labels and, where there are any, domains: (1, N) or (2, N)."""
        return np.stack([self.y] if self.domains is None else [self.y, self.domains])


def home() -> Path:
    """`$FLATLAB_CACHE`, or `~/.cache/flatlab`: where files go that cannot lie beside the data."""
    return Path(os.environ.get("FLATLAB_CACHE") or Path.home() / ".cache" / "flatlab")


def folders(root: Path) -> tuple[Path, ...]:
    """Where the cache of the data under `root` may lie, in the order of preference."""
    return (root / ".flatlab", home())


def checksum(arrays: Arrays) -> str:
    """SHA-256 over shapes and values of the decoded arrays, independent of how they were stored."""
    digest = hashlib.sha256()
    for array in (arrays.x, arrays.labels()):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def fetch(places: Sequence[Path], stem: str, decode: Callable[[], Arrays]) -> Arrays:
    """Return what is cached under `stem` in one of `places`; else decode, and cache it in the first writable one.

    A cache that is incomplete or damaged is as good as none: it is decoded and written again.
    """
    for place in places:
        cached = read(place, stem)
        if cached is not None:
            return cached
    arrays = decode()
    for place in filter(writable, places):
        with suppress(OSError):  # no right to write after all, or the disk is full: try the next
            write(place, stem, arrays)
            return read(place, stem) or arrays
    warnings.warn(
        f"decoded images could not be cached in {' or '.join(map(str, places))} and will be decoded again next time; "
        "set FLATLAB_CACHE to a writable folder",
        stacklevel=2,
    )
    return arrays


def manifest(place: Path, stem: str) -> dict[str, Any] | None:
    """The manifest beside a cache, or None where there is none that can be read."""
    try:
        content = json.loads((place / f"{stem}.json").read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read(place: Path, stem: str) -> Arrays | None:
    """Memory-map a complete cache, or return None."""
    expected = manifest(place, stem)
    if expected is None:
        return None
    try:
        # Copy-on-write rather than read-only: torch knows no read-only tensors, and an in-place operation on a
        # read-only mapping would kill the process.
        x = np.load(place / f"{stem}.npy", mmap_mode="c", allow_pickle=False)
        labels = np.load(place / f"{stem}.labels.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    complete = (
        x.dtype == np.uint8
        and labels.dtype == np.int64
        and list(x.shape) == expected.get("shape")
        and labels.shape in ((1, len(x)), (2, len(x)))
    )
    return Arrays(np.asarray(x), labels[0], labels[1] if len(labels) == 2 else None) if complete else None


def write(place: Path, stem: str, arrays: Arrays) -> None:
    """Write the three files; OSError where that is not possible."""
    place.mkdir(parents=True, exist_ok=True)
    _sweep(place)
    content = {"shape": list(arrays.x.shape), "checksum": checksum(arrays)}
    for name, array in ((f"{stem}.npy", arrays.x), (f"{stem}.labels.npy", arrays.labels())):
        with replacing(place / name) as part:
            _save(part, array)
    write_text(place / f"{stem}.json", json.dumps(content))


def writable(folder: Path) -> bool:
    """Whether `folder`, or the nearest existing one above it, may be written to.

    A folder without any write bit is left alone even by a user whom the system would let through (root).
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    write_bits = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
    return folder.is_dir() and bool(folder.stat().st_mode & write_bits) and os.access(folder, os.W_OK)


def _save(part: Path, array: NDArray[Any]) -> None:
    with part.open("wb") as file:  # a file object: np.save would append .npy to a name
        np.save(file, array, allow_pickle=False)


def _sweep(place: Path) -> None:
    for part in place.glob(".*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > _ABANDONED_AFTER:
                part.unlink()
