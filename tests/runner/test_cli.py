"""The command line: what it prints, what it returns, and how it stops."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flatlab.claims import Claim, ClaimTable
from flatlab.runner import Event, JobResult
from flatlab.runner.cli import main
from flatlab.runner.terminal import Terminal, duration, tally
from flatlab.stats import greater, mean

REAL = """\
from flatlab.claims import Claim, ClaimTable
from flatlab.stats import greater, paired_difference
claim = Claim("A1", "flat is flat", greater(0), paired_difference([1.0, 1.2, 1.1], [0.0, 0.1, 0.0]))
ClaimTable([claim], paper="01_claims", preset=preset, seeds=[seed])
"""
PICTURE = """\
import matplotlib.pyplot as plt
plt.plot([0, 1])
plt.show()
"""


@pytest.fixture
def cli(study: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call the command line on the temporary study; returns (exit code, output, errors)."""
    monkeypatch.setenv("COLUMNS", "100")

    def call(command: str, *words: str) -> tuple[int, str, str]:
        places = {"list": ["--notebooks"], "run": ["--notebooks", "--out"], "report": ["--out"]}
        places |= {"record": places["run"], "store": places["run"], "recompute": ["--notebooks"]}
        paths = {"--notebooks": str(study.notebooks), "--out": str(study.out)}
        code = main([command, *words, *(word for name in places[command] for word in (name, paths[name]))])
        out, errors = capsys.readouterr()
        return code, out, errors

    return call


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replaces the page of results; holds the folders it was asked for."""
    asked: list[Path] = []

    def build(folder: Path) -> Path:
        asked.append(folder)
        return folder / "index.html"

    monkeypatch.setattr("flatlab.runner.report.build_report", build)
    return asked


def test_listing(study: Any, cli: Any) -> None:
    study.notebook("01_first", "1", title="The first one")
    study.notebook("02_second", "1", title="The second", parameters=None)
    (study.notebooks / "03_torn.ipynb").write_text("{")
    code, out, _ = cli("list")
    assert code == 0
    assert [line.split("  ")[0] for line in out.splitlines()] == ["01_first", "02_second", "03_torn"]
    assert "The first one" in out
    assert "is not a notebook" in out

    code, out, _ = cli("list", "01")
    assert code == 0
    assert out.splitlines()[0] == "01_first: The first one"
    assert re.search(r"eps +float \| None +None +radius, None = the preset's", out)
    assert cli("list", "02")[0] == 2
    code, _, errors = cli("list", "01_frist")
    assert (code, "did you mean '01_first'?" in errors) == (2, True)


def test_listing_is_quick_because_it_imports_little(study: Any) -> None:
    study.notebook("01_first", "1")
    code = (
        "import sys\nfrom flatlab.runner.cli import main\n"
        f"main(['list', '--notebooks', {str(study.notebooks)!r}])\n"
        "heavy = ['torch', 'numpy', 'papermill', 'nbformat', 'jupyter_client', 'dask', 'distributed', 'pandas']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["01_first                      01_first", "[]"]


@pytest.mark.parametrize("command", ["", "list", "run", "report", "data", "record", "recompute"])
def test_help_is_there_for_everything(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    if command:
        with pytest.raises(SystemExit) as left:
            main([command, "--help"])
        assert left.value.code == 0
    else:
        assert main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: python -m flatlab {command}".rstrip())
    if not command:
        assert all(re.search(rf"^    {name} +[A-Z]", out, re.M) for name in ("list", "run", "report", "data", "record"))
        assert "examples:" in out


def test_a_run_prints_jobs_claims_and_the_page(study: Any, cli: Any, page: list[Path]) -> None:
    study.notebook("01_claims", REAL)
    study.notebook("02_plain", "print(eps)")
    code, out, errors = cli("run", "--preset", "quick", "--set", "eps=8/255")
    lines = out.splitlines()
    assert (code, errors) == (0, "")
    assert re.fullmatch(r"\[1/2\] 01_claims-eps=0.03137254901960784 +done +\d+ s", lines[0])
    assert lines[3:5] == ["01_claims-eps=0.03137254901960784", "  A1  supported  flat is flat"]
    assert lines[-2:] == ["2 jobs: 2 done", f"page: {study.folder / 'index.html'}"]
    assert page == [study.folder]
    code, out, _ = cli("run", "02", "--preset", "quick", "--set", "eps=8/255")
    assert (code, "1 job: 1 cached" in out, "A1" in out) == (0, True, False)


def test_what_lacks_the_preset_is_skipped_with_a_line_or_refused_by_name(study: Any, cli: Any) -> None:
    four = 'preset: str = "quick"  # quick, cpu, gpu or full'
    study.notebook("01_without", "1 / 0", parameters=four)
    study.notebook("02_with", "1")
    study.notebook("03_without", "1 / 0", parameters=four)
    code, out, errors = cli("run", "01", "02", "--preset", "real")
    assert (code, out, study.out.exists()) == (2, "", False)
    assert errors == "error: notebook 01_without has no preset 'real'; it has quick, cpu, gpu, full\n"
    code, out, errors = cli("run", "--preset", "real")
    said = [
        f"skipped: {name} has no preset 'real'; it has quick, cpu, gpu, full" for name in ("01_without", "03_without")
    ]
    lines = out.splitlines()
    assert (code, errors, lines[:2], lines[-4:-1]) == (0, "", said, [*said, "1 job: 1 done"])
    page = (study.out / "real" / "index.html").read_text()
    assert ("02_with" in page, "without" in page) == (True, False)
    assert cli("store", "--preset", "real")[:2] == (0, f"stored: {study.notebooks / '02_with.ipynb'}\n")
    (study.notebooks / "02_with.ipynb").unlink()
    code, out, errors = cli("run", "--preset", "real")
    assert (code, out) == (2, "")
    assert errors.startswith(f"error: no notebook in {study.notebooks} has the preset 'real': 01_without has")


def test_a_failure_gives_a_code_a_reason_and_still_a_page(study: Any, cli: Any, page: list[Path]) -> None:
    study.notebook("a", "raise RuntimeError('the reason')")
    study.notebook("b", "1")
    code, out, _ = cli("run", "--preset", "quick")
    assert code == 1
    assert re.search(r"\[1/2\] a +failed +\d+ s\n    cell 4: RuntimeError: the reason\n\[2/2\] b +done", out)
    assert "2 jobs: 1 done, 1 failed" in out
    assert page == [study.folder]


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "epps=1"], "did you mean 'eps'?"),
        (["--set", "eps=big"], "8/255"),
        (["--preset", "qick"], "did you mean 'quick'?"),
        (["--device", "cuda"], "has no parameter 'device'"),
        (["--resources", "GPU=1"], "--scheduler"),
        (["--resources", "GPU=many", "--scheduler", "tcp://x:1"], "GPU=1"),
        (["--seeds", "0"], "seeds must be an integer >= 1"),
        (["nothing"], "unknown notebook 'nothing'"),
    ],
)
def test_senseless_requests(study: Any, cli: Any, words: list[str], message: str) -> None:
    study.notebook("a", "1")
    code, out, errors = cli("run", *words)
    assert (code, out) == (2, "")
    assert errors.startswith("error: ")
    assert message in errors


def test_a_setting_without_a_value_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["run", "--set", "eps"])
    assert left.value.code == 2
    assert "expected NAME=VALUE, got 'eps'" in capsys.readouterr().err


def test_a_place_that_cannot_be_written(study: Any, cli: Any) -> None:
    study.notebook("a", "1")
    study.out.touch()
    code, _, errors = cli("run", "--preset", "quick")
    assert code == 1
    assert errors.startswith(f"error: cannot write {study.out}")


def test_a_page_that_cannot_be_built_costs_no_result(study: Any, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(folder: Path) -> Path:
        raise ValueError("no ink")

    monkeypatch.setattr("flatlab.runner.report.build_report", build)
    study.notebook("a", "1")
    code, out, errors = cli("run", "--preset", "quick")
    assert (code, "1 job: 1 done" in out) == (1, True)
    assert "no page (no ink); try again: python -m flatlab report --preset quick" in errors
    assert study.published() == ["a"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_stopping_a_real_run(study: Any, number: signal.Signals, workers: int) -> None:
    study.notebook("a", "print(1)")
    study.notebook("b", "import os, time\nprint(os.getpid(), file=open('pid', 'w'), flush=True)\ntime.sleep(600)")
    study.notebook("c", "print(3)")
    names = ["a", "b"] if workers == 2 else ["a", "b", "c"]
    words = f"--preset quick --workers {workers} --notebooks {study.notebooks} --out {study.out}".split()
    process = subprocess.Popen(
        [sys.executable, "-m", "flatlab", "run", *names, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pid = study.notebooks / "pid"
    deadline = time.monotonic() + 600
    while not (pid.exists() and pid.read_text() and study.published() == ["a"]) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    out, errors = process.communicate(timeout=600)
    assert (process.returncode, errors) == (130, "")
    assert "The same command goes on from here" in out
    expected = {"a": "done", "b": "interrupted", "c": "interrupted"}
    assert study.records() == {name: expected[name] for name in names}
    assert study.published() == ["a"]
    assert study.leftovers() == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_the_real_page_and_the_record(study: Any, cli: Any, tmp_path: Path) -> None:
    from flatlab import claims

    recorded = (tmp_path / "README.md", study.notebooks / "results" / "quick.json")
    recorded[0].write_text("# Title\n<!-- claims:begin -->\nold\n<!-- claims:end -->\nrest\n")
    assert cli("report")[0] == 2, "nothing to report on yet"
    assert cli("record", "--preset", "quick")[0] == 2
    assert cli("recompute")[0] == 2
    study.notebook("01_claims", PICTURE, REAL)
    study.notebook("02_bad", "1 / 0")
    study.notebook("03_plain", PICTURE)
    code, out, _ = cli("run", "--preset", "quick", "--seeds", "2")
    assert code == 1
    assert (study.folder / "index.html").stat().st_size > 1000
    code, out, errors = cli("record", "--preset", "quick", "--readme", str(recorded[0]))
    assert (code, errors) == (0, "")
    assert "left out: 02_bad (failed)" in out
    content = json.loads(recorded[1].read_text())
    assert list(content["papers"]) == ["01_claims"]
    assert content["papers"]["01_claims"]["seeds"] == [0], "the notebook as it is, and not its other seeds"
    assert content["papers"]["01_claims"]["seconds"] > 0
    assert "| [01_claims](notebooks/results/README.md#01_claims) | 1 ✓" in recorded[0].read_text()
    assert "**A1** flat is flat" in (recorded[1].parent / "README.md").read_text()
    kept = [str(path.relative_to(recorded[1].parent)) for path in recorded[1].parent.rglob("*.png")]
    assert kept == ["quick/01_claims/code-1.png"], "figures of notebooks with claims"
    assert [cli("record", "--preset", "quick", "--readme", str(recorded[0]))[1].count("nothing new") for _ in "12"] == [
        2,
        2,
    ]
    code, out, _ = cli("recompute")
    assert (code, out) == (0, f"{recorded[1]}:\n  01_claims: 1 claims recomputed, all as recorded\n")
    assert claims.load_recorded("01_claims", recorded[1].parent)["quick"]["claims"]
    assert cli("report", "--preset", "quick")[:2] == (0, f"page: {study.folder / 'index.html'}\n")


def test_a_picture_that_is_shown_and_not_made_stops_the_record(study: Any, cli: Any, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("![x](notebooks/results/quick/01_claims/gone.png)\n<!-- claims:begin -->\n<!-- claims:end -->\n")
    study.notebook("01_claims", PICTURE, REAL)
    assert cli("run", "--preset", "quick")[0] == 0
    code, _, errors = cli("record", "--preset", "quick", "--readme", str(readme))
    assert (code, "makes no gone.png" in errors) == (2, True)
    assert not (study.notebooks / "results").exists(), "nothing is written"
    code, _, errors = cli("record", "--preset", "quick", "--readme", str(tmp_path / "none.md"))
    assert (code, "none.md" in errors) == (1, True)


def test_a_record_is_recomputed_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from flatlab import claims

    rows = [Claim(f"A{i}", "flat is flat", greater(0), mean([1.0 + i, 1.5 + i, 1.1 + i])) for i in range(3)]
    path = claims.record([ClaimTable(rows, paper="01_claims", preset="cpu")], "cpu", tmp_path)
    assert main(["recompute", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}:\n  01_claims: 3 claims recomputed, all as recorded\n"
    content = json.loads(path.read_text())
    content["papers"]["01_claims"]["claims"][1]["estimate"]["value"] += 0.01
    path.write_text(json.dumps(content))
    assert main(["recompute", str(path)]) == 1
    out = capsys.readouterr().out
    assert "  01_claims: 3 claims recomputed, 1 differ\n    A1: numbers\n      recorded    supported: 2.2" in out
    content["papers"]["01_claims"]["claims"][1]["verdict"] = "contradicted"
    path.write_text(json.dumps(content))
    assert main(["recompute", str(path)]) == 1
    assert "does not follow" in capsys.readouterr().err
    assert main(["recompute", str(tmp_path / "gone.json")]) == 1
    assert main(["recompute", "--notebooks", str(tmp_path)]) == 2
    assert "no records in" in capsys.readouterr().err


def test_data_sets_are_listed_and_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"digits +train +1,200 +10 +embedded", out)
    assert main(["data", "check", "digits"]) == 0
    assert len(re.findall(r"digits (train|test): complete, sha256 [0-9a-f]{64}", capsys.readouterr().out)) == 2
    assert main(["data", "check"]) == 2
    assert main(["data", "check", "digit"]) == 2
    assert "did you mean 'digits'?" in capsys.readouterr().err
    assert main(["data", "download", "digits"]) == 1
    assert "embedded" in capsys.readouterr().err
    assert main(["data", "check", "cifar10", "--root", "/nowhere"]) == 1


class Screen(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_live_line_shows_one_running_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    screen = Screen()
    with Terminal(screen) as terminal:
        terminal(Event("start", "01_a", 0, 2))
        terminal(Event("cell", "01_a", 0, 2, cell=7, cells=22))
        assert screen.getvalue().endswith("\r\x1b[Krunning 01_a: cell 7/22, 0 s")
        terminal(Event("start", "02_b" * 30, 0, 2))
        before = len(screen.getvalue())
        terminal(Event("end", "01_a", 1, 2, result=JobResult("01_a", "01_a", state="done", seconds=65.0)))
        shown = screen.getvalue()[before:]
        assert shown.startswith(f"\r\x1b[K[1/2] {'01_a':<28}  done  1 min 05 s\n")
        assert max(len(line) for line in shown.split("\r\x1b[K")) < 60, "a longer line would not be wiped"
    assert screen.getvalue().endswith("\r\x1b[K")
    assert [result.job for result in terminal.results] == ["01_a"]


def test_without_a_terminal_there_is_one_line_per_job() -> None:
    stream = io.StringIO()
    with Terminal(stream) as terminal:
        terminal(Event("start", "a", 0, 10))
        terminal(Event("cell", "a", 0, 10, cell=1, cells=2))
        terminal(Event("end", "a", 1, 10, result=JobResult("a", "a", state="killed", seconds=2.0, error="why")))
    assert stream.getvalue() == f"[ 1/10] {'a':<28}  killed  2 s\n    why\n"


def test_words_for_times_and_states() -> None:
    assert [duration(s) for s in (0.4, 59.4, 59.6, 3599, 3600, 7320)] == [
        "0 s",
        "59 s",
        "1 min 00 s",
        "59 min 59 s",
        "1 h 00 min",
        "2 h 02 min",
    ]
    results = [JobResult(str(i), "", state=state) for i, state in enumerate(["done", "failed", "done", "timed out"])]
    assert tally(results) == "4 jobs: 2 done, 1 failed, 1 timed out"


def test_two_records_are_compared_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from flatlab import claims

    def recorded(name: str, first: float) -> str:
        claim = Claim("A1", "flat is flat", greater(0), mean([first, 1.0, 1.5]))
        made = ClaimTable([claim], paper="01_claims", preset=name)
        return str(claims.record([made], name, tmp_path))

    one, digits, other = recorded("quick", 0.9), recorded("cpu", 0.91), recorded("gpu", -0.5)
    assert main(["check", one, one, "--numbers"]) == 0
    assert capsys.readouterr().out == "1 claims the same to the last digit, 0 differences in numbers only, 0 others\n"
    assert [main(["check", one, digits]), main(["check", one, digits, "--numbers"])] == [0, 1]
    assert "01_claims A1: numbers\n  old  supported: 1.1333" in capsys.readouterr().out
    assert main(["check", one, other]) == 1
    assert "A1: verdict" in capsys.readouterr().out
    assert main(["check", one, str(tmp_path / "gone.json")]) == 1
    assert "gone.json" in capsys.readouterr().err
