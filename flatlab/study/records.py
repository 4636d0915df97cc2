"""What is on disk about a job: its record, its published notebook, and the files of runs in progress.

results/<preset>/<job>.ipynb           executed to the end, published by one atomic rename
results/<preset>/jobs/<job>.json       the record: state, seconds, error, key
results/<preset>/failed/<job>.ipynb    as far as a failed run came, for reading
results/<preset>/running/...           files of runs in progress; named by host and process, swept when that is gone
"""

import json
import os
import re
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

STATES = ("done", "cached", "failed", "killed", "timed out", "interrupted")

_TOKEN = secrets.token_hex(4)  # tells this process from an earlier one that had the same number


@dataclass(frozen=True)
class JobResult:
    """How one job ended.

    Attributes:
        job: its name: notebook, seed and whatever else differs from the notebook's defaults.
        notebook: name of the notebook, without `.ipynb`.
        parameters: what was passed to it.
        state: done, cached (done before, nothing changed since), failed, killed (the kernel or worker died), timed out,
            or interrupted (stopped by the user, or never started because of that).
        seconds: wall time of the run, for cached jobs that of the run they stem from; None if it never ran.
        error: one line for a person; empty if done.
        output: executed notebook relative to results/<preset>, or None if there is nothing to read.
        started, finished: ISO 8601 in UTC; None if it never ran.
        key: hash of everything that the result depends on.
    """

    job: str
    notebook: str
    parameters: dict[str, Any] = field(default_factory=dict)
    state: str = "interrupted"
    seconds: float | None = None
    error: str = ""
    output: str | None = None
    started: str | None = None
    finished: str | None = None
    key: str = ""

    @property
    def ok(self) -> bool:
        """True if the result is there: done or cached."""
        return self.state in ("done", "cached")


def record_path(folder: Path, job: str) -> Path:
    """Where the record of `job` is kept."""
    return folder / "jobs" / f"{job}.json"


def read_record(folder: Path, job: str) -> JobResult | None:
    """The record of `job`, or None if there is none that can be read."""
    try:
        return JobResult(**json.loads(record_path(folder, job).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def read_records(folder: Path) -> list[JobResult]:
    """All records in results/<preset>, sorted by job."""
    found = [read_record(folder, path.stem) for path in sorted((folder / "jobs").glob("*.json"))]
    return [record for record in found if record is not None]


def write_record(folder: Path, result: JobResult) -> None:
    """Write the record of a job, atomically."""
    write_atomically(record_path(folder, result.job), json.dumps(asdict(result), indent=1) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that readers see the old file or the new one, never a part; OSError naming `path` on failure."""
    part = path.with_name(f".{path.name}.{owner()}.part")
    with naming(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(text, encoding="utf-8")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn an OSError inside into one whose message says which file of ours could not be written, and why."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error


def owner() -> str:
    """Host, process and a random token, without dots: the tail of temporary names."""
    return f"{_host()}-{os.getpid()}-{_TOKEN}"


def sweep(folder: Path) -> list[Path]:
    """Remove temporary files that processes of this host left behind when they died; return what was removed."""
    removed = []
    for path in [*folder.glob("running/*"), *folder.glob(".*.part"), *folder.glob("*/.*.part")]:
        if _abandoned(path):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _host() -> str:
    return socket.gethostname().replace(".", "_") or "localhost"


def _abandoned(path: Path) -> bool:
    match = re.search(r"\.([^.]+)-(\d+)-([0-9a-f]{8})(\.|$)", path.name)
    if not match or match[1] != _host():
        return False
    pid, token = int(match[2]), match[3]
    return token != _TOKEN if pid == os.getpid() else not _alive(pid)


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
