"""The results page of one preset: `results/<preset>/index.html`, with every executed notebook as HTML beside it.

It is built from files alone, so that it can be built again at any time, also while jobs run elsewhere:

    results/<preset>/jobs/<job>.json    how each job ended
    results/<preset>/<job>.ipynb        executed notebooks: their claims, figures and title

Jobs without a result come first. A notebook or record that cannot be read is listed there too and stops nothing.
"""

import hashlib
import re
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flatlab.claims import ClaimTable, from_notebook
from flatlab.files import write_text
from flatlab.runner import notebooks
from flatlab.runner.executed import checksum
from flatlab.runner.figures import linked_files
from flatlab.runner.page import Figure, JobView, render
from flatlab.runner.records import JobResult, read_records


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
    jobs = [_card(folder, name, records.get(name)) for name in sorted(names)]
    page = folder / "index.html"
    write_text(page, _writable(render(jobs, title=title, preset=folder.name)))
    return page


def export_html(notebook: Path) -> Path:
    """Write an executed notebook as `<name>.html` beside it, images embedded, unless the page there is of the same."""
    page, mark = notebook.with_suffix(".html"), _mark(notebook)
    if not (page.is_file() and page.read_bytes().endswith(mark.encode())):
        from flatlab.runner.export import to_html  # nbconvert: a second to import, and not needed for pages made before

        write_text(page, _writable(to_html(notebook)) + mark)
    return page


def _mark(notebook: Path) -> str:
    """The last line of the page of a notebook: a hash of what it shows, its own content and the files it links to."""
    files = [notebook, *linked_files(notebooks.load(notebook), notebook.parent.resolve())]
    digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files))
    return f"<!-- shows {digest.hexdigest()} -->\n"


def _writable(text: str) -> str:
    """A text as UTF-8 can hold it: half of a character, which JSON may have, becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _card(folder: Path, name: str, record: JobResult | None) -> JobView:
    """What the page shows of a job; if nothing else can be, why not."""
    try:
        return _view(folder, name, record)
    except Exception as error:  # whatever a record holds must not hide the other results
        return JobView(name, name, "unreadable", problem="unreadable", error=_words(error))


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
        if record and record.ok and record.checksum and checksum(path.read_bytes()) != record.checksum:
            problem = "changed"
            errors.append(f"{named} is not what its run wrote: run it again")
        for step in (_read, _export):
            try:
                view |= step(path)
            except Exception as error:  # a broken file must not hide the other results
                problem = problem or "unreadable notebook"
                errors.append(f"{named}: {_words(error)}")
        if "html" in view:
            view["html"] = Path(view["html"]).relative_to(folder).as_posix()
        if not ended_well:
            early = "The run did not reach its end; this is as far as it came, and counts nowhere."
            view["note"] = f"{early} {view.get('note', '')}".rstrip()
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
    """Title, claim tables and figures of an executed notebook, and a note on pictures that cannot be shown."""
    notebook = notebooks.load(path)
    heading, figures, lost = path.stem, [], 0
    for cell in notebook["cells"]:
        heading = [heading, *notebooks.headings(cell)][-1]
        for output in cell.get("outputs", ()):
            if (data := output.get("data", {}).get("image/png")) is not None:
                png = _png(data)
                figures += [Figure(png, heading)] if png else []
                lost += not png
    tables: tuple[ClaimTable, ...] = tuple(from_notebook(notebook))
    note = f"Pictures that cannot be shown: {lost}." if lost else ""
    title = notebooks.title(notebook) or path.stem
    return {"title": title, "tables": tables, "figures": tuple(figures), "note": note}


def _png(data: Any) -> str:
    """The base64 text of a PNG, as an output holds it, on one line; empty if it is none."""
    try:
        text = re.sub(r"\s", "", "".join(data))
        return text if b64decode(text, validate=True).startswith(b"\x89PNG") else ""
    except (TypeError, ValueError):
        return ""


def _words(error: Exception) -> str:
    return _last_lines(f"{type(error).__name__}: {error}")


def _last_lines(error: object, n: int = 12) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # tracebacks arrive with terminal colours
    return "\n".join(plain.strip().splitlines()[-n:])
