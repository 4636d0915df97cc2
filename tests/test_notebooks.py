"""What every notebook must be: readable, light, parameterized, stored executed with the quick preset."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

from flatlab import studies

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MAY_IMPORT = {
    "flatlab",
    "numpy",
    "pandas",
    "torch",
    "matplotlib",
    "seaborn",
    "dataclasses",
    "functools",
    "time",
    "warnings",
}


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def notebook(request) -> dict:
    return json.loads(request.param.read_text())


def code(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def test_there_are_notebooks() -> None:
    assert [p.stem[:2] for p in NOTEBOOKS][:2] == ["00", "01"]


def test_parameters_are_tagged_annotated_and_explained(notebook: dict) -> None:
    (cell,) = [c for c in code(notebook) if "parameters" in c["metadata"].get("tags", [])]
    lines = [line for line in source(cell).splitlines() if line.strip()]
    assert all(re.match(r"[a-z_]+: [^=]+ = .+  # .+", line) for line in lines)
    assert [line.split(":")[0] for line in lines][:4] == ["preset", "seed", "device", "data_dir"]


def test_code_is_short_and_plain(notebook: dict) -> None:
    lines = 0
    for cell in code(notebook):
        text = source(cell)
        assert not re.search(r"^\s*[%!]", text, re.M), "no magics"
        assert len(text.splitlines()) <= 45
        lines += len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 10, f"{node.name} belongs into the package"
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= MAY_IMPORT
            if isinstance(node, ast.Call):
                assert getattr(node.func, "id", "") != "open", "files go through flatlab"
    assert lines <= 360


@pytest.mark.parametrize("study", studies.available())
def test_every_claim_is_measured_and_nothing_else(study: str) -> None:
    (path,) = FOLDER.glob(f"*_{study}.ipynb")
    module = importlib.import_module(f"flatlab.studies.{study}.claims")
    cells = [ast.parse(source(cell)) for cell in code(json.loads(path.read_text()))]
    assigned = [node for cell in cells for node in cell.body if isinstance(node, ast.Assign)]
    (measured,) = [node.value for node in assigned if ast.unparse(node.targets[0]) == "measured"]
    assert isinstance(measured, ast.Dict)
    assert [ast.literal_eval(key) for key in measured.keys] == [claim.id for claim in module.CLAIMS]


def test_every_study_has_its_notebook() -> None:
    assert sorted(path.stem[3:] for path in NOTEBOOKS if path.stem != "00_start_here") == sorted(studies.available())


def test_stored_outputs_are_whole_and_small(notebook: dict, request) -> None:
    for cell in code(notebook):
        assert cell["execution_count"], "stored notebooks are executed"
        assert not [o for o in cell["outputs"] if o["output_type"] == "error"]
        assert not [o for o in cell["outputs"] if o.get("name") == "stderr"], "no warnings or progress in stored output"
    size = (FOLDER / f"{request.node.callspec.id}.ipynb").stat().st_size
    assert size < 600_000
    assert "papermill" not in notebook["metadata"]


def test_kernel_is_the_plain_one(notebook: dict) -> None:
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
