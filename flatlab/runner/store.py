"""Putting the outputs of a run into the notebooks themselves, so that a reader sees them without running anything.

What the runner added is taken off again: the injected parameters, papermill's metadata and the times of the cells. The
sources stay as they are in the notebook; outputs are only taken from a run of exactly these cells. Pictures are stored
with a palette, at a third of their size.
"""

import base64
import json
from pathlib import Path
from typing import Any

from flatlab.files import write_text
from flatlab.runner import notebooks
from flatlab.runner.figures import small_png
from flatlab.runner.notebooks import StudyError


def store_outputs(notebook: str | Path, executed: str | Path) -> Path:
    """Write the outputs of `executed` into the file `notebook`, atomically; returns its path.

    Raises:
        StudyError: the run was of other cells than the notebook has now, or did not execute all of them.
    """
    target = Path(notebook)
    own, run = notebooks.load(target), notebooks.load(executed)
    cells = [cell for cell in run["cells"] if "injected-parameters" not in notebooks.tags(cell)]
    if [(c["cell_type"], notebooks.source(c)) for c in cells] != [
        (c["cell_type"], notebooks.source(c)) for c in own["cells"]
    ]:
        raise StudyError(f"{executed} is a run of other cells than {target} has now: run the notebook again")
    count = 0
    for cell, ran in zip(own["cells"], cells, strict=True):
        if cell["cell_type"] != "code":
            continue
        if ran.get("execution_count") is None and notebooks.source(cell).strip():
            raise StudyError(f"{executed} has a cell that was not executed: run the notebook again")
        count += 1
        cell["execution_count"] = count
        cell["outputs"] = [_output(output, count) for output in ran["outputs"]]
    write_text(target, json.dumps(own, indent=1, ensure_ascii=False) + "\n")
    return target


def _output(output: dict[str, Any], count: int) -> dict[str, Any]:
    """An output that belongs to the cell with this execution count, its picture with a palette."""
    stored = {**output, "execution_count": count} if output["output_type"] == "execute_result" else dict(output)
    png = "".join(output.get("data", {}).get("image/png", ""))
    if png:
        try:
            small = base64.b64encode(small_png(base64.b64decode(png))).decode()
        except (OSError, ValueError):  # shown as it is: whether it can be drawn is not for us to say
            return stored
        stored["data"] = output["data"] | {"image/png": small + "\n"}
    return stored
