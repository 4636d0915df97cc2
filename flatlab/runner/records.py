"""What is on disk about a job: its record, its published notebook, and the files of runs in progress.

results/<preset>/<job>.ipynb           executed to the end, published by one atomic rename
results/<preset>/jobs/<job>.json       the record: state, seconds, error, key
results/<preset>/failed/<job>.ipynb    as far as a failed run came, for reading
results/<preset>/results/...           recorded figures and tables that executed notebooks link to, copied
results/<preset>/running/...           files of runs in progress; named by host and process, swept when that is gone
results/<preset>/running/<job>.lock    locked by the process that runs the job
"""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flatlab.files import abandoned, write_text
from flatlab.runner.lock import holder

STATES = ("done", "cached", "failed", "killed", "timed out", "interrupted")
UNREADABLE = "unreadable record"
_KINDS: dict[str, Any] = {  # of the fields of a record that are no text
    "parameters": dict,
    "seconds": int | float | None,
    "output": str | None,
    "started": str | None,
    "finished": str | None,
}


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
        checksum: SHA-256 of the published notebook; empty if the job is not done.
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
    checksum: str = ""

    @property
    def ok(self) -> bool:
        """True if the result is there: done or cached."""
        return self.state in ("done", "cached")


def record_path(folder: Path, job: str) -> Path:
    """Where the record of `job` is kept."""
    return folder / "jobs" / f"{job}.json"


def read_record(folder: Path, job: str) -> JobResult:
    """The record of `job`; one that is not there or cannot be read is a result in the state "unreadable record"."""
    path = record_path(folder, job)
    try:
        record = JobResult(**json.loads(path.read_text(encoding="utf-8")))
        for name, value in vars(record).items():
            if not isinstance(value, _KINDS.get(name, str)):
                raise TypeError(f"{name} is {value!r:.80}")
        if record.job != job:
            raise ValueError(f"it is of the job {record.job!r:.80}")
        if record.seconds is not None and not 0 <= record.seconds < 1e9:
            raise ValueError(f"seconds is {record.seconds!r:.80}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        return JobResult(job, job, state=UNREADABLE, error=f"jobs/{path.name}: {error}")
    return record


def read_records(folder: Path) -> list[JobResult]:
    """All records in results/<preset>, sorted by job."""
    return [read_record(folder, path.stem) for path in sorted((folder / "jobs").glob("*.json"))]


def write_record(folder: Path, result: JobResult) -> None:
    """Write the record of a job, atomically."""
    write_text(record_path(folder, result.job), json.dumps(asdict(result), indent=1) + "\n")


def lock_path(folder: Path, job: str) -> Path:
    """What the process that runs `job` has locked."""
    return folder / "running" / f"{job}.lock"


def sweep(folder: Path) -> list[Path]:
    """Remove temporary files that killed processes left behind; return what was removed.

    Those are files of processes that are gone from this host, and of jobs whose lock nobody has, on whatever host.
    """
    running = list(folder.glob("running/*"))
    idle = {path.stem for path in running if path.suffix == ".lock" and not holder(path)}
    removed = []
    for path in [*running, *folder.rglob(".*.part")]:
        part = re.fullmatch(r"(.+)\.[^.]+\.part\.ipynb", path.name)
        if abandoned(path) or (part and part[1] in idle):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed
