"""Stopped or killed while it starts: a line that says so, and the exit code that every command has for it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flatlab.runner.cli import main


@pytest.fixture
def at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes Python processes that are started from now on run a line first."""

    def add(line: str) -> None:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(f"import os, signal, sys\n{line}\n")
        paths = [str(tmp_path / "site"), str(Path(__file__).parents[2])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    return add


def flatlab(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "flatlab", *words], capture_output=True, text=True, timeout=600)


def places(study: Any) -> list[str]:
    return ["--preset", "quick", "--out", str(study.out), "--notebooks", str(study.notebooks)]


def test_a_worker_that_is_killed_while_it_starts(study: Any, at_start: Any) -> None:
    study.notebook("a", "print(1)")
    study.notebook("b", "print(1)")
    at_start("if any('spawn_main' in word for word in sys.orig_argv): os.kill(os.getpid(), signal.SIGKILL)")
    ran = flatlab("run", *places(study), "--workers", "2")
    assert ran.returncode == 1
    assert ran.stderr == (
        "error: one of 2 worker processes did not start (killed, or out of memory?): run the same command again, or "
        "with fewer workers\n"
    )
    assert study.records() == {}
    assert study.leftovers() == []


def test_an_interrupt_before_the_first_line(at_start: Any) -> None:
    at_start(
        "class Interrupting:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'flatlab.runner.batch': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())"
    )
    ran = flatlab("list")
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "interrupted before anything was begun\n")


@pytest.mark.parametrize("command", ["list", "run", "store", "record", "check"])
def test_a_torn_notebook_is_named_and_has_one_code(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    torn = study.notebooks / "01_torn.ipynb"
    torn.write_text('{"cells": [')
    (tmp_path / "README.md").write_text("")
    words = {
        "list": ["01", "--notebooks", str(study.notebooks)],
        "record": [*places(study), "--readme", str(tmp_path / "README.md")],
        "check": [str(torn), str(torn)],
    }
    assert main([command, *words.get(command, places(study))]) == 1
    assert str(torn) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["data", "check", "cifar"], 2),
        (["data", "download", "cifar"], 2),
        (["report", "--preset", "fast"], 2),
        (["record", "--preset", "fast"], 2),
        (["store", "--preset", "fast"], 2),
        (["run", "--preset", "fast"], 2),
        (["check", "gone.json", "gone.json"], 1),
        (["recompute", "gone.json"], 1),
        (["record", "--readme", "gone.json"], 1),
    ],
)
def test_a_name_that_there_is_not_is_senseless_and_a_file_that_there_is_not_a_failure(
    study: Any, capsys: pytest.CaptureFixture[str], words: list[str], code: int
) -> None:
    study.notebook("a", "1")
    more = ["--notebooks", str(study.notebooks)] if words[0] in ("store", "run", "record") else []
    assert main([*words, *more]) == code
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert words[-1] in said
    assert "Errno" not in said


def test_the_codes_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    lines = capsys.readouterr().out.partition("exit codes, of every command:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "2", "130"]
