"""Notebooks as files: which there are, their titles and cells. Plain JSON, so that listing them is fast."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flatlab.names import nearest


class StudyError(ValueError):
    """A request that cannot be run as it stands: an unknown notebook, a bad parameter, a cluster without workers."""


class NotANotebook(StudyError):
    """A file that should be a notebook and cannot be read as one."""


def find(folder: str | Path, names: Sequence[str] | None = None) -> list[Path]:
    """Paths of the notebooks called `names` in `folder` (all, sorted, for None).

    A name is a file name, with or without `.ipynb`, or a beginning that fits one notebook only, such as `01`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StudyError(f"there is no folder of notebooks at {folder}: start in the project's folder, or name another")
    known = {path.stem: path for path in sorted(folder.glob("*.ipynb")) if not path.name.startswith(".")}
    if not known:
        raise StudyError(f"{folder} holds no notebooks (*.ipynb)")
    if not names:
        return list(known.values())
    return list(dict.fromkeys(known[_stem(name, known)] for name in names))


def _stem(name: str, known: dict[str, Path]) -> str:
    stem = Path(name).name.removesuffix(".ipynb")
    if stem in known:
        return stem
    fitting = [candidate for candidate in known if stem and candidate.startswith(stem)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise StudyError(f"notebook {name!r} fits several: {', '.join(fitting)}")
    raise StudyError(f"unknown notebook {name!r}: choose one of {', '.join(known)}{nearest(stem, known)}")


def load(path: str | Path) -> dict[str, Any]:
    """The notebook's JSON (format 4); NotANotebook if it is not one, OSError if it cannot be read."""
    return parse(Path(path).read_bytes(), path)


def parse(content: bytes, path: str | Path) -> dict[str, Any]:
    """The JSON (format 4) of a notebook with these bytes; NotANotebook, which names `path`, if it is not one."""
    try:
        notebook = json.loads(content.decode(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotANotebook(f"{path} is not a notebook: {error}") from error
    if not isinstance(notebook, dict) or notebook.get("nbformat") != 4 or not isinstance(notebook.get("cells"), list):
        raise NotANotebook(f"{path} is not a notebook of format 4")
    return notebook


def source(cell: dict[str, Any]) -> str:
    """A cell's text; the file may hold it as one string or as a list of lines."""
    return "".join(cell.get("source", ""))


def tags(cell: dict[str, Any]) -> list[str]:
    """A cell's tags."""
    return list(cell.get("metadata", {}).get("tags", []))


def without_outputs(notebook: dict[str, Any]) -> dict[str, Any]:
    """A copy with code cells as they are before any run."""
    cells = [
        {**cell, "outputs": [], "execution_count": None} if cell.get("cell_type") == "code" else cell
        for cell in notebook["cells"]
    ]
    return {**notebook, "cells": cells}


def unfinished(notebook: dict[str, Any]) -> str:
    """Why an executed notebook did not run to its end, in words; empty if it did.

    `sys.exit(0)` in a cell ends a notebook early without being an error. A cell with the tag `skip-execution` need not
    have run, and one with `raises-exception` may end in an error.
    """
    for number, cell in enumerate(notebook["cells"], 1):
        if cell.get("cell_type") != "code" or not source(cell).strip() or "skip-execution" in tags(cell):
            continue
        if cell.get("execution_count") is None:
            return f"cell {number} was never run: an earlier cell ended the notebook"
        errors = [output for output in cell.get("outputs", ()) if output.get("output_type") == "error"]
        calm = ("SystemExit", ""), ("SystemExit", "0")
        if any(
            (error.get("ename"), error.get("evalue")) not in calm for error in errors
        ) and "raises-exception" not in tags(cell):
            return f"cell {number} ended in an error"
    return ""


def title(notebook: dict[str, Any]) -> str:
    """The first Markdown heading, or an empty string."""
    found = (heading for cell in notebook["cells"] for heading in headings(cell))
    return next(found, "")


def headings(cell: dict[str, Any]) -> list[str]:
    """The headings of a Markdown cell as plain text, leaving out fenced code; none of a code cell."""
    if cell.get("cell_type") != "markdown":
        return []
    prose = re.sub(r"^(```|~~~).*?^\1", "", source(cell), flags=re.DOTALL | re.MULTILINE)
    marked = re.findall(r"^#{1,6}\s+(.+?)\s*#*$", prose, flags=re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text) for text in marked]
    return [re.sub(r"[*`]|(?<!\w)_|_(?!\w)", "", text).strip() for text in plain]


def parameters_cell(notebook: dict[str, Any], name: str) -> str:
    """Source of the code cell tagged `parameters`, behind which the values of a run are set.

    Raises:
        StudyError: there is no such cell, or a cell other than this one would set the values: a second one with the
            tag, or one with the tag `injected-parameters`, in whose place the values would stand.
    """
    tagged = {tag: _numbers(notebook, tag) for tag in ("parameters", "injected-parameters")}
    if len(tagged["parameters"]) > 1:
        raise StudyError(
            f"notebook {name} has several cells with the tag 'parameters', {', '.join(tagged['parameters'])}: "
            "keep the tag on the one that sets them"
        )
    if tagged["injected-parameters"]:
        raise StudyError(
            f"notebook {name} has the parameters of an earlier run in {', '.join(tagged['injected-parameters'])}, "
            "tagged 'injected-parameters': delete what a run has put there"
        )
    for cell in notebook["cells"]:
        if cell.get("cell_type") == "code" and "parameters" in tags(cell):
            return source(cell)
    raise StudyError(
        f"notebook {name} has no code cell with the tag 'parameters': add the tag to the cell that sets them"
    )


def _numbers(notebook: dict[str, Any], tag: str) -> list[str]:
    """The cells of any type with a tag, such as "cell 2" by their place from 1."""
    return [f"cell {number}" for number, cell in enumerate(notebook["cells"], 1) if tag in tags(cell)]
