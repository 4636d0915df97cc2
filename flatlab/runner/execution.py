"""Run one job: execute into a temporary file, publish by rename only when done, and leave a record either way."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flatlab.files import naming, owner, reason, write_text
from flatlab.runner.executed import checksum
from flatlab.runner.figures import carry_linked
from flatlab.runner.job import Job
from flatlab.runner.lock import Busy, locked
from flatlab.runner.notebooks import StudyError, load
from flatlab.runner.records import UNREADABLE, JobResult, lock_path, read_record, write_record


def run_job(
    job: Job,
    *,
    old: JobResult | None = None,
    threads: int | None = None,
    timeout: float | None = None,
    stop: Callable[[], bool] | None = None,
    on_cell: Callable[[int, int], None] | None = None,
) -> JobResult:
    """Run `job` unless its result is there already; never raises for what goes wrong inside it.

    Args:
        old: an earlier result that is not wanted; another one, which came meanwhile, is.
        threads: for the kernel; None = what OMP_NUM_THREADS says here, else all cores.
        timeout: seconds for the whole notebook.
        stop: asked several times a second; True ends the kernel, and the job is interrupted.
        on_cell: called with (cell, cells) at the start of each cell.

    Raises:
        Busy: another process runs this job.
    """
    try:
        with locked(lock_path(job.folder, job.name)):
            if (cached := job.cached()) and cached != old:
                return cached
            result = _attempt(job, {"threads": threads, "timeout": timeout, "stop": stop, "on_cell": on_cell})
            return keep(job, result)
    except OSError as problem:  # of the lock: all others are dealt with inside
        return keep(job, job.result(state="failed", error=reason(problem)))


def give_up(job: Job, *, old: JobResult | None, state: str, error: str) -> JobResult:
    """Record how a job ended whose process cannot say it; what that process, or another one, has published stands.

    Args:
        old: the result that was there before.
        state, error: of the record.
    """
    result = job.result(state=state, error=error)
    try:
        with locked(lock_path(job.folder, job.name)):
            if (cached := job.cached()) and cached != old:
                return replace(cached, state="done")
            return keep(job, result)
    except Busy:  # it is running, and will have a record
        return result
    except OSError as problem:
        return replace(result, error=f"{error}; {reason(problem)}")


def keep(job: Job, result: JobResult) -> JobResult:
    """Write the record; a result that cannot be recorded is a failure, since the next batch would not know of it.

    A job that was interrupted has changed nothing: what the record says of a run that ended still holds, and stays.
    """
    earlier = read_record(job.folder, job.name).state
    if result.state == "interrupted" and earlier not in ("interrupted", UNREADABLE):
        return result
    try:
        write_record(job.folder, result)
    except OSError as problem:
        error = f"{result.error}; {reason(problem)}" if result.error else reason(problem)
        return replace(result, state="failed" if result.ok else result.state, error=error)
    return result


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _attempt(job: Job, options: dict[str, Any]) -> JobResult:
    started, clock = datetime.now(UTC), time.monotonic()
    part = job.folder / "running" / f"{job.name}.{owner()}.part.ipynb"
    published: dict[str, str] = {}
    try:
        state, error = _execute(job, part, options)
        if state != "interrupted":
            published = _publish(job, part, state, error)
    except OSError as problem:
        state, error = "failed", reason(problem)
    except StudyError as problem:
        state, error = "failed", str(problem)
    finally:
        part.unlink(missing_ok=True)
    return job.result(
        state=state,
        error=error,
        seconds=round(time.monotonic() - clock, 2),
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        **published,
    )


def _execute(job: Job, part: Path, options: dict[str, Any]) -> tuple[str, str]:
    """State and error. What the key is made of must be the same before and after, or the result belongs to no key."""
    if changed := job.changed():
        return "failed", changed
    from flatlab.runner.kernel import execute  # papermill: seconds to import, and not needed for cached jobs

    if options["threads"] is None:
        inherited = os.environ.get("OMP_NUM_THREADS", "")
        options["threads"] = int(inherited) if inherited.isdigit() and int(inherited) else cores()
    with naming(part):
        state, error = execute(job.text, job.parameters, part, cwd=job.notebook.parent, **options)
    changed = job.changed() if state == "done" else ""
    return ("failed", changed) if changed else (state, error)


def _publish(job: Job, part: Path, state: str, error: str) -> dict[str, str]:
    """Rename the executed notebook to its final name if done, else into failed/; return the record's part of that."""
    failure = job.folder / "failed" / f"{job.name}.ipynb"
    final = job.folder / f"{job.name}.ipynb" if state == "done" else failure
    if not part.exists():
        return {}  # the kernel never started
    notebook = load(part)
    # papermill's metadata holds temporary paths and, for a dead kernel, a wrong status: state what is so.
    meta = notebook["metadata"]
    run = {"input_path": job.notebook.name, "output_path": final.name, "exception": None if state == "done" else True}
    meta.setdefault("papermill", {}).update(run)
    meta["flatlab"] = {"job": job.name, "state": state, "error": error, "key": job.key}
    carry_linked(notebook, job.notebook.parent, final.parent)
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    write_text(final, text)
    published = {"output": final.relative_to(job.folder).as_posix()}
    if state == "done":
        failure.unlink(missing_ok=True)
        published["checksum"] = checksum(text.encode())
    return published
