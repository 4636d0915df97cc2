"""What is interrupted, lost or run by two batches: what is done stays done, and nothing is done twice."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flatlab.runner import Event, batch
from flatlab.runner.execution import cores, give_up, run_job
from flatlab.runner.lock import Busy, holder, locked
from flatlab.runner.place import Place
from flatlab.runner.records import lock_path, read_record

COUNT = "import os, time\nprint(os.getpid(), file=open(f'ran-{name}', 'a'), flush=True)\n"
WAIT = "while not os.path.exists('go'): time.sleep(0.05)"
PARAMETERS = 'preset: str = "quick"\nseed: int = 0\nname: str = "{}"'


def counting(study: Any, name: str, *more: str) -> None:
    """A notebook that notes that it runs."""
    study.notebook(name, COUNT + "\n".join(more), parameters=PARAMETERS.format(name))


def times_run(study: Any, name: str) -> int:
    path = study.notebooks / f"ran-{name}"
    return len(path.read_text().splitlines()) if path.exists() else 0


def until(condition: Callable[[], object], seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def command(study: Any, *words: str) -> "subprocess.Popen[str]":
    places = ["--preset", "quick", "--out", str(study.out), "--notebooks", str(study.notebooks)]
    return subprocess.Popen(
        [sys.executable, "-m", "flatlab", "run", *places, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_interrupted_force_leaves_what_is_done(study: Any) -> None:
    for name in "abc":
        counting(study, name)
    assert set(study.states().values()) == {"done"}
    before = {name: read_record(study.folder, name) for name in "abc"}

    def at_b(event: Event) -> None:
        if event.kind == "start" and event.job == "b":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.run(force=True, progress=at_b)
    assert study.records() == {"a": "done", "b": "done", "c": "done"}
    after = {name: read_record(study.folder, name) for name in "abc"}
    assert {name: after[name] == before[name] for name in "abc"} == {"a": False, "b": True, "c": True}
    assert set(study.states().values()) == {"cached"}
    assert study.leftovers() == []


def test_what_is_stopped_while_it_is_forced_keeps_its_earlier_result(study: Any) -> None:
    counting(study, "a")
    study.run()
    before = read_record(study.folder, "a")
    job = study.job("a")
    result = run_job(job, old=job.cached(), stop=lambda: True)
    assert (result.state, read_record(study.folder, "a")) == ("interrupted", before)
    assert job.cached() is not None


def test_an_unstarted_job_after_a_failure_keeps_its_earlier_result(study: Any) -> None:
    study.notebook("a", "import os\nassert not os.path.exists('bad')")
    counting(study, "b")
    study.run()
    (study.notebooks / "bad").touch()
    assert study.states(force=True, fail_fast=True) == {"a": "failed", "b": "interrupted"}
    assert study.records() == {"a": "failed", "b": "done"}
    assert study.states("b") == {"b": "cached"}


@pytest.mark.slow
def test_two_batches_share_the_work_even_by_force(study: Any) -> None:
    for name in "abc":
        counting(study, name, WAIT if name in "ab" else "")
    first = command(study, "--force")
    until(lambda: times_run(study, "a"))
    second = command(study, "--force")
    until(lambda: times_run(study, "b"))  # a is taken, so that the second batch begins with b
    (study.notebooks / "go").touch()
    said = []
    for process in (first, second):
        out, errors = process.communicate(timeout=600)
        assert (process.returncode, errors) == (0, "")
        said.append(out)
    assert {name: times_run(study, name) for name in "abc"} == {"a": 1, "b": 1, "c": 1}
    assert study.records() == {"a": "done", "b": "done", "c": "done"}
    assert f"waiting for a: process {first.pid} on " in said[1]
    assert all("3 jobs: " in out and "interrupted" not in out for out in said)
    assert list((study.folder / "running").iterdir()) == []


def test_a_lock_has_one_holder_and_dies_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "running" / "a.lock"
    assert holder(path) == ""
    code = (
        f"from flatlab.runner.lock import locked\nfrom pathlib import Path\nwith locked(Path({str(path)!r})): input()"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    until(lambda: holder(path).startswith(f"process {other.pid} on "))
    with pytest.raises(Busy, match=f"process {other.pid} on "), locked(path):
        pass
    other.kill()
    other.wait()
    assert path.exists(), "it was killed: the file is still there"
    with locked(path):
        with pytest.raises(Busy), locked(path):  # of this very process
            pass
        assert path.exists()
    assert not path.exists()


def test_a_job_that_another_batch_runs_is_left_to_it(study: Any) -> None:
    counting(study, "a")
    job = study.job("a")
    with locked(lock_path(job.folder, "a")):
        with pytest.raises(Busy):
            run_job(job)
        assert give_up(job, old=None, state="interrupted", error="not started").state == "interrupted"
        assert study.records() == {}, "its own record comes"
    assert (run_job(job).state, times_run(study, "a")) == ("done", 1)


def test_what_a_lost_worker_had_published_stands(study: Any) -> None:
    counting(study, "a")
    job = study.job("a")
    done = run_job(job)
    found = give_up(job, old=None, state="killed", error="the worker died")
    assert (found, study.records()) == (done, {"a": "done"})
    lost = give_up(job, old=job.cached(), state="killed", error="the worker died")
    assert (lost.state, study.records()) == ("killed", {"a": "killed"}), "there was nothing new"


class Forgetful(Executor):
    """Runs what it is given, up to a job's name, and forgets what came of it, as a scheduler does that is killed."""

    def submit(self, call: Any, /, job: Any, **options: Any) -> "Future[Any]":  # type: ignore[override]
        if job.name != "b":
            call(job, **options)
        future: Future[Any] = Future()
        future.cancel()
        future.set_running_or_notify_cancel()
        return future


def test_a_lost_scheduler_is_named_and_loses_nothing(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def here() -> Iterator[Place]:
        yield Place(Forgetful(), lambda: 2, {"threads": cores()}, lambda: None, lost="the scheduler is gone")

    for name in "abc":
        counting(study, name)
    monkeypatch.setattr(batch, "_here", here)
    results = study.run()
    assert [(result.state, result.error) for result in results] == [
        ("done", ""),
        ("interrupted", "the scheduler is gone"),
        ("interrupted", "not started: the scheduler is gone"),
    ]
    assert study.records() == {"a": "done", "b": "interrupted", "c": "interrupted"}
    study.run("a", force=True)
    assert study.records()["a"] == "done"


@pytest.mark.slow
def test_a_scheduler_that_is_killed(study: Any, tmp_path: Path) -> None:
    counting(study, "a")
    counting(study, "b", WAIT)
    counting(study, "c")
    file = tmp_path / "scheduler.json"
    words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "dask"]
    with subprocess.Popen([*dask, "scheduler", *words], **quiet) as scheduler:  # type: ignore[call-overload]
        until(file.exists)
        address = json.loads(file.read_text())["address"]
        words = ["--nthreads", "1", "--no-dashboard", "--no-nanny", address]
        with subprocess.Popen([*dask, "worker", *words], **quiet) as worker:  # type: ignore[call-overload]
            run = command(study, "--scheduler", address)
            until(lambda: times_run(study, "b") and study.published() == ["a"])
            scheduler.kill()
            out, errors = run.communicate(timeout=600)
            worker.kill()
    assert (run.returncode, errors) == (1, "")
    assert f"the scheduler at {address} does not answer any more" in out
    assert study.records() == {"a": "done", "b": "interrupted", "c": "interrupted"}
    error = f"not started: the scheduler at {address} does not answer any more"
    assert read_record(study.folder, "c").error == error
    assert list((study.folder / "running").iterdir()) == []
