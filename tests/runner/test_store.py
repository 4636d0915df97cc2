"""Storing outputs: of exactly the notebook's cells, without the runner's traces, or not at all."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flatlab.runner import StudyError
from flatlab.runner.store import store_outputs

PNG = base64.b64encode(b"picture").decode()


def cell(text: str, count: int | None = None, outputs: list | None = None, tags: list[str] | None = None) -> dict:
    return {
        "cell_type": "code",
        "id": text[:8].strip() or "x",
        "source": text,
        "metadata": {"tags": tags or []},
        "execution_count": count,
        "outputs": outputs or [],
    }


def write(path: Path, cells: list[dict]) -> Path:
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {"own": 1}, "cells": cells}))
    return path


def result(count: int) -> dict:
    return {
        "output_type": "execute_result", "execution_count": count, "metadata": {},
        "data": {"text/plain": "2", "image/png": PNG},
    }  # fmt: skip


def test_outputs_move_and_the_runners_traces_stay_behind(tmp_path: Path) -> None:
    own = write(tmp_path / "a.ipynb", [cell("x: int = 1", tags=["parameters"]), cell("x + 1")])
    ran = write(
        tmp_path / "ran.ipynb",
        [
            cell("x: int = 1", 1, tags=["parameters"]),
            cell("x = 1", 2, tags=["injected-parameters"]),
            {**cell("x + 1", 3, [result(3)]), "metadata": {"papermill": {"duration": 1}}},
        ],
    )
    store_outputs(own, ran)
    stored = json.loads(own.read_text())
    assert [c["execution_count"] for c in stored["cells"]] == [1, 2]
    assert stored["cells"][1]["outputs"] == [result(2)]
    assert stored["metadata"] == {"own": 1}
    assert "papermill" not in own.read_text()


def test_a_run_of_other_or_unfinished_cells_is_refused(tmp_path: Path) -> None:
    own = write(tmp_path / "a.ipynb", [cell("1 + 1")])
    before = own.read_text()
    with pytest.raises(StudyError, match="run of other cells"):
        store_outputs(own, write(tmp_path / "b.ipynb", [cell("1 + 2", 1)]))
    with pytest.raises(StudyError, match="not executed"):
        store_outputs(own, write(tmp_path / "c.ipynb", [cell("1 + 1")]))
    assert own.read_text() == before


def test_pictures_are_stored_with_a_palette(tmp_path: Path) -> None:
    rng, file = np.random.default_rng(0), io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(file, "PNG")
    drawn = {**result(1), "data": {"image/png": base64.b64encode(file.getvalue()).decode()}}
    own = write(tmp_path / "a.ipynb", [cell("draw()")])
    store_outputs(own, write(tmp_path / "ran.ipynb", [cell("draw()", 1, [drawn])]))
    (output,) = json.loads(own.read_text())["cells"][0]["outputs"]
    stored = base64.b64decode(output["data"]["image/png"])
    with Image.open(io.BytesIO(stored)) as picture:
        assert (picture.mode, picture.size) == ("P", (60, 40))
    assert len(stored) < len(file.getvalue()) / 2
