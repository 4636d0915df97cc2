"""The page of results stands whatever one job has left: its card says what is odd, and every other card is there."""

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest

from flatlab.claims import Claim, ClaimTable, from_notebook
from flatlab.runner import report
from flatlab.runner.figures import linked_files
from flatlab.runner.terminal import claims_summary
from flatlab.stats import exact, greater

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x08\x00\x00\x00\x08"
HALF = "\ud800"  # half of a character: JSON can hold it, UTF-8 cannot


def book(name: str, *pictures: Any, **fields: Any) -> dict[str, Any]:
    """An executed notebook with a table of one claim, some of whose fields in the file are others, and pictures."""
    claim = Claim("C1", f"what {name} claims", greater(0), exact(1.0))
    data, meta = ClaimTable([claim], paper=name, preset="cpu", environment={})._repr_mimebundle_()
    (numbers,) = (part["numbers"][0] for part in meta.values())
    numbers |= {name: value for name, value in fields.items() if name in numbers}
    for part in meta.values():
        part |= {name: value for name, value in fields.items() if name not in numbers}
    outputs = [{"output_type": "display_data", "data": data, "metadata": meta}]
    outputs += [{"output_type": "display_data", "data": {"image/png": png}, "metadata": {}} for png in pictures]
    cell = {"cell_type": "code", "id": "c", "metadata": {}, "source": "", "outputs": outputs, "execution_count": 1}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]}


def write(folder: Path, name: str, content: Any, **fields: Any) -> None:
    record = {"job": name, "notebook": name, "state": "done", "seconds": 4, "output": f"{name}.ipynb"} | fields
    (folder / "jobs").mkdir(exist_ok=True)
    (folder / "jobs" / f"{name}.json").write_text(json.dumps(record))
    (folder / f"{name}.ipynb").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results with one sound job."""
    monkeypatch.setenv("FLATLAB_RESULTS", str(tmp_path / "none"))
    monkeypatch.setattr(report, "export_html", lambda notebook: notebook.with_suffix(".html"))
    write(tmp_path, "01_sound", book("01_sound", base64.b64encode(PNG).decode()))
    return tmp_path


def page(folder: Path) -> str:
    """The page, which shows all of the sound job."""
    text = report.build_report(folder).read_text(encoding="utf-8")
    assert "what 01_sound claims" in text
    assert 'width="8" height="8"' in text
    return text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seconds", "fast"),
        ("seconds", math.nan),
        ("seconds", -1),
        ("seconds", 10**400),
        ("finished", 5),
        ("parameters", [1]),
        ("error", {"a": 1}),
        ("output", 5),
        ("notebook", None),
        ("job", ["01_sound"]),
        ("job", "01_sound"),
        ("state", ["done"]),
        ("key", 0),
    ],
)
def test_an_odd_record_spoils_its_card(folder: Path, field: str, value: Any) -> None:
    write(folder, "02_odd", book("02_odd"), **{field: value})
    text = page(folder)
    assert '02_odd: <span class="state">unreadable record</span>' in text
    what = "it is of the job" if value == "01_sound" else field
    assert f"<pre>jobs/02_odd.json: {what} " in text
    assert "1 of 2 jobs ran to the end" in text


def test_a_record_without_end_spoils_its_card(folder: Path) -> None:
    (folder / "jobs" / "02_odd.json").write_text('{"job":' + "[" * 100_000)
    (folder / "03_odd.ipynb").write_text('{"cells":' + "[" * 100_000)
    text = page(folder)
    assert "unreadable record" in text
    assert "03_odd.ipynb is not a notebook: maximum recursion depth" in text


@pytest.mark.parametrize("output", ["a\0b", "x" * 5000])
def test_a_name_that_is_none_spoils_its_card(folder: Path, output: str) -> None:
    write(folder, "02_odd", book("02_odd"), output=output)
    assert '02_odd: <span class="state">unreadable</span>' in page(folder)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"note": 5}, "C1: note must be a text, got 5"),
        ({"unit": ["nats"]}, "C1: unit must be a text"),
        ({"estimate": 1.0}, "a claim cannot be read"),
        ({"id": None}, "a claim cannot be read"),
        ({"title": None}, "title of a claim table must be a text, got None"),
        ({"numbers": 5}, "claims cannot be read"),
        ({"environment": {"torch": 5}}, "expected str instance, int found"),
        ({"changes": [5]}, "claims cannot be read"),
    ],
)
def test_an_odd_note_or_claim_spoils_its_card(folder: Path, fields: dict[str, Any], words: str) -> None:
    write(folder, "02_odd", book("02_odd", **fields))
    text = page(folder)
    assert '02_odd: <span class="state">' in text
    assert words in text
    assert "1 of 2 jobs ran to the end" in text
    claims_summary(list(report.read_records(folder)), folder)  # what the terminal shows at the end of a batch


@pytest.mark.parametrize("png", [5, {"a": 1}, [1], "AAAAA", "AAAA", "not base64!", ""])
def test_an_odd_picture_is_left_out_and_said(folder: Path, png: Any) -> None:
    write(folder, "02_odd", book("02_odd", png, base64.b64encode(PNG).decode()))
    text = page(folder)
    assert "what 02_odd claims" in text
    assert "Pictures that cannot be shown: 1." in text
    assert text.count("<img") == 2


@pytest.mark.parametrize("length", range(4, 24, 3))
def test_a_picture_that_was_cut_off_has_no_size(folder: Path, length: int) -> None:
    write(folder, "02_odd", book("02_odd", base64.b64encode(PNG[:length]).decode()))
    assert page(folder).count("<img") == 2


def test_half_of_a_character_is_written_as_a_question_mark(folder: Path) -> None:
    write(folder, "02_odd", book("02_odd", title=HALF, note=HALF), parameters={HALF: HALF})
    write(folder, "03_odd", book("03_odd"), state="failed", error=HALF, output=None)
    text = page(folder)
    assert "? = ?" in text
    assert "what 02_odd claims" in text
    assert "<pre>?</pre>" in text


@pytest.mark.parametrize("cells", [[{"outputs": [{"data": None}]}], [None], [{"outputs": 5}], 5])
def test_outputs_that_are_none_are_a_value_error(cells: Any) -> None:
    with pytest.raises(ValueError, match="claims cannot be read"):
        from_notebook({"cells": cells})


def test_a_link_that_is_no_path_is_left_out(tmp_path: Path) -> None:
    """Its files are copied beside a finished run, and hashed for its page."""
    root = tmp_path.resolve()
    (root / "c.png").write_bytes(b"c")
    (root / "loop.png").symlink_to("loop.png")
    links = f"![a]({'x' * 5000}.png) ![b](a\0b.png) ![c](c.png) ![d](loop.png) ![c](c.png)"
    assert linked_files({"cells": [{"cell_type": "markdown", "source": links}]}, root) == [root / "c.png"]
