"""Notebooks as files: titles, headings, and the one cell that sets the parameters."""

import json
from typing import Any

import pytest

from flatlab.runner import StudyError, notebooks, params
from flatlab.runner.cli import main


def markdown(*lines):
    return {"cell_type": "markdown", "source": "\n".join(lines)}


def code(source: str, *tags: str, kind: str = "code") -> dict[str, Any]:
    rest = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {"tags": list(tags)}, "source": source} | rest


def test_the_title_is_the_first_heading_as_plain_text():
    code = {"cell_type": "code", "source": "# no heading"}
    first = markdown("Before", "```sh", "# a comment", "```", "# *Flat* `minima`, see [there](page.html) #", "## More")
    book = {"cells": [code, first, markdown("# Another")]}
    assert notebooks.headings(first) == ["Flat minima, see there", "More"]
    assert notebooks.headings(code) == []
    assert notebooks.title(book) == "Flat minima, see there"
    assert notebooks.title({"cells": [code, markdown("text alone")]}) == ""


SETS = 'preset: str = "quick"\neps: float = 1.0'
# What stands beside the cell that sets the parameters, before or after it, and the words of the refusal.
OTHERS = {
    "a second cell": ([code(SETS, "parameters"), code("eps: float = 2.0", "parameters")], "cell 1, cell 2"),
    "a text before": ([code("Parameters", "parameters", kind="markdown"), code(SETS, "parameters")], "cell 1, cell 2"),
    "a raw cell after": ([code(SETS, "x", "parameters"), code("x", "parameters", kind="raw")], "cell 1, cell 2"),
    "an earlier run": ([code(SETS, "parameters"), code("eps = 3.0", "injected-parameters")], "earlier run in cell 2"),
}


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize("case", OTHERS)
def test_no_other_cell_may_set_the_parameters(case: str, study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Values would be set behind the first tagged cell, or in place of the earlier run's: others would undo them."""
    cells, words = OTHERS[case]
    book = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}
    with pytest.raises(StudyError, match=f"notebook 01_two has .*{words}.*: (keep|delete)"):
        params.of(book, "01_two")
    (study.notebooks / "01_two.ipynb").write_text(json.dumps(book))
    places = ["--notebooks", str(study.notebooks)]
    commands = [["run", "01", "--preset", "quick"], ["run", "--preset", "quick"], ["list", "01"]]
    commands += [["store", "--preset", "quick"]]
    for command in commands:
        out = [] if command[0] == "list" else ["--out", str(study.out)]
        assert main([*command, *places, *out]) == 2
        said = capsys.readouterr().err
        assert "notebook 01_two has" in said
        assert words in said
    assert not study.out.exists()
