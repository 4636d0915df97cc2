"""A batch of jobs: planning, resuming, failing alone, several at a time."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flatlab.claims import Claim, ClaimTable, record
from flatlab.runner import Event, StudyError, run
from flatlab.runner import job as jobs
from flatlab.runner.job import package_hashes
from flatlab.runner.records import JobResult, read_record, write_record
from flatlab.stats import greater

COUNT = "with open(f'ran-{seed}', 'a') as file: file.write('x')"  # the kernel's folder is that of the notebooks


def times_run(study: Any, seed: int = 0) -> int:
    path = study.notebooks / f"ran-{seed}"
    return len(path.read_text()) if path.exists() else 0


def test_what_is_done_is_not_done_again(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = study.notebook("a", COUNT)
    events: list[Event] = []
    first = study.run(progress=events.append)
    assert [(e.kind, e.job, e.finished, e.total) for e in events if e.kind != "cell"] == [
        ("start", "a", 0, 1),
        ("end", "a", 1, 1),
    ]
    assert [(e.cell, e.cells) for e in events if e.kind == "cell"] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    again = study.run()
    assert [r.state for r in first + again] == ["done", "cached"]
    assert again[0].seconds == first[0].seconds
    assert study.records() == {"a": "done"}

    text = path.read_text()
    path.write_text(
        text.replace('"outputs": []', '"outputs": [{"output_type": "stream", "name": "stdout", "text": "x"}]')
    )
    assert study.states() == {"a": "cached"}, "stored outputs do not matter"
    path.write_text(text)
    assert study.states(parameters={"eps": None}) == {"a": "cached"}, "a default given by hand is the same run"
    assert times_run(study) == 1

    assert study.states(force=True) == {"a": "done"}
    monkeypatch.setattr(jobs, "package_hashes", lambda package: {"flatlab/a.py": "other code"})
    assert study.states() == {"a": "done"}
    (study.folder / "a.ipynb").unlink()
    assert study.states() == {"a": "done"}, "a record alone is no result"
    assert times_run(study) == 4


@pytest.mark.usefixtures("no_kernel")
def test_the_key_is_of_everything_that_a_result_depends_on(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    study.notebook("a", "print(1)")
    keys = [study.job("a").key, study.job("a", eps=0.1).key, study.job("a", seed=1).key]
    study.notebook("a", "print(2)")
    keys.append(study.job("a").key)
    monkeypatch.setattr(jobs, "versions", lambda: {"torch": "0"})
    keys.append(study.job("a").key)
    assert len(set(keys)) == len(keys)


def test_the_hashes_of_the_package_are_of_code_and_not_of_the_runner(tmp_path: Path) -> None:
    package = tmp_path / "flatlab"
    (package / "runner").mkdir(parents=True)
    for name in ("a.py", "runner/cli.py", "__main__.py", "notes.txt"):
        (package / name).write_text("1")
    assert list(package_hashes(package)) == ["flatlab/a.py"]
    hashes = [package_hashes(package)]
    (package / "a.py").rename(package / "b.py")
    hashes.append(package_hashes(package))
    (package / "b.py").write_text("2")
    hashes.append(package_hashes(package))
    assert hashes[0] != hashes[1] != hashes[2] != hashes[0]


@pytest.mark.usefixtures("no_kernel")
def test_planning_names_each_job_by_what_differs(study: Any) -> None:
    study.notebook("01_a", "1")
    study.notebook("02_b", "1")
    options = {"preset": "cpu", "out": study.out, "notebooks": study.notebooks}
    plan = jobs.plan(None, seeds=2, parameters=None, **options)
    assert [job.name for job in plan] == ["01_a", "01_a-seed1", "02_b", "02_b-seed1"]
    assert plan[1].parameters == {"preset": "cpu", "seed": 1}
    assert plan[0].folder == study.out / "cpu"
    plan = jobs.plan(["02"], seeds=1, parameters={"eps": "1/2"}, **options)
    assert [(job.name, job.parameters["eps"]) for job in plan] == [("02_b-eps=0.5", 0.5)]
    study.notebook("03_c", "1", parameters='preset: str = "cpu"\nplace: str = ""')
    names = [
        jobs.plan(["03"], seeds=1, parameters={"place": place}, **options)[0].name
        for place in ("", "here", "../up", "a b", "a_b", "x" * 99, "a=b")
    ]
    assert names[:2] == ["03_c", "03_c-place=here"]
    assert len(set(names)) == len(names)
    assert all("/" not in name and " " not in name and len(name) < 80 for name in names)


@pytest.mark.usefixtures("no_kernel")
def test_requests_that_cannot_be_run_are_refused_before_a_kernel_starts(study: Any) -> None:
    study.notebook("01_a", "1")
    study.notebook("01_b", "1")
    study.notebook("untagged", "1", parameters=None)
    study.notebook("seedless", "1", parameters='preset: str = "cpu"')
    study.notebook("presetless", "1", parameters="seed: int = 0")
    (study.notebooks / "broken.ipynb").write_text("{")
    refused: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
        "unknown notebook '01_c'.*did you mean": (("01_c",), {}),
        "fits several: 01_a, 01_b": (("01",), {}),
        "no code cell with the tag 'parameters'": (("untagged",), {}),
        "seedless has no parameter 'seed'": (("seedless",), {"seeds": 2}),
        "presetless has no parameter 'preset'": (("presetless",), {}),
        "not a notebook": (("broken",), {}),
        "no parameter 'epss'.*did you mean 'eps'": (("01_a",), {"parameters": {"epss": 1}}),
        "'eps'.*must be.*got 'big'": (("01_a",), {"parameters": {"eps": "big"}}),
        "seeds must be an integer >= 1": (("01_a",), {"seeds": 0}),
        "give one of the two": (("01_a",), {"seeds": 2, "parameters": {"seed": 1}}),
        "give it as preset": (("01_a",), {"parameters": {"preset": "cpu"}}),
        "workers must be": (("01_a",), {"workers": 0}),
        "timeout must be > 0": (("01_a",), {"timeout": 0}),
        "GPU=1 are declared by workers of a scheduler": (("01_a",), {"resources": {"GPU": 1}}),
    }
    for words, (names, options) in refused.items():
        with pytest.raises(StudyError, match=words):
            study.run(*names, **options)
    with pytest.raises(StudyError, match=r"unknown preset 'quik'.*did you mean 'quick'"):
        run(["01_a"], preset="quik", out=study.out, notebooks=study.notebooks)
    with pytest.raises(StudyError, match="no folder of notebooks"):
        run(notebooks=study.notebooks / "nowhere", out=study.out)
    assert not study.out.exists()


FOUR = 'preset: str = "quick"  # quick, cpu, gpu or full'


def test_a_batch_leaves_out_the_notebooks_that_lack_the_preset(study: Any) -> None:
    study.notebook("01_without", "1 / 0", parameters=FOUR)
    study.notebook("02_with", "1", parameters='preset: str = "quick"  # quick or real')
    study.notebook("03_any", "1", parameters='preset: str = "quick"')
    events: list[Event] = []
    options: dict[str, Any] = {"preset": "real", "out": study.out, "notebooks": study.notebooks}
    results = run(**options, progress=events.append)
    assert {result.job: result.state for result in results} == {"02_with": "done", "03_any": "done"}
    assert (events[0].kind, events[0].job, events[0].finished, events[0].total) == ("skip", "01_without", 0, 2)
    assert events[0].reason == "01_without has no preset 'real'; it has quick, cpu, gpu, full"
    assert [event.job for event in events[1:] if event.kind == "skip"] == []
    left = [path.name for path in (study.out / "real").rglob("01_without*")]
    assert left == [], "no trace that a page could take for a failure"


@pytest.mark.usefixtures("no_kernel")
def test_a_preset_that_a_named_notebook_or_every_notebook_lacks_is_refused(study: Any) -> None:
    study.notebook("01_without", "1", parameters=FOUR)
    options: dict[str, Any] = {"preset": "real", "out": study.out, "notebooks": study.notebooks}
    with pytest.raises(StudyError, match=r"no notebook in .* has the preset 'real': 01_without .*cpu, gpu, full"):
        run(**options)
    study.notebook("02_with", "1", parameters='preset: str = "quick"  # quick or real')
    with pytest.raises(StudyError, match="notebook 01_without has no preset 'real'; it has quick, cpu, gpu, full"):
        run(["02", "01"], **options)
    assert not study.out.exists()


@pytest.mark.usefixtures("no_kernel")
def test_an_unwritable_place_is_named_before_a_kernel_starts(study: Any) -> None:
    study.notebook("a", "1")
    study.out.write_text("a file where a folder is wanted")
    with pytest.raises(OSError, match=f"cannot write {study.out}"):
        study.run()
    assert study.out.is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.usefixtures("no_kernel")
def test_a_read_only_folder_is_named(study: Any) -> None:
    study.notebook("a", "1")
    study.out.mkdir()
    study.out.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(OSError, match=f"cannot write {study.out}.*denied"):
        study.run()


def test_one_that_dies_and_one_that_fails_leave_the_others_alone(study: Any) -> None:
    study.notebook("a_dies", "import os\nif not os.path.exists('mended'): os.kill(os.getpid(), 9)")
    study.notebook("b_fails", "import os\nassert os.path.exists('mended'), 'broken'")
    study.notebook("c_fine", COUNT)
    assert study.states() == {"a_dies": "killed", "b_fails": "failed", "c_fine": "done"}
    assert study.published() == ["c_fine"]
    assert study.records() == {"a_dies": "killed", "b_fails": "failed", "c_fine": "done"}
    (study.notebooks / "mended").touch()
    assert study.states() == {"a_dies": "done", "b_fails": "done", "c_fine": "cached"}
    assert times_run(study) == 1
    assert study.leftovers() == []


def test_fail_fast_starts_nothing_after_a_failure(study: Any) -> None:
    study.notebook("a", "1 / 0")
    study.notebook("b", COUNT)
    assert study.states(fail_fast=True) == {"a": "failed", "b": "interrupted"}
    assert (times_run(study), study.records()) == (0, {"a": "failed", "b": "interrupted"})


def test_an_interrupt_stops_the_kernel_and_is_passed_on(study: Any) -> None:
    study.notebook("a", COUNT)
    study.notebook("b", "import os, time\ntime.sleep(0 if os.path.exists('quick') else 600)")
    study.notebook("c", COUNT)

    def interrupt(event: Event) -> None:
        if event.kind == "start" and event.job == "b":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.run(progress=interrupt)
    assert study.records() == {"a": "done", "b": "interrupted", "c": "interrupted"}
    assert study.published() == ["a"]
    assert study.leftovers() == []
    (study.notebooks / "quick").touch()
    assert study.states() == {"a": "cached", "b": "done", "c": "done"}
    assert times_run(study) == 2


@pytest.fixture
def dask_port_taken() -> Iterator[None]:
    """As if another batch, or another program, were serving on dask's usual port."""
    with socket.socket() as taken:
        with suppress(OSError):
            taken.bind(("127.0.0.1", 8787))
            taken.listen()
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("dask_port_taken")
@pytest.mark.filterwarnings("error:Port")
def test_several_workers_one_of_which_dies(study: Any) -> None:
    study.notebook("a", "import os; print(os.environ['OMP_NUM_THREADS'])")
    study.notebook("b", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)", "import time; time.sleep(60)")
    study.notebook("c", COUNT)
    expected = {"a": "done", "b": "killed", "c": "done"}
    assert study.states(workers=2) == expected
    assert study.records() == expected
    assert study.text("a") == f"{max(1, len(os.sched_getaffinity(0)) // 2)}\n"
    assert study.leftovers() == []


@pytest.mark.slow
def test_a_given_scheduler(study: Any) -> None:
    from distributed import LocalCluster

    study.notebook("a", "print(seed)")
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with LocalCluster(protocol="tcp://", host="127.0.0.1", resources={"MEMORY": 8}, **options) as cluster:
        address = cluster.scheduler_address
        with pytest.raises(StudyError, match=r"no worker of tcp://.* offers GPU=1 \(offered: MEMORY\).*--resources"):
            study.run(scheduler=address, resources={"GPU": 1})
        with pytest.raises(StudyError, match="offers MEMORY=9"):
            study.run(scheduler=address, resources={"MEMORY": 9})
        assert study.records() == {}
        assert study.states(scheduler=address, resources={"MEMORY": 8}, seeds=2) == {"a": "done", "a-seed1": "done"}
    assert (study.text("a"), study.text("a-seed1")) == ("0\n", "1\n")


def test_a_scheduler_that_does_not_answer(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from flatlab.runner import cluster

    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", 0.5)
    study.notebook("a", "1")
    with pytest.raises(StudyError, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:9"):
        study.run(scheduler="tcp://127.0.0.1:9")


def test_long_jobs_go_first_and_unknown_ones_before_them(study: Any) -> None:
    from flatlab.runner.batch import _longest_first

    plan = []
    for name, seconds in {"short": 1.0, "long": 9.0, "new": None, "failed": 99.0}.items():
        study.notebook(name, "1")
        plan.append(study.job(name))
        if seconds:
            state = "failed" if name == "failed" else "done"
            write_record(study.folder, JobResult(name, name, state=state, seconds=seconds))
    assert [job.name for job in _longest_first(plan)] == ["new", "failed", "long", "short"]
    assert read_record(study.folder, "long")


def test_before_the_first_run_the_recorded_one_says_what_is_long(study: Any) -> None:
    from flatlab.runner.batch import _longest_first

    plan = []
    for name in ("short", "long", "new"):
        study.notebook(name, "1")
        plan.append(study.job(name))
    seconds = {"short": 1.0, "long": 9.0}
    for preset in ("cpu", "quick"):
        tables = [ClaimTable([Claim("C1", "s", greater(0))], paper=name, preset=preset) for name in seconds]
        record(tables, preset, study.notebooks / "results", seconds=seconds)
        assert [job.name for job in _longest_first(plan)] == ["new", "long", "short"]
