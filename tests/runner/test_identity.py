"""A result is believed only if the executed file is the one that the record tells of, run from what is there now."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from flatlab.runner import StudyError, cli
from flatlab.runner.executed import read_executed
from flatlab.runner.execution import run_job
from flatlab.runner.job import package_hashes
from flatlab.runner.records import read_record, record_path

COUNT = "with open('ran', 'a') as file: file.write('x')"


def times_run(study: Any) -> int:
    return len((study.notebooks / "ran").read_text())


def edit(path: Path, change: Any) -> None:
    """Apply a change to the JSON of an executed notebook."""
    notebook = json.loads(path.read_text())
    change(notebook)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def test_a_damaged_or_foreign_file_is_not_taken_for_the_result(study: Any) -> None:
    study.notebook("a", COUNT, "print(6 * 7)")
    assert study.states() == {"a": "done"}
    path = study.folder / "a.ipynb"
    good = path.read_bytes()
    assert study.states() == {"a": "cached"}

    def cells(notebook: Any) -> list[Any]:
        return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]

    error = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}
    damages = {
        "is not a notebook": lambda: path.write_bytes(good[: len(good) // 2]),
        "format 4": lambda: path.write_text("{}"),
        "changed after its run": lambda: path.write_bytes(good.replace(b"42", b"43")),
        "another run than its record": lambda: edit(path, lambda n: n["metadata"]["flatlab"].update(key="0" * 64)),
        "another run": lambda: edit(path, lambda n: n["metadata"].pop("flatlab")),
        "cell 5 was never run": lambda: edit(path, lambda n: cells(n)[-1].update(execution_count=None)),
        "cell 5 ended in an error": lambda: edit(path, lambda n: cells(n)[-1].update(outputs=[error])),
        "cannot be read": path.unlink,
    }
    for words, damage in damages.items():
        damage()
        with pytest.raises(StudyError, match=f"a.ipynb.*{words}.*|{words}"):
            read_executed(study.folder, read_record(study.folder, "a"))
        assert study.job("a").cached() is None, words
        path.write_bytes(good)
    assert study.states() == {"a": "cached"}
    path.write_bytes(good[: len(good) // 2])
    assert study.states() == {"a": "done"}
    assert (times_run(study), study.text("a")) == (2, "42\n")


def test_what_was_published_but_not_recorded_is_not_the_earlier_result(study: Any) -> None:
    study.notebook("a", "print('one')")
    study.run()
    record = record_path(study.folder, "a").read_bytes()
    study.notebook("a", "print('two')")
    study.run()
    record_path(study.folder, "a").write_bytes(record)  # as if killed between publishing and recording
    study.notebook("a", "print('one')")
    assert study.states() == {"a": "done"}
    assert study.text("a") == "one\n"
    assert study.states() == {"a": "cached"}


def test_records_and_stored_outputs_are_made_of_believed_files_only(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- claims:begin -->\n<!-- claims:end -->\n")
    before = study.notebook("a", "print(1)").read_text()
    study.run()
    edit(study.folder / "a.ipynb", lambda notebook: notebook["metadata"].update(title="mine"))
    places = ["--preset", "quick", "--out", str(study.out), "--notebooks", str(study.notebooks)]
    for words in (["record", *places, "--readme", str(readme)], ["store", *places]):
        assert cli.main(words) == 2
        assert f"{study.folder / 'a.ipynb'} was changed after its run" in capsys.readouterr().err
    assert (study.notebooks / "a.ipynb").read_text() == before
    assert not (study.notebooks / "results").exists()


@pytest.mark.parametrize("what", ["package", "notebook", "versions"])
def test_what_changes_during_a_run_is_named_and_nothing_is_done(
    study: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    hashes = {"flatlab/a.py": "1", "flatlab/b.py": "1"}
    monkeypatch.setattr("flatlab.runner.job.package_hashes", lambda package: dict(hashes))
    found = {"torch": "2.6"}
    monkeypatch.setattr("flatlab.runner.job.versions", lambda: dict(found))
    path = study.notebook("a", "print(1)")
    job = study.job("a")

    def change(cell: int, cells: int) -> None:
        if cell == cells and what == "package":
            hashes["flatlab/b.py"] = "2"
        elif cell == cells and what == "versions":
            found["torch"] = "2.7"
        elif cell == cells:
            study.notebook("a", "print(2)")

    result = run_job(job, on_cell=change)
    named = {"package": "flatlab/b.py", "notebook": str(path), "versions": "torch 2.7 (2.6 in the plan)"}[what]
    assert (result.state, result.error) == ("failed", f"{named} changed since the job was planned: run it again")
    assert (study.published(), result.output) == ([], "failed/a.ipynb")
    again = run_job(job, on_cell=lambda cell, cells: pytest.fail("what has changed already need not be run"))
    assert (again.state, again.error) == (result.state, result.error)


def test_leaving_in_the_last_cell_is_finishing(study: Any) -> None:
    study.notebook("a", "import sys; sys.exit(0)")
    assert [study.states(), study.states()] == [{"a": "done"}, {"a": "cached"}]


def test_opening_and_saving_a_notebook_does_not_change_it(study: Any) -> None:
    path = study.notebook("a", "print(1)")
    job = study.job("a")
    edit(path, lambda notebook: notebook["metadata"].update(kernelspec={"name": "python3"}))
    assert run_job(job).state == "done"
    assert study.states() == {"a": "cached"}


def test_an_edited_package_file_is_seen_whatever_its_time(tmp_path: Path) -> None:
    package = tmp_path / "flatlab"
    package.mkdir()
    (package / "a.py").write_text("one")
    before, times = package_hashes(package), os.stat(package / "a.py")
    (package / "a.py").write_text("two")
    os.utime(package / "a.py", ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, same time
    assert package_hashes(package) != before
