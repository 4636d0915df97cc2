"""A study of three-cell notebooks in a temporary folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from flatlab.runner import JobResult, run
from flatlab.runner.job import Job, plan
from flatlab.runner.records import read_records

PARAMETERS = """\
preset: str = "quick"  # size of the run
seed: int = 0  # shifts all seeds
eps: float | None = None  # radius, None = the preset's
"""


class Study:
    """Notebooks and results under one temporary folder, and short ways to run and look at them."""

    def __init__(self, root: Path) -> None:
        self.notebooks, self.out, self.folder = root / "notebooks", root / "results", root / "results" / "quick"
        self.notebooks.mkdir(parents=True)

    def notebook(self, name: str, *cells: str, parameters: str | None = PARAMETERS, title: str = "") -> Path:
        """Write a notebook of the given code cells behind a title and a parameters cell."""

        def code(index: int, source: str, tags: Sequence[str] = ()) -> dict[str, Any]:
            meta = {"tags": list(tags)}
            return {
                "cell_type": "code",
                "id": f"code-{index}",
                "metadata": meta,
                "source": source.splitlines(keepends=True),
                "outputs": [],
                "execution_count": None,
            }

        head = [{"cell_type": "markdown", "id": "title", "metadata": {}, "source": f"# {title or name}"}]
        if parameters is not None:
            head.append(code(0, parameters, ["parameters"]))
        body = [code(index, source) for index, source in enumerate(cells, 1)]
        content = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [*head, *body]}
        path = self.notebooks / f"{name}.ipynb"
        path.write_text(json.dumps(content))
        return path

    def run(self, *names: str, **options: Any) -> list[JobResult]:
        """`flatlab.runner.execution` on these folders with the quick preset."""
        return run(names or None, preset="quick", out=self.out, notebooks=self.notebooks, **options)

    def states(self, *names: str, **options: Any) -> dict[str, str]:
        """State by job of a run."""
        return {result.job: result.state for result in self.run(*names, **options)}

    def job(self, name: str, **parameters: Any) -> Job:
        """The planned job of one notebook."""
        options = {"preset": "quick", "seeds": 1, "out": self.out, "notebooks": self.notebooks}
        return plan([name], parameters=parameters, **options)[0]

    def records(self) -> dict[str, str]:
        """State by job, as recorded on disk."""
        return {record.job: record.state for record in read_records(self.folder)}

    def published(self) -> list[str]:
        """Names of the finished notebooks."""
        return sorted(path.stem for path in self.folder.glob("*.ipynb"))

    def leftovers(self) -> list[Path]:
        """Temporary files anywhere in the results."""
        hidden = [path for path in self.out.rglob(".*") if path.is_file()]
        return [*hidden, *self.out.rglob("*.part*"), *self.out.rglob("*.stop")]

    def text(self, job: str, folder: str = "") -> str:
        """What an executed notebook printed."""
        cells = json.loads((self.folder / folder / f"{job}.ipynb").read_text())["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        return "".join("".join(output.get("text", "")) for output in outputs)


@pytest.fixture(autouse=True)
def _settled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone may be editing the package while its tests run; the tests of resuming should not notice."""
    monkeypatch.setattr("flatlab.runner.job.package_hashes", lambda package: {})


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


@pytest.fixture
def study_at() -> type[Study]:
    return Study


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any start of a kernel an error, for tests of what must be refused before."""

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a kernel was about to start")

    monkeypatch.setattr("flatlab.runner.batch.run_job", refuse)
