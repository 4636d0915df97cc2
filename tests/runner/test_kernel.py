"""The kernel process: no output is lost on its way into the file, and no exception of a background thread is."""

import threading
from pathlib import Path
from typing import Any

import pytest

from flatlab.runner import kernel, launcher
from flatlab.runner.execution import run_job

FAILING = "import threading\ndef {name}():\n    raise ValueError('no {name}\\nat all')\n"
THREAD = "thread = threading.Thread(target={name}, name='{name}')\nthread.start()\nthread.join()\n"


@pytest.mark.slow
def test_twenty_thousand_writes_arrive(study: Any) -> None:
    study.notebook("many", "for i in range(20_000):\n    print(i, flush=True)", "print('end')")
    assert run_job(study.job("many")).state == "done"
    assert study.text("many").split() == [*map(str, range(20_000)), "end"]


def test_output_that_does_not_arrive_is_a_failure(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "OUTPUT_TIMEOUT", 0)
    study.notebook("late", "for i in range(3000):\n    print(i, flush=True)")
    result = run_job(study.job("late"))
    assert (result.state, study.published()) == ("failed", [])
    assert result.error.endswith("its output did not arrive within 0 s of its end")


def test_a_thread_that_fails_is_a_failure_of_the_job(study: Any) -> None:
    """The notebook went on without what the thread was to do: nobody knows what its numbers lack."""
    first, second = (FAILING.format(name=name) + THREAD.format(name=name) for name in ("data", "rest"))
    study.notebook("threads", "print('so far')", first, second, "print('to the end')")
    result = run_job(study.job("threads"))
    assert (result.state, result.output, study.published()) == ("failed", "failed/threads.ipynb", [])
    assert result.error == "cell 5: the thread data failed: ValueError: no data"
    said = study.text("threads", "failed")
    assert "Exception in thread data:" in said, "it is shown where it happened, as before"
    assert said.endswith("to the end\n")


def test_a_thread_that_fails_is_named_beside_the_cell_that_missed_its_work(study: Any) -> None:
    study.notebook("both", FAILING.format(name="data") + THREAD.format(name="data") * 2, "1 / 0")
    result = run_job(study.job("both"))
    cell, _, thread = result.error.partition("; ")
    assert cell.endswith("ZeroDivisionError: division by zero")
    assert thread == "cell 4: the thread data failed: ValueError: no data (and 1 more)"


def test_threads_that_end_by_themselves_are_none(study: Any) -> None:
    caught = "def calm():\n    try:\n        1 / 0\n    except ZeroDivisionError:\n        raise SystemExit\n"
    kept = "from concurrent.futures import ThreadPoolExecutor\nfuture = ThreadPoolExecutor(1).submit(lambda: 1 / 0)\n"
    ask = "assert isinstance(future.exception(), ZeroDivisionError)\n"
    study.notebook("calm", "import threading\n" + caught + THREAD.format(name="calm") + kept + ask)
    assert study.states() == {"calm": "done"}


def test_what_a_thread_without_a_name_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    launcher.note_faults(tmp_path / "faults")
    faults = [threading.ExceptHookArgs((kind, kind("\ud800"), None, None)) for kind in (ValueError, SystemExit)]
    for fault in faults:
        threading.excepthook(fault)
    assert shown == faults
    assert (tmp_path / "faults").read_text() == "the thread without a name failed: ValueError: \\ud800\n"
