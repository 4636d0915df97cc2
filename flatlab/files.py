"""Files that appear under their name only when complete, whatever happens meanwhile.

A file is written beside its target under a temporary name and then renamed, which is one step: a reader sees the old
file or the new one, never a part, and a full disk leaves the old one in place. The temporary name says which host,
process and thread writes it, so that what a dead process left behind can be told from work in progress.
"""

import glob
import itertools
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TOKEN = secrets.token_hex(4)  # tells this process from an earlier one that had the same number
_COUNT = itertools.count()  # two threads may write one file at once


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` at the end; if the block raises, nothing has changed.

    Missing folders are made, and what killed processes left of earlier attempts at `path` is removed. Raises OSError
    that names `path` and says why it could not be written.
    """
    part = path.with_name(f".{path.name}.{owner()}.{next(_COUNT)}.part")
    with naming(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for old in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
                if abandoned(old):
                    old.unlink(missing_ok=True)
            yield part
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, with the same bytes everywhere, that appears under its name only when complete."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def temporary_folder(root: Path) -> Iterator[Path]:
    """A private folder of this process in `root`, removed at the end, as are those there that killed ones left."""
    for old in root.glob("flatlab.*"):
        if abandoned(old):
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"flatlab.{owner()}.", dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn an OSError inside into one whose message says which file of ours could not be written, and why."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error


def reason(error: OSError) -> str:
    """What went wrong in one line, with the path where the system knows it."""
    words = error.strerror or str(error)
    return words if error.filename is None else f"{words}: {error.filename}"


def owner() -> str:
    """Host, process and a random token, without dots: part of temporary names."""
    return f"{_host()}-{os.getpid()}-{_TOKEN}"


def abandoned(path: Path) -> bool:
    """Whether a temporary file or folder was left behind by a process of this host that is gone."""
    match = re.search(r"\.([^.]+)-(\d+)-([0-9a-f]{8})(\.|$)", path.name)
    if not match or match[1] != _host():
        return False
    pid, token = int(match[2]), match[3]
    return token != _TOKEN if pid == os.getpid() else not _alive(pid)


def _host() -> str:
    return socket.gethostname().replace(".", "_") or "localhost"


def _alive(pid: int) -> bool:
    if sys.platform == "win32":  # there, signal 0 would end the process instead of asking
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
