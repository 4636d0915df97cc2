"""The regression test of notebooks is itself tested: it passes on a repetition and fails on a changed verdict."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from flatlab.claims import MIME

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHECKED = "nbval-check-output"
TOUR = "00_start_here"

SETUP = """
import random
from flatlab.claims import Claim, ClaimTable
from flatlab.stats import paired_difference, exact, greater, within
noise = [random.gauss(0, 0.01) for _ in range(5)]  # other numbers in every run
"""
CLAIMS = """
ClaimTable(
    [
        Claim("C1", "a exceeds b", greater(0), paired_difference([1 + e for e in noise], [0] * 5)),
        Claim("C2", "an identity", within(0, 1e-9), exact(0.0), source="ours"),
        Claim("C3", "hangs by a hair", greater(0.99), paired_difference([1.04, 1.06, 1.05], [0] * 3)),
    ],
    paper="00_demo", preset="quick", seeds=range(5),
)
"""


def unguarded(notebook):
    """Why the regression test would compare nothing: it passes over cells without execution count or outputs."""
    problems = []
    checked = [cell for cell in notebook.cells if CHECKED in cell.metadata.get("tags", ())]
    for cell in checked:
        if cell.cell_type != "code" or cell.get("execution_count") is None or not cell.get("outputs"):
            problems.append(f"cell {cell.get('id')} is tagged {CHECKED} but stored without execution count or outputs")
    if not checked:
        problems.append(f"no cell is tagged {CHECKED}")
    elif not any(MIME in output.get("data", {}) for cell in checked for output in cell.get("outputs", ())):
        problems.append("no tagged cell shows claims")
    return problems


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A small notebook run once by nbclient, with the conftest of the real notebooks beside it."""
    from nbclient import NotebookClient

    folder = tmp_path_factory.mktemp("notebooks")
    (folder / "conftest.py").write_text((ROOT / "notebooks" / "conftest.py").read_text())
    notebook = new_notebook(
        cells=[new_markdown_cell("# Demo"), new_code_cell(SETUP), new_code_cell(CLAIMS, metadata={"tags": [CHECKED]})],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(folder)}}).execute()
    nbformat.validate(notebook)
    path = folder / "demo.ipynb"
    nbformat.write(notebook, path)
    return path


@pytest.fixture(scope="module")
def compared(executed):
    """pytest --nbval-lax on that notebook and on copies with one stored verdict changed, in one process."""
    for name, claim, verdict in (
        ("flipped", 0, "contradicted"),
        ("firm", 0, "inconclusive"),
        ("hair", 2, "inconclusive"),
        ("leap", 2, "contradicted"),
    ):
        notebook = nbformat.read(executed, as_version=4)
        stored = notebook.cells[2].outputs[0].data[MIME]["claims"][claim]
        assert (stored["verdict"], stored["fragile"]) == ("supported", claim == 2)
        stored["verdict"] = verdict
        nbformat.write(notebook, executed.with_name(f"{name}.ipynb"))
    options = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=1800", "-rA", "--color=no"]
    files = sorted(path.name for path in executed.parent.glob("*.ipynb"))
    command = [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", *files]
    result = subprocess.run(command, cwd=executed.parent, capture_output=True, text=True, check=False)
    return result.stdout


@pytest.mark.slow
def test_a_repetition_with_other_numbers_passes(compared):
    assert "PASSED demo.ipynb::Cell 0" in compared
    assert "PASSED demo.ipynb::Cell 1" in compared


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("flipped", "C1: verdict was 'contradicted', is now 'supported'"),
        ("firm", "C1: verdict was 'inconclusive', is now 'supported'"),
        ("leap", "C3: verdict was 'contradicted', is now 'supported'"),
    ],
)
def test_a_changed_verdict_fails_and_is_named(compared, name, said):
    assert f"PASSED {name}.ipynb::Cell 0" in compared
    assert f"FAILED {name}.ipynb::Cell 1" in compared
    assert said in compared
    assert "3 failed, 7 passed" in compared


@pytest.mark.slow
def test_one_step_of_a_fragile_verdict_passes_and_is_named(compared):
    assert "PASSED hair.ipynb::Cell 1" in compared
    assert "C3 is fragile: its verdict was 'inconclusive', and is 'supported' here" in compared


@pytest.mark.parametrize("before", ["supported", "inconclusive", "contradicted", "not run"])
@pytest.mark.parametrize("after", ["supported", "inconclusive", "contradicted", "not run"])
@pytest.mark.parametrize("marks", [(False, False), (True, False), (False, True), (True, True)])
def test_which_changes_are_settled(before, after, marks):
    def claims(verdict, mark):
        return {"claims": [{"id": "C1", "rule": "low > 0", "verdict": verdict, "fragile": mark}]}

    stored, now = claims(before, marks[0]), claims(after, marks[1])
    said = hooks().settle(stored, now)
    step = {before, after} in ({"supported", "inconclusive"}, {"inconclusive", "contradicted"})
    assert (now == stored) == (before == after or (any(marks) and step))
    assert len(said) == (any(marks) and step)


def test_other_changes_are_never_settled():
    stored = {"claims": [{"id": "C1", "rule": "low > 0", "verdict": "supported", "fragile": True}]}
    for change in ({"rule": "low > 1"}, {"id": "C2"}):
        now = {"claims": [stored["claims"][0] | {"verdict": "inconclusive"} | change]}
        hooks().settle(stored, now)
        assert now != stored


def hooks():
    spec = importlib.util.spec_from_file_location("notebooks_conftest", ROOT / "notebooks" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_hook_extends_notebooks_and_lets_other_collectors_be():
    class Collector:
        skip_compare = ("metadata",)

    collector, plain = Collector(), object()
    hooks().pytest_collectstart(collector)
    hooks().pytest_collectstart(plain)
    assert {"metadata", "text/html", "image/png"} <= set(collector.skip_compare)
    assert not {MIME, "text/plain"} & set(collector.skip_compare)


def test_the_hook_names_what_differs():
    compare = hooks().pytest_assertrepr_compare
    one, other = ({"claims": [{"id": "C1", "rule": rule}, {"id": name}]} for rule, name in (("a", "C2"), ("b", "C3")))
    assert compare("==", one, other)[1:] == [
        "C1: rule was 'a', is now 'b'",
        "C2: only stored",
        "C3: only in this run",
    ]
    for left, right in ((1, 2), ({"a": 1}, {"a": 2}), ({"claims": 1}, {"claims": 2}), ("x", {"claims": []})):
        assert compare("==", left, right) is None


def test_guard_accepts_an_executed_notebook(executed):
    assert unguarded(nbformat.read(executed, as_version=4)) == []


@pytest.mark.parametrize("damage", ["count", "outputs", "tag", "mime"])
def test_guard_finds_what_would_not_be_compared(executed, damage):
    notebook = nbformat.read(executed, as_version=4)
    cell = notebook.cells[2]
    if damage == "count":
        cell.execution_count = None
    elif damage == "outputs":
        cell.outputs = []
    elif damage == "tag":
        cell.metadata.tags = []
    else:
        del cell.outputs[0].data[MIME]
    assert unguarded(notebook)


def test_there_are_notebooks_to_guard():
    assert NOTEBOOKS, "notebooks/ holds no notebook: the next test would pass over nothing"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_notebooks_are_compared(path):
    problems = unguarded(nbformat.read(path, as_version=4))
    nothing_claimed = [f"no cell is tagged {CHECKED}"] if path.stem == TOUR else []
    assert problems == nothing_claimed
