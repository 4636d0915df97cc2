"""A lock on a file that dies with its process: whoever kills a run does not block the next one.

It holds on this host and, where the file system is shared and knows locks (NFS does), on every other one. Where there
are no locks nothing is refused: two batches may then do the same job, and publish it one after the other.
"""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flatlab.files import naming


class Busy(Exception):
    """Another process, or thread, has the lock; the message says which."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock `path`, a file that is there only meanwhile, or after a kill.

    Raises:
        Busy: it is held already.
        OSError: the file cannot be made.
    """
    if sys.platform == "win32":
        yield
        return
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        while (file := _lock(path)) is None:
            pass
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is ours: nobody loses a file that they have just locked
        os.close(file)


def holder(path: Path) -> str:
    """Who holds the lock `path`, in words; empty if nobody does, and then a file that a kill left is gone."""
    try:
        if path.exists():
            with locked(path):
                pass
    except Busy as busy:
        return str(busy)
    return ""


def _lock(path: Path) -> int | None:
    """The locked file, or None if its last holder removed it meanwhile: the next one is another file."""
    import fcntl  # not on every system

    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        words = os.pread(file, 200, 0).decode(errors="replace")
        os.close(file)
        raise Busy(words or "another process") from error
    except OSError:
        pass  # a file system without locks
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(file), os.stat(path)):
            return file
    os.close(file)
    return None
