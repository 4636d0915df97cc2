"""What is to be run: one job per notebook and seed, each named and keyed by what its result depends on."""

import hashlib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import flatlab
from flatlab.runner import notebooks as files
from flatlab.runner import params
from flatlab.runner.notebooks import StudyError
from flatlab.runner.records import JobResult, read_record


@dataclass(frozen=True)
class Job:
    """One notebook with one set of parameters.

    Attributes:
        name: unique in its folder; the notebook's name for seed 0 and otherwise default parameters.
        notebook: path of the notebook.
        text: its JSON without outputs, as read when the job was planned.
        parameters: checked values to pass.
        folder: results/<preset>, absolute.
        key: hash of the notebook's cells, the parameters, flatlab's source and the versions that matter.
    """

    name: str
    notebook: Path
    text: str
    parameters: dict[str, Any]
    folder: Path
    key: str

    def result(self, **outcome: Any) -> JobResult:
        """A JobResult of this job."""
        return JobResult(
            job=self.name, notebook=self.notebook.stem, parameters=self.parameters, key=self.key, **outcome
        )

    def cached(self) -> JobResult | None:
        """The earlier result if it was done with the same key and is still there, else None."""
        record = read_record(self.folder, self.name)
        if record.state != "done" or record.key != self.key:
            return None
        if not record.output or not (self.folder / record.output).is_file():
            return None
        return replace(record, state="cached")


def plan(
    names: Sequence[str] | None,
    *,
    preset: str,
    seeds: int,
    parameters: Mapping[str, Any] | None,
    out: str | Path,
    notebooks: str | Path,
) -> list[Job]:
    """Jobs for every notebook in `names` (None: all) and every seed 0..seeds-1, all parameters checked.

    Raises StudyError for an unknown notebook or one without parameters cell or that preset, and for unknown or
    ill-typed parameters.
    """
    given = dict(parameters or {})
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise StudyError(f"seeds must be an integer >= 1, got {seeds!r}")
    if "preset" in given:
        raise StudyError(
            "the preset also names the folder of results: give it as preset (--preset), not as a parameter"
        )
    if "seed" in given and seeds > 1:
        raise StudyError(f"seeds={seeds} already sets seed to 0..{seeds - 1}: give one of the two")
    code = [package_hash(Path(flatlab.__file__).parent), versions()]
    jobs = []
    for path in files.find(notebooks, names):
        notebook = files.load(path)
        known = params.of(notebook, path.stem)
        for seed in range(seeds):
            values = {"preset": preset, **given}
            if "seed" not in given and ("seed" in known or seeds > 1):
                values["seed"] = seed
            checked = params.check(values, known, path.stem)
            folder = (Path(out) / checked["preset"]).absolute()
            text = json.dumps(files.without_outputs(notebook), sort_keys=True)
            jobs.append(
                Job(
                    name=_name(path.stem, checked, known),
                    notebook=path.absolute(),
                    text=text,
                    parameters=checked,
                    folder=folder,
                    key=_key(notebook, checked, known, code),
                )
            )
    return jobs


def _name(stem: str, values: Mapping[str, Any], known: Mapping[str, params.Parameter]) -> str:
    """Notebook, then seed unless 0, then what differs from the defaults; hashed where it does not suit a file name."""
    seed = values.get("seed", 0)
    name = f"{stem}-seed{seed}" if seed else stem
    others = {
        key: values[key]
        for key in sorted(values)
        if key not in ("preset", "seed") and values[key] != known[key].default
    }
    if not others:
        return name
    readable = "-".join(f"{key}={value}" for key, value in others.items())
    if len(readable) <= 60 and re.fullmatch(r"[\w.=-]+", readable, re.ASCII) and readable.count("=") == len(others):
        return f"{name}-{readable}"
    return f"{name}-{_hash(others)[:10]}"


def _key(
    notebook: Mapping[str, Any], values: Mapping[str, Any], known: Mapping[str, params.Parameter], code: Any
) -> str:
    cells = [(cell.get("cell_type"), files.tags(cell), files.source(cell)) for cell in notebook["cells"]]
    effective = {name: values.get(name, parameter.default) for name, parameter in known.items()}
    return _hash([cells, effective, code])


def package_hash(package: Path) -> str:
    """Hash of the package's Python files, but for the runner's own, on which no result depends."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if not name.startswith("runner/") and name != "__main__.py":
            digest.update(f"{name}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@cache
def versions() -> dict[str, str]:
    """Versions of Python, torch and numpy, read without importing them."""
    found = {"python": platform.python_version()}
    for name in ("torch", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
