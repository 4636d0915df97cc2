"""The results page of one preset: `results/<preset>/index.html`, with every executed notebook as HTML beside it.

It is built from files alone, so that it can be built again at any time, also while jobs run elsewhere:

    results/<preset>/jobs/<job>.json    how each job ended
    results/<preset>/<job>.ipynb        executed notebooks: their claims, figures and title

Jobs without a result come first. A notebook or record that cannot be read is listed there too and stops nothing.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flatlab.claims import ClaimTable, from_notebook
from flatlab.files import write_text
from flatlab.runner import notebooks
from flatlab.runner.page import Figure, JobView, render
from flatlab.runner.records import JobResult, read_records

_TEMPLATE = "{% extends 'index.html.j2' %}{% block html_head_js_requirejs %}{% endblock %}"  # nothing here needs it


def build_report(results_dir: Path | str, *, title: str = "flatlab results", expected: Sequence[str] = ()) -> Path:
    """Write `index.html` into a folder of results, and return its path.

    Args:
        results_dir: results/<preset>; its last part names the preset.
        title: heading of the page.
        expected: names of jobs that should be there; those without any trace are listed as missing.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    folder = Path(results_dir).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"no results in {results_dir}: run some first (python -m flatlab run)")
    records = {record.job: record for record in read_records(folder)}
    names = {*records, *(path.stem for path in folder.glob("*.ipynb")), *expected}
    jobs = [_view(folder, name, records.get(name)) for name in sorted(names)]
    page = folder / "index.html"
    write_text(page, render(jobs, title=title, preset=folder.name))
    return page


def export_html(notebook: Path) -> Path:
    """Write an executed notebook as `<name>.html` beside it, images embedded, unless that is up to date."""
    page = notebook.with_suffix(".html")
    if page.exists() and page.stat().st_mtime_ns >= notebook.stat().st_mtime_ns:
        return page
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(raw_template=_TEMPLATE, embed_images=True)
    body, _ = exporter.from_filename(str(notebook))
    changed = notebook.stat().st_mtime_ns
    write_text(page, body)
    os.utime(page, ns=(changed, changed))
    return page


def _view(folder: Path, name: str, record: JobResult | None) -> JobView:
    state = record.state if record else "no record"
    ended_well = record is None or record.ok
    problem = "" if ended_well else state
    errors = [_last_lines(record.error)] if record and record.error else []
    named = (record.output if record else None) or (f"{name}.ipynb" if ended_well else "")
    path = (folder / named).resolve()
    view: dict[str, Any] = {"title": name}
    if path.is_file() and path.is_relative_to(folder):
        view["notebook"] = path.relative_to(folder).as_posix()
        for step in (_read, _export):
            try:
                view |= step(path)
            except Exception as error:  # a broken file must not hide the other results
                problem = problem or "unreadable notebook"
                errors.append(f"{named}: {_last_lines(f'{type(error).__name__}: {error}')}")
        if "html" in view:
            view["html"] = Path(view["html"]).relative_to(folder).as_posix()
        if not ended_well:
            view["note"] = "The run did not reach its end; this is as far as it came, and counts nowhere."
    elif not problem:
        problem = "missing"
        errors.append(f"there is no {named} in {folder.name}: run it again")
    return JobView(
        name=name,
        state=state,
        seconds=record.seconds if record else None,
        finished=(record.finished if record else None) or "",
        parameters={k: v for k, v in (record.parameters if record else {}).items() if k != "preset"},
        problem=problem,
        error="\n".join(errors),
        **view,
    )


def _export(path: Path) -> dict[str, Any]:
    return {"html": export_html(path)}


def _read(path: Path) -> dict[str, Any]:
    """Title, claim tables and figures of an executed notebook."""
    notebook = notebooks.load(path)
    heading, figures = path.stem, []
    for cell in notebook["cells"]:
        heading = [heading, *notebooks.headings(cell)][-1]
        for output in cell.get("outputs", ()):
            png = re.sub(r"\s", "", "".join(output.get("data", {}).get("image/png", "")))
            if png and re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", png):
                figures.append(Figure(png, heading))
    tables: tuple[ClaimTable, ...] = tuple(from_notebook(notebook))
    return {"title": notebooks.title(notebook) or path.stem, "tables": tables, "figures": tuple(figures)}


def _last_lines(error: object, n: int = 12) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # tracebacks arrive with terminal colours
    return "\n".join(plain.strip().splitlines()[-n:])
