"""However a kernel ends, nothing of it is left, and it is said how it ended."""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from flatlab import files
from flatlab.runner import kernel, records
from flatlab.runner.execution import run_job
from flatlab.runner.lock import locked

CHILD = """\
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, file=open("child", "w"), flush=True)
"""

IN_KERNEL = "any('launcher' in word for word in sys.orig_argv)"


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet taken notice of does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("last", "state"),
    [
        ("time.sleep(600)", "timed out"),
        ("os.kill(os.getpid(), 9)", "killed"),
        ("print('left running')", "done"),
    ],
)
def test_what_a_kernel_has_started_ends_with_it(study: Any, last: str, state: str) -> None:
    study.notebook("a", CHILD + last)
    child = study.notebooks / "child"
    for seconds in (4, 16, 64):  # a busy machine may need more before the child is there
        result = run_job(study.job("a"), timeout=seconds if state == "timed out" else None)
        if child.exists():
            break
    assert result.state == state
    assert gone(int(child.read_text()))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("os.kill(os.getpid(), 9)", "signal 9, SIGKILL; out of memory?"),
        ("raise SystemExit('no room')", "(exit code 1): SystemExit: no room"),
    ],
)
def test_a_kernel_that_dies_before_its_first_word_is_killed(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, words: str
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(f"import os, sys\nif {IN_KERNEL}:\n    {line}\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    study.notebook("a", "print(1)")
    result = run_job(study.job("a"))
    assert result.state == "killed"
    assert result.error.startswith("start: the kernel died (")
    assert words in result.error
    assert study.leftovers() == []


def test_a_kernel_that_hangs_at_its_start_is_not_called_killed(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(f"import sys, time\nif {IN_KERNEL}:\n    time.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setattr(kernel, "START_TIMEOUT", 2)
    study.notebook("a", "print(1)")
    result = run_job(study.job("a"))
    assert (result.state, result.error.startswith("start: RuntimeError: Kernel didn't respond")) == ("failed", True)


def dead_owner() -> str:
    """The owner's part of a temporary name, of a process that is gone."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    host, _, token = files.owner().rsplit("-", 2)
    return f"{host}-{child.pid}-{token}"


def test_folders_of_killed_processes_are_removed_by_the_next(tmp_path: Path) -> None:
    dead, mine = dead_owner(), files.owner()
    kept = [f"flatlab.{mine}.x", f"flatlab.elsewhere-1-{'0' * 8}.x", "flatlab.notes", "flatlab"]
    for name in [f"flatlab.{dead}.x", *kept]:
        (tmp_path / name / "in").mkdir(parents=True)
    with files.temporary_folder(tmp_path) as folder:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, folder.name])
        assert not files.abandoned(folder)
    assert not folder.exists()


def test_part_files_of_killed_processes_go_when_the_file_is_written_again(tmp_path: Path) -> None:
    dead, mine = dead_owner(), files.owner()
    names = {f".a[1].json.{dead}.0.part": False, f".a[1].json.{mine}.99.part": True, f".b.json.{dead}.0.part": True}
    for name in names:
        (tmp_path / name).touch()
    files.write_text(tmp_path / "a[1].json", "new")
    assert {name: (tmp_path / name).exists() for name in names} == names


def test_the_sweep_takes_parts_of_jobs_that_nobody_runs(tmp_path: Path) -> None:
    running = tmp_path / "running"
    running.mkdir()
    far = f"elsewhere-1-{'0' * 8}"
    for name in (f"a.{far}.part.ipynb", f"a-eps=0.1.{far}.part.ipynb", "a.lock", "a-eps=0.1.lock"):
        (running / name).touch()
    with locked(running / "a-eps=0.1.lock"):
        removed = records.sweep(tmp_path)
        assert sorted(path.name for path in running.iterdir()) == [f"a-eps=0.1.{far}.part.ipynb", "a-eps=0.1.lock"]
    assert [path.name for path in removed] == [f"a.{far}.part.ipynb"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_run_leaves_nothing_that_the_next_does_not_sweep(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    study.notebook("a", "import os, time\nopen('here', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.1)")
    words = ["run", "--preset", "quick", "--out", str(study.out), "--notebooks", str(study.notebooks)]
    process = subprocess.Popen([sys.executable, "-m", "flatlab", *words])
    deadline = time.monotonic() + 600
    while not (study.notebooks / "here").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = [*place.glob("flatlab.*"), *(study.folder / "running").iterdir()]
    assert len(left) == 3, "a folder, a part and a lock: otherwise there is nothing to test"
    (study.notebooks / "go").touch()
    assert study.states() == {"a": "done"}
    assert [path for path in left if path.exists()] == []
    assert study.leftovers() == []
