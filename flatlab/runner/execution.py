"""Run one job: execute into a temporary file, publish by rename only when done, and leave a record either way."""

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from flatlab.files import naming, owner, write_text
from flatlab.runner.figures import carry_linked
from flatlab.runner.job import Job
from flatlab.runner.notebooks import StudyError, load
from flatlab.runner.records import JobResult, write_record


def run_job(
    job: Job,
    *,
    threads: int | None = None,
    timeout: float | None = None,
    force: bool = False,
    stop: Callable[[], bool] | None = None,
    on_cell: Callable[[int, int], None] | None = None,
) -> JobResult:
    """Run `job` unless its result is there already; never raises for what goes wrong inside it.

    Args:
        threads: for the kernel; None = what OMP_NUM_THREADS says here, else all cores.
        timeout: seconds for the whole notebook.
        force: run even if nothing has changed since it was done.
        stop: asked several times a second; True ends the kernel, and the job is interrupted.
        on_cell: called with (cell, cells) at the start of each cell.
    """
    if not force and (cached := job.cached()):
        return cached
    started, clock = datetime.now(UTC), time.monotonic()
    part = job.folder / "running" / f"{job.name}.{owner()}.part.ipynb"
    output = None
    try:
        with naming(part):
            part.parent.mkdir(parents=True, exist_ok=True)
            state, error = _execute(job, part, threads=threads, timeout=timeout, stop=stop, on_cell=on_cell)
        if state != "interrupted":
            output = _publish(job, part, state, error)
    except OSError as problem:
        state, error = "failed", problem.strerror or str(problem)
    except StudyError as problem:
        state, error = "failed", str(problem)
    finally:
        part.unlink(missing_ok=True)
    result = job.result(
        state=state,
        error=error,
        output=output,
        seconds=round(time.monotonic() - clock, 2),
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return keep(job, result)


def keep(job: Job, result: JobResult) -> JobResult:
    """Write the record; a result that cannot be recorded is a failure, since the next batch would not know of it."""
    try:
        write_record(job.folder, result)
    except OSError as problem:
        error = f"{result.error}; {problem.strerror}" if result.error else str(problem.strerror)
        state = "failed" if result.ok else result.state
        return JobResult(**{**vars(result), "state": state, "error": error})
    return result


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _execute(
    job: Job,
    part: Path,
    *,
    threads: int | None,
    timeout: float | None,
    stop: Callable[[], bool] | None,
    on_cell: Callable[[int, int], None] | None,
) -> tuple[str, str]:
    from flatlab.runner.kernel import execute  # papermill: seconds to import, and not needed for cached jobs

    if threads is None:
        inherited = os.environ.get("OMP_NUM_THREADS", "")
        threads = int(inherited) if inherited.isdigit() and int(inherited) else cores()
    return execute(
        job.text,
        job.parameters,
        part,
        cwd=job.notebook.parent,
        threads=threads,
        timeout=timeout,
        stop=stop,
        on_cell=on_cell,
    )


def _publish(job: Job, part: Path, state: str, error: str) -> str | None:
    """Rename the executed notebook to its final name if done, else into failed/; return the name, relative."""
    failure = job.folder / "failed" / f"{job.name}.ipynb"
    final = job.folder / f"{job.name}.ipynb" if state == "done" else failure
    if not part.exists():
        return None  # the kernel never started
    notebook = load(part)
    # papermill's metadata holds temporary paths and, for a dead kernel, a wrong status: state what is so.
    meta = notebook["metadata"]
    run = {"input_path": job.notebook.name, "output_path": final.name, "exception": None if state == "done" else True}
    meta.setdefault("papermill", {}).update(run)
    meta["flatlab"] = {"job": job.name, "state": state, "error": error, "key": job.key}
    carry_linked(notebook, job.notebook.parent, final.parent)
    write_text(final, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    if state == "done":
        failure.unlink(missing_ok=True)
    return final.relative_to(job.folder).as_posix()
