"""One job: what it publishes, what it records, and that it tells the ways of ending apart."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from flatlab import files
from flatlab.runner import kernel, records
from flatlab.runner.execution import run_job
from flatlab.runner.store import store_outputs


def test_a_finished_job_is_published_and_recorded(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")  # would take the figures out of notebooks
    study.notebook(
        "ok",
        "import json, os, sys, flatlab\n"
        "names = ['OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'FLATLAB_THREADS', 'PYTHONHASHSEED']\n"
        "print(json.dumps({'seed': seed, 'eps': eps, 'env': [os.environ[n] for n in names], 'cwd': os.getcwd(),\n"
        "  'python': sys.executable, 'backend': os.environ.get('MPLBACKEND'), 'flatlab': flatlab.__file__}))",
    )
    seen: list[tuple[int, int]] = []
    job = study.job("ok", eps="8/255", seed=3)
    result = run_job(job, threads=3, on_cell=lambda cell, cells: seen.append((cell, cells)))

    assert (result.state, result.error, result.output) == ("done", "", "ok-seed3-eps=0.03137254901960784.ipynb")
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]  # title, parameters, injected values, code
    said = json.loads(study.text(job.name))
    assert (said["seed"], said["eps"]) == (3, 8 / 255)
    assert said["env"] == ["3", "3", "3", "0"]
    assert Path(said["cwd"]) == study.notebooks
    assert Path(said["python"]) == Path(sys.executable)
    assert said["backend"] != "Agg"
    assert Path(said["flatlab"]).parent == Path(records.__file__).parents[1]

    stored = json.loads((study.folder / "jobs" / f"{job.name}.json").read_text())
    fields = "job notebook parameters state seconds error output started finished key checksum"
    assert list(stored) == fields.split()
    assert stored["parameters"] == {"preset": "quick", "eps": 8 / 255, "seed": 3}
    assert stored["started"] <= stored["finished"]
    assert stored["seconds"] > 0
    meta = json.loads((study.folder / result.output).read_text())["metadata"]
    assert meta["flatlab"]["state"] == "done"
    assert str(study.out) not in json.dumps(meta), "published notebooks name no temporary place"
    assert study.leftovers() == []


def test_recorded_pictures_that_a_notebook_shows_travel_with_it(study: Any) -> None:
    kept = study.notebooks / "results" / "cpu" / "shows"
    kept.mkdir(parents=True)
    (kept / "c1.png").write_bytes(b"picture")
    path = study.notebook("shows", "1", title="![a](results/cpu/shows/c1.png)\n![b](results/cpu/shows/gone.png)")
    assert run_job(study.job("shows")).state == "done"
    assert (study.folder / "results" / "cpu" / "shows" / "c1.png").read_bytes() == b"picture"
    assert study.leftovers() == []
    store_outputs(path, study.folder / "shows.ipynb")  # a run of the same cells: links are left as they are


def test_an_exception_in_a_cell(study: Any) -> None:
    study.notebook("bad", "print('so far')\n1 / 0", "print('never')")
    result = run_job(study.job("bad"))
    assert (result.state, result.output) == ("failed", "failed/bad.ipynb")
    assert result.error.endswith("ZeroDivisionError: division by zero")
    assert study.published() == []
    assert study.text("bad", "failed") == "so far\n"
    assert study.leftovers() == []


def test_a_killed_kernel_is_not_taken_for_a_finished_notebook(study: Any) -> None:
    study.notebook("dead", "print('so far', flush=True)", "import os; os.kill(os.getpid(), 9)", "print('never')")
    result = run_job(study.job("dead"))
    assert result.state == "killed"
    assert "cell 5: the kernel died (signal 9, SIGKILL; out of memory?)" in result.error
    assert study.published() == []
    kept = json.loads((study.folder / "failed" / "dead.ipynb").read_text())["metadata"]
    assert kept["flatlab"]["state"] == "killed"
    assert kept["papermill"]["exception"] is True
    assert study.leftovers() == []


def test_a_notebook_that_takes_too_long(study: Any) -> None:
    study.notebook("slow", "import time\nprint('so far', flush=True)\ntime.sleep(600)")
    result = run_job(study.job("slow"), timeout=4)
    assert (result.state, study.published(), study.leftovers()) == ("timed out", [], [])
    assert result.error.endswith("not finished within 4 s")
    assert 4 <= result.seconds < 600  # sooner than the notebook itself would end, however busy the machine


def test_leaving_early_is_not_finishing(study: Any) -> None:
    study.notebook("early", "import sys; sys.exit(0)", "print('never')")
    result = run_job(study.job("early"))
    assert (result.state, study.published()) == ("failed", [])
    assert "never run" in result.error


def test_stopping_on_request_leaves_nothing_but_a_record(study: Any) -> None:
    study.notebook("slow", "open('started', 'w').close()\nimport time; time.sleep(600)")
    result = run_job(study.job("slow"), stop=(study.notebooks / "started").exists)
    assert (result.state, result.output) == ("interrupted", None)
    assert study.records() == {"slow": "interrupted"}
    assert study.published() == study.leftovers() == []
    assert not (study.folder / "failed").exists()


def test_a_success_clears_the_remains_of_an_earlier_failure(study: Any) -> None:
    study.notebook("x", "assert eps")
    failed = run_job(study.job("x"))
    study.notebook("x", "assert seed == 0")
    done = run_job(study.job("x"))
    assert (failed.state, done.state) == ("failed", "done")
    assert not list((study.folder / "failed").iterdir())
    assert failed.key != done.key


def test_braces_blanks_and_length_in_a_path(study_at: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("t" * 120)))  # too long for the path of a socket
    Path(tempfile.gettempdir()).mkdir()
    study = study_at(tmp_path / ("a {b} %s " + "long" * 30))
    study.notebook("ok", "print(seed)")
    assert run_job(study.job("ok")).state == "done"


def full_disk(match: str, real: Any) -> Any:
    """`real`, except that a call whose last path contains `match` finds the disk full."""

    def call(*args: Any, **options: Any) -> Any:
        if match in str(args[-1] if real is os.replace else args[0]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))
        return real(*args, **options)

    return call


def test_a_full_disk_at_publishing_keeps_the_old_result(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    study.notebook("ok", "print('old')")
    run_job(study.job("ok"))
    study.notebook("ok", "print('new')")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_disk("ok.ipynb", os.replace))
        result = run_job(study.job("ok"))
    assert result.state == "failed"
    assert result.error == f"cannot write {study.folder / 'ok.ipynb'}: No space left on device"
    assert study.text("ok") == "old\n"
    assert study.records() == {"ok": "failed"}
    assert study.leftovers() == []
    assert run_job(study.job("ok")).state == "done"
    assert study.text("ok") == "new\n"


def test_a_full_disk_while_running_ends_the_job_and_its_kernel(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import papermill.iorw

    study.notebook("ok", "open('pid', 'w').write(str(__import__('os').getpid()))", "print('never')")
    real = papermill.iorw.LocalHandler.write

    def write(self: Any, text: str, path: str) -> None:
        if (study.notebooks / "pid").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        real(self, text, path)

    monkeypatch.setattr(papermill.iorw.LocalHandler, "write", write)
    result = run_job(study.job("ok"))
    assert result.state == "failed"
    assert result.error.startswith(f"cannot write {study.folder}")
    assert result.error.endswith("No space left on device")
    assert study.published() == study.leftovers() == []
    with pytest.raises(ProcessLookupError):
        os.kill(int((study.notebooks / "pid").read_text()), 0)


def test_a_result_that_cannot_be_recorded_is_a_failure(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    study.notebook("ok", "print(1)")
    monkeypatch.setattr(os, "replace", full_disk("ok.json", os.replace))
    result = run_job(study.job("ok"))
    assert result.state == "failed"
    assert "ok.json: No space left on device" in result.error


def test_the_sweep_takes_files_of_dead_processes_only(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    mine = files.owner()
    host, pid, token = mine.rsplit("-", 2)
    old_life = f"{host}-{pid}-{'0' * 8}"  # a process of the same number, long ago
    places = {
        f"running/a.{mine}.part.ipynb": True,
        f"running/a.{old_life}.part.ipynb": False,
        f"running/x-eps=0.1.{host}-{child.pid}-{token}.part.ipynb": False,
        f"running/x.{host}-{os.getppid()}-{token}.part.ipynb": True,
        f"running/x.elsewhere-{child.pid}-{token}.part.ipynb": True,
        f"running/batch.{host}-{child.pid}-{token}.stop": False,
        f"jobs/.a.json.{host}-{child.pid}-{token}.part": False,
        f".a.ipynb.{host}-{child.pid}-{token}.part": False,
        "a.ipynb": True,
        "jobs/a.json": True,
    }
    for name in places:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    removed = records.sweep(tmp_path)
    assert {name: (tmp_path / name).exists() for name in places} == places
    assert len(removed) == 5


@pytest.mark.parametrize("content", ["", "{", "[]", '{"job": "a"', '{"surprise": 1}'])
def test_a_damaged_record_is_no_result_and_says_why(tmp_path: Path, content: str) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "a.json").write_text(content)
    found = records.read_record(tmp_path, "a")
    assert (found.job, found.state, found.ok, found.key) == ("a", "unreadable record", False, "")
    assert found.error.startswith("jobs/a.json: ")
    assert records.read_records(tmp_path) == [found]


def test_kernels_keep_memory_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    env = kernel.environment(3)
    assert env["OMP_NUM_THREADS"] == "3"
    assert int(env["MALLOC_TRIM_THRESHOLD_"]) >= 1 << 30
    assert env["MALLOC_MMAP_THRESHOLD_"] == "65536", "the user's own choice stays"
