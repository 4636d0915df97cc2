"""Recording runs: one table a notebook, under its own name, and nothing overwritten or left standing unsaid."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flatlab import claims
from flatlab.claims import Claim, ClaimTable
from flatlab.runner import StudyError
from flatlab.runner.evidence import record
from flatlab.runner.executed import checksum
from flatlab.runner.records import JobResult, read_record, write_record
from flatlab.stats import greater, mean


def table(paper: str, *ids: str, preset: str = "quick") -> ClaimTable:
    rows = [Claim(name, "flat is flat", greater(0), mean([1.0, 1.5, 1.1])) for name in ids or ("A1",)]
    return ClaimTable(rows, paper=paper, preset=preset, environment={})


@pytest.fixture
def ran(study: Any) -> Callable[..., None]:
    """Put a finished run of a notebook into the results, which shows the given tables; no kernel is needed."""

    def run(name: str, *tables: ClaimTable) -> None:
        study.notebook(name)
        bundles = [shown._repr_mimebundle_() for shown in tables]
        outputs = [{"output_type": "display_data", "data": data, "metadata": meta} for data, meta in bundles]
        cell = {"cell_type": "code", "id": "c", "metadata": {}, "source": "", "outputs": outputs, "execution_count": 1}
        meta = {"flatlab": {"job": name, "state": "done", "key": "k"}}
        content = json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": meta, "cells": [cell]}).encode()
        study.folder.mkdir(parents=True, exist_ok=True)
        (study.folder / f"{name}.ipynb").write_bytes(content)
        about = {"key": "k", "checksum": checksum(content), "output": f"{name}.ipynb", "seconds": 1.0}
        write_record(study.folder, JobResult(name, name, state="done", **about))

    return run


@pytest.fixture
def keep(study: Any, tmp_path: Path) -> Callable[[], list[str]]:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- claims:begin -->\n<!-- claims:end -->\n")
    return lambda: record("quick", out=study.out, folder=study.notebooks, readme=readme)


def files(study: Any) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (study.notebooks / "results").glob("*")}


def refused(study: Any, keep: Callable[[], list[str]], words: str) -> None:
    """The record is refused in these words, and nothing of it has changed."""
    before = files(study)
    with pytest.raises(StudyError, match=words):
        keep()
    assert files(study) == before


def test_two_tables_of_one_notebook_are_refused(study: Any, ran: Any, keep: Any) -> None:
    ran("01_a", table("01_a"), table("01_a", "B1"))
    refused(study, keep, "notebook 01_a shows 2 tables of claims, of which one is recorded: join them")


def test_a_table_of_another_notebook_is_refused(study: Any, ran: Any, keep: Any) -> None:
    ran("01_a", table("01_a"))
    keep()
    ran("02_b", table("01_a", "B1"))
    refused(study, keep, "notebook 02_b shows claims of 01_a: say paper='02_b' in its table")
    ran("02_b", table("02_b"), table("03_none"))
    refused(study, keep, "notebook 02_b shows claims of 03_none")


def test_claims_that_vanished_are_not_left_standing(study: Any, ran: Any, keep: Any) -> None:
    ran("00_start")
    ran("01_a", table("01_a", "A1", "A2", "A3"))
    ran("02_b", table("02_b"))
    assert keep()[0].startswith("recorded: "), "a notebook without claims never had any"
    ran("01_a")
    refused(study, keep, "notebook 01_a shows no claims, and 3 of it are recorded")
    ran("01_a", table("01_a", "A3", "A4"))
    assert keep()[0] == "no longer claimed by 01_a: A1, A2"
    rows = claims.load_recorded("01_a", study.notebooks / "results")["quick"]["claims"]
    assert [row["id"] for row in rows] == ["A3", "A4"]


@pytest.mark.parametrize("preset", ["quick", "cpu"])
def test_claims_of_a_notebook_that_is_gone_are_not_left_standing(preset: str, study: Any, ran: Any, keep: Any) -> None:
    """Of whatever preset: all of them stand in the tables that are renewed."""
    ran("01_a", table("01_a"))
    claims.record([table("02_b", preset=preset)], preset, study.notebooks / "results")
    refused(study, keep, rf"{preset}\.json holds claims of 02_b, and there is no such notebook")


def test_a_run_of_a_notebook_that_is_gone_is_left_out(study: Any, ran: Any, keep: Any) -> None:
    ran("01_a", table("01_a"))
    ran("02_b", table("02_b"))
    (study.notebooks / "02_b.ipynb").unlink()
    assert keep()[0] == f"left out: 02_b (no notebook of this name in {study.notebooks})"
    assert list(claims.recorded(study.notebooks / "results")["quick"]["papers"]) == ["01_a"]


def test_a_table_that_cannot_be_read_is_named(study: Any, ran: Any, keep: Any) -> None:
    ran("01_a", table("01_a"))
    path = study.folder / "01_a.ipynb"
    content = path.read_bytes().replace(b'"schema": 2', b'"schema": 1')
    path.write_bytes(content)
    write_record(study.folder, replace(read_record(study.folder, "01_a"), checksum=checksum(content)))
    with pytest.raises(ValueError, match=r"01_a\.ipynb: claims are written in schema 1"):
        keep()


def test_the_library_overwrites_nothing_either(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two tables are of 01_a"):
        claims.record([table("01_a"), table("01_a", "B1")], "quick", tmp_path)
    assert list(tmp_path.iterdir()) == []
