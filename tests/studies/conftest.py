"""What the tests of several studies share."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture
def run_cells() -> Iterator[Callable[[str, str], dict[str, Any]]]:
    """Run all code cells of a notebook in this process, with a preset; returns its names."""
    mpl.use("Agg")

    def run(notebook: str, preset: str) -> dict[str, Any]:
        names: dict[str, Any] = {"display": lambda *values: None}
        for cell in json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)
                if "parameters" in cell["metadata"].get("tags", []):
                    names["preset"] = preset
        return names

    yield run
    mpl.pyplot.close("all")
