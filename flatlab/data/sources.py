"""Where the files of an image set lie: parquet in the hub's layout, or one folder per class.

ROOT/ORG/NAME/CONFIG/SPLIT-*.parquet     as `download` and a mirror of the hub leave them
ROOT/name/SPLIT/CLASS/*.png|jpg|jpeg     or SPLIT/DOMAIN/CLASS/ for a set with domains
"""

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from flatlab import checks
from flatlab.data import cache
from flatlab.data.errors import DataCorrupt, DataNotFound
from flatlab.data.registry import ENTRIES, Entry

SUFFIXES = (".png", ".jpg", ".jpeg")
_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}


@dataclass(frozen=True)
class Source:
    """Files of one split: parquet files, or images with their label and domain (None without domains)."""

    root: Path
    parquet: tuple[Path, ...] = ()
    images: tuple[tuple[Path, int, int | None], ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, in the order of their rows."""
        return self.parquet or tuple(path for path, _, _ in self.images)

    @property
    def where(self) -> str:
        """The folder in words, for messages and tables."""
        return os.path.commonpath([path.parent for path in self.files])

    def key(self, entry: Entry) -> str:
        """Twelve hex digits that change with the root, any file's name, size or time, and how the files are read."""
        digest = hashlib.sha256(repr((1, entry)).encode())
        digest.update(os.fsencode(self.root.resolve()) + b"\n")
        for path in self.files:
            facts = regular(path)
            digest.update(os.fsencode(f"{path.relative_to(self.root)}\0{facts.st_size}\0{facts.st_mtime_ns}\n"))
        return digest.hexdigest()[:12]


def regular(path: Path) -> os.stat_result:
    """What the system says of a file; DataCorrupt for a folder, and for what would keep its reader waiting."""
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        kind = _KINDS.get(stat.S_IFMT(facts.st_mode), "device")
        raise DataCorrupt(f"{path} is a {kind} where a file of data is expected: remove it")
    return facts


def roots(root: str | Path | None = None) -> tuple[Path, ...]:
    """Folders to look under: `root` alone if given, else `$FLATLAB_DATA` if set, then `data` in the user's cache.

    Raises:
        DataNotFound: one of them is a file.
        PermissionError: one of them may not be read.
    """
    named = root or os.environ.get("FLATLAB_DATA")
    found = (*([Path(named).expanduser()] if named else []), *([] if root else [cache.home() / "data"]))
    for place in filter(Path.exists, found):
        if not place.is_dir():
            raise DataNotFound(f"{place} is no folder: set FLATLAB_DATA or root= to the folder of the data")
        if not os.access(place, os.R_OK | os.X_OK):
            raise PermissionError(f"{place} may not be read: change its permissions, or name another folder with root=")
    return found


def resolve(name: str, root: str | Path | None = None) -> Entry:
    """The entry of a known name, or one made up for a folder ROOT/name of the user's own; ValueError for neither."""
    if name in ENTRIES:
        return ENTRIES[name]
    if re.fullmatch(r"\w[\w.-]*", name):
        for place in roots(root):
            splits = _folders(place / name)
            classes = sorted({folder.name for split in splits for folder in _folders(split)})
            if classes:
                return Entry("", "", tuple(classes), 3)
    checks.one_of("data set", name, ENTRIES)
    raise AssertionError("unreachable: one_of raises for an unknown name")


def find(name: str, entry: Entry, split: str, root: str | Path | None = None) -> Source | None:
    """The files of a split under the first root that has any; parquet goes before folders."""
    for place in roots(root):
        if entry.hub:
            parquet = shards(place / entry.hub / entry.config, split)
            if parquet:
                return Source(place, parquet=parquet)
        images = tuple(_images(place / name / split, entry))
        if images:
            return Source(place, images=images)
    return None


def shards(folder: Path, split: str) -> tuple[Path, ...]:
    """The parquet files of a split, in order; none without the folder, PermissionError if it may not be read."""
    names = re.compile(rf"{re.escape(split)}-.*\.parquet")
    return tuple(sorted(path for path in folder.iterdir() if names.fullmatch(path.name))) if folder.is_dir() else ()


def locate(name: str, entry: Entry, split: str, root: str | Path | None = None) -> Source:
    """As `find`, but DataNotFound with folders, layout and cures where there is nothing."""
    source = find(name, entry, split, root)
    if source is not None:
        return source
    inner = "DOMAIN/CLASS" if entry.domains else "CLASS"
    layouts = [f"{name}/{split}/{inner}/*.png|jpg"]
    cures = ["set FLATLAB_DATA or root= to a folder with that layout"]
    if entry.hub:
        layouts.insert(0, f"{entry.hub}/{entry.config}/{split}-*.parquet")
        cures.insert(0, f"run `python -m flatlab data download {name}`")
    raise DataNotFound(
        f"data set {name!r}, split {split!r}, is not under {' or '.join(map(str, roots(root)))}; "
        f"expected {' or '.join(layouts)} there. Cure: {', or '.join(cures)}. 'digits' needs no files."
    )


def _images(folder: Path, entry: Entry) -> list[tuple[Path, int, int | None]]:
    if not entry.domains:
        return [(path, label, None) for path, label in _class_folders(folder, entry.classes)]
    return [
        (path, label, _index(domain, entry.domains, "domain"))
        for domain in _folders(folder)
        for path, label in _class_folders(domain, entry.classes)
    ]


def _class_folders(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    return [
        (path, _index(part, classes, "class"))
        for part in _folders(folder)
        for path in sorted(part.iterdir())
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]


def _index(folder: Path, names: tuple[str, ...], kind: str) -> int:
    if folder.name not in names:
        raise DataCorrupt(
            f"folder {folder} is not named after a {kind}{checks.nearest(folder.name, names)}; "
            f"rename or remove it (the {kind} names are {', '.join(names)})"
        )
    return names.index(folder.name)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
