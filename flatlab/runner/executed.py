"""The executed notebook of a job, believed only if it is the very file that the record tells of."""

import hashlib
from pathlib import Path
from typing import Any

from flatlab.runner import notebooks
from flatlab.runner.notebooks import NotANotebook, StudyError
from flatlab.runner.records import JobResult


def read_executed(folder: Path, record: JobResult) -> dict[str, Any]:
    """The executed notebook that the record of a done job in results/<preset> `folder` belongs to.

    Raises:
        StudyError: it is not there, damaged, not run to its end, changed since, or of another run than the record: one
            that was killed after it had published the notebook and before it could record that.
    """
    path = folder / (record.output or f"{record.job}.ipynb")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StudyError(f"{path} cannot be read ({error.strerror}): run it again") from error
    try:
        notebook = notebooks.parse(content, path)
    except NotANotebook as error:
        raise StudyError(f"{error}: run it again") from error
    said = notebook.get("metadata", {}).get("flatlab", {})
    if (said.get("job"), said.get("state"), said.get("key")) != (record.job, "done", record.key):
        raise StudyError(f"{path} is of another run than its record, jobs/{record.job}.json: run it again")
    if problem := notebooks.unfinished(notebook):
        raise StudyError(f"{path}: {problem}: run it again")
    if checksum(content) != record.checksum:
        raise StudyError(f"{path} was changed after its run: run it again")
    return notebook


def checksum(content: bytes) -> str:
    """SHA-256 of an executed notebook's bytes, as its record keeps it."""
    return hashlib.sha256(content).hexdigest()
