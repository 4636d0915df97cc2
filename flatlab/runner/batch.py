"""Run a batch of jobs, one at a time in this process, or several at once through dask, here or on a given cluster."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Event as Flag
from typing import Any

from flatlab.files import write_text
from flatlab.names import PRESETS, nearest
from flatlab.runner import params
from flatlab.runner.execution import cores, give_up, run_job
from flatlab.runner.job import Job, plan
from flatlab.runner.lock import Busy, holder
from flatlab.runner.notebooks import StudyError
from flatlab.runner.place import Place
from flatlab.runner.records import JobResult, lock_path, read_record, sweep

STOP_WAIT = 20  # seconds given to running jobs to end after an interrupt
LOOK_AGAIN = 1.0  # seconds between looks at what other batches run


@dataclass(frozen=True)
class Event:
    """What `progress` is told: a job started, reached a cell (only where jobs run in this process), or ended; another
    batch runs it; or a notebook is left out.

    Attributes:
        kind: "start", "cell" or "end"; "wait", once for a job that another batch is running; or "skip", once for each
            notebook that lacks the preset, before any job.
        job: its name; for kind "skip" the notebook's.
        finished: how many jobs have ended, this one included if it has.
        total: jobs in the batch.
        cell, cells: position in the notebook, for kind "cell".
        result: how the job ended, for kind "end".
        reason: one line for a person, for kinds "wait" and "skip".
    """

    kind: str
    job: str
    finished: int
    total: int
    cell: int = 0
    cells: int = 0
    result: JobResult | None = None
    reason: str = ""


Progress = Callable[[Event], None]


def run(
    names: Sequence[str] | None = None,
    *,
    preset: str = "cpu",
    seeds: int = 1,
    parameters: Mapping[str, Any] | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    resources: Mapping[str, float] | None = None,
    out: str | Path = "results",
    notebooks: str | Path = "notebooks",
    timeout: float | None = None,
    force: bool = False,
    fail_fast: bool = False,
    progress: Progress | None = None,
) -> list[JobResult]:
    """Run notebooks, each with seeds 0..seeds-1, into `out`/`preset`; return one result per job, in that order.

    Every name, parameter and type is checked before a kernel starts. A job whose notebook, parameters, flatlab source
    and library versions are those of an earlier finished run is not run again (state "cached"), nor is one that another
    batch in the same folder is running: its result is waited for. A job that fails leaves the others alone.

    Args:
        names: notebooks, by file name or an unambiguous beginning of it; None = all that have the preset.
        preset: quick, cpu, real, gpu or full; passed as the parameter `preset`.
        seeds: number of seeds; passed one by one as the parameter `seed`.
        parameters: further parameters; texts are parsed as on the command line ("8/255" for a float).
        workers: jobs at a time on this machine, which share its cores; more than one uses dask.
        scheduler: address of a running dask scheduler instead. Its workers need to see `out` and `notebooks` under
            the same paths.
        resources: what a job takes from a worker of that scheduler, such as {"GPU": 1}.
        out: folder of results, made if missing.
        notebooks: folder of notebooks, where kernels are started.
        timeout: seconds for one notebook as a whole; None = no limit.
        force: run also what is cached when the batch begins.
        fail_fast: start no further job once one has failed.
        progress: called in this thread's or a helper's time with an Event.

    Raises:
        StudyError: a request that cannot be run: unknown names, a preset that a named notebook (or, unnamed, every
            notebook) lacks, ill-typed values, a cluster that cannot take the jobs.
        OSError: `out` cannot be written, or a worker did not start.
        KeyboardInterrupt: passed on after kernels are stopped and records written.
    """
    if preset not in PRESETS:
        raise StudyError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}{nearest(preset, PRESETS)}")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise StudyError(f"workers must be an integer >= 1, got {workers!r}")
    if timeout is not None and not timeout > 0:
        raise StudyError(f"timeout must be > 0 seconds, got {timeout!r}")
    if resources and not scheduler:
        raise StudyError(f"resources {_words(resources)} are declared by workers of a scheduler: name it (--scheduler)")
    skipped: dict[str, str] = {}
    if not names:
        names, skipped = params.having(preset, notebooks)
    jobs = plan(names, preset=preset, seeds=seeds, parameters=parameters, out=out, notebooks=notebooks)
    folder = jobs[0].folder
    sweep(folder)
    probe = folder / "jobs" / ".writable"  # a place that cannot be written should fail before hours of work
    write_text(probe, "")
    probe.unlink(missing_ok=True)
    batch = _Batch(jobs, timeout=timeout, force=force, fail_fast=fail_fast, progress=progress)
    for name, reason in skipped.items():
        batch.tell("skip", name, reason=reason)
    batch.answer_cached()
    waiting = batch.waiting()
    if not waiting:
        return batch.results()
    if scheduler or (workers > 1 and len(waiting) > 1):
        from flatlab.runner import cluster

        place: AbstractContextManager[Place] = cluster.connect(
            scheduler, workers=min(workers, len(waiting)), resources=dict(resources or {}), folder=folder
        )
        waiting = _longest_first(waiting)
    else:
        place = _here()
    try:
        with place as here:
            try:
                batch.run(waiting, here)
            finally:
                batch.close()
    finally:
        sweep(folder)
    return batch.results()


@contextmanager
def _here() -> Iterator[Place]:
    """One job at a time, on a thread of its own: an interrupt never hits the middle of a kernel's messages."""
    flag = Flag()
    with ThreadPoolExecutor(1, thread_name_prefix="flatlab-job") as executor:
        yield Place(executor, lambda: 1, {"threads": cores(), "stop": flag.is_set}, flag.set, cells=True)


@dataclass
class _Batch:
    """The jobs of one call of `run` and what has become of them."""

    jobs: list[Job]
    timeout: float | None
    force: bool
    fail_fast: bool
    progress: Progress | None
    old: dict[str, JobResult | None] = field(default_factory=dict)  # what was there before
    ended: dict[str, JobResult] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)  # jobs that another batch was seen to run
    lost: str = ""  # why the place tells nothing any more
    stopping: bool = False

    def waiting(self) -> list[Job]:
        return [job for job in self.jobs if job.name not in self.ended]

    def results(self) -> list[JobResult]:
        return [self.ended[job.name] for job in self.jobs]

    def answer_cached(self) -> None:
        for job in self.jobs:
            self.old[job.name] = cached = job.cached()
            if cached and not self.force:
                self.end(job, cached)

    def end(self, job: Job, result: JobResult) -> None:
        self.ended[job.name] = result
        self.tell("end", job.name, result=result)

    def tell(self, kind: str, name: str, **more: Any) -> None:
        if self.progress is not None:
            self.progress(Event(kind, name, len(self.ended), len(self.jobs), **more))

    def run(self, waiting: Iterable[Job], place: Place) -> None:
        """Keep the place's slots filled until nothing waits. Submitting no more than that keeps a worker's death from
        being counted against jobs that had only been queued on it."""
        queue = list(waiting)
        running: dict[Future[JobResult], Job] = {}
        try:
            while queue or running:
                free = max(1, place.slots()) - len(running)
                for job in list(islice((job for job in queue if not self.taken(job)), max(0, free))):
                    queue.remove(job)
                    self.tell("start", job.name)
                    running[self.submit(job, place)] = job
                if running:
                    queue += self.collect(running, place, timeout=1.0)
                else:  # what is left runs elsewhere
                    time.sleep(LOOK_AGAIN)
                if self.lost or (self.fail_fast and any(not result.ok for result in self.ended.values())):
                    queue.clear()
        except BaseException:  # KeyboardInterrupt above all: let running jobs end themselves, then pass it on
            self.stopping = True
            place.stop()
            deadline = time.monotonic() + STOP_WAIT
            while running and time.monotonic() < deadline:
                self.collect(running, place, timeout=1.0)
            for future in running:
                future.cancel()
            raise

    def taken(self, job: Job) -> bool:
        """Whether another batch runs this job, which is told once."""
        by = holder(lock_path(job.folder, job.name))
        if by and job.name not in self.elsewhere:
            self.elsewhere.add(job.name)
            self.tell("wait", job.name, reason=f"{by} runs it")
        return bool(by)

    def submit(self, job: Job, place: Place) -> "Future[JobResult]":
        options = {**place.options, "timeout": self.timeout, "old": self.old[job.name]}
        if place.cells:
            options["on_cell"] = lambda cell, cells: self.tell("cell", job.name, cell=cell, cells=cells)
        return place.executor.submit(run_job, job, **options)

    def collect(self, running: "dict[Future[JobResult], Job]", place: Place, *, timeout: float) -> list[Job]:
        """Take the results of futures that are done, waiting up to `timeout` seconds for the first; return the jobs
        that another batch had begun a moment before."""
        busy, lost = list[Job](), list[Job]()
        for future in wait(running, timeout=timeout, return_when=FIRST_COMPLETED).done:
            job = running.pop(future)
            try:
                self.end(job, future.result())
            except Busy:
                busy.append(job)
            except place.deaths:
                state = "interrupted" if self.stopping else "killed"
                self.give_up(job, state, "the worker died; out of memory?")
            except CancelledError:
                lost.append(job)
            except Exception as error:
                self.give_up(job, "failed", f"{type(error).__name__}: {error}")
        if lost:
            self.lose([*lost, *running.values()], place)
            running.clear()
        return busy

    def lose(self, jobs: list[Job], place: Place) -> None:
        """The place tells nothing any more: ask its workers to stop, and take what they have published."""
        self.lost = place.lost
        place.stop()
        deadline = time.monotonic() + STOP_WAIT
        while any(holder(lock_path(job.folder, job.name)) for job in jobs) and time.monotonic() < deadline:
            time.sleep(0.1)
        for job in jobs:
            self.give_up(job, "interrupted", place.lost)

    def give_up(self, job: Job, state: str, error: str) -> None:
        self.end(job, give_up(job, old=self.old[job.name], state=state, error=error))

    def close(self) -> None:
        """Whatever has not ended by now was interrupted, started or not."""
        for job in self.waiting():
            error = f"not started: {self.lost}" if self.lost else "not started"
            self.ended[job.name] = give_up(job, old=self.old[job.name], state="interrupted", error=error)


def _longest_first(jobs: list[Job]) -> list[Job]:
    """By the seconds of the last run here, else of the record, descending; unknown ones first, as they may be long."""

    from flatlab.claims.records import read_folder  # needs numpy, which listing notebooks does not

    def seconds(job: Job) -> float:
        record = read_record(job.folder, job.name)
        if record.ok and record.seconds is not None:
            return record.seconds
        kept, _ = read_folder(job.notebook.parent / "results")
        for content in (kept.get(job.folder.name), *kept.values()):  # any preset tells which notebooks are long
            known = content["papers"].get(job.notebook.stem, {}).get("seconds") if content else None
            if known is not None:
                return float(known)
        return float("inf")

    return sorted(jobs, key=seconds, reverse=True)


def _words(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in resources.items())
