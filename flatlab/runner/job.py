"""What is to be run: one job per notebook and seed, each named and keyed by what its result depends on."""

import hashlib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import flatlab
from flatlab.runner import notebooks as files
from flatlab.runner import params
from flatlab.runner.executed import read_executed
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
        key: hash of the notebook's cells, the parameters, and `code`.
        code: hash by name of flatlab's files, and the versions that matter.
    """

    name: str
    notebook: Path
    text: str
    parameters: dict[str, Any]
    folder: Path
    key: str
    code: dict[str, str]

    def result(self, **outcome: Any) -> JobResult:
        """A JobResult of this job."""
        return JobResult(
            job=self.name, notebook=self.notebook.stem, parameters=self.parameters, key=self.key, **outcome
        )

    def cached(self) -> JobResult | None:
        """The earlier result if it was done with the same key and its notebook is still what was published."""
        record = read_record(self.folder, self.name)
        if record.state != "done" or record.key != self.key:
            return None
        try:
            read_executed(self.folder, record)
        except StudyError:
            return None
        return replace(record, state="cached")

    def changed(self) -> str:
        """What the result depends on and is another now, or here, than in the plan: in words; empty if nothing is."""
        now = code()
        names = [
            f"{name} {now.get(name, 'none')} ({value} in the plan)" if name in versions() else name
            for name, value in self.code.items()
            if now.get(name) != value
        ]
        try:
            same = _cells(files.load(self.notebook)) == _cells(json.loads(self.text))
        except (OSError, StudyError):
            same = False
        found = names if same else [str(self.notebook), *names]
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return f"{', '.join(found[:3])}{more} changed since the job was planned: run it again" if found else ""


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
    current = code()
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
                    key=_key(notebook, checked, known, current),
                    code=current,
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
    notebook: Mapping[str, Any], values: Mapping[str, Any], known: Mapping[str, params.Parameter], current: Any
) -> str:
    effective = {name: values.get(name, parameter.default) for name, parameter in known.items()}
    return _hash([_cells(notebook), effective, current])


def _cells(notebook: Mapping[str, Any]) -> list[Any]:
    return [[cell.get("cell_type"), files.tags(cell), files.source(cell)] for cell in notebook["cells"]]


def code() -> dict[str, str]:
    """What results depend on besides the notebook: hashes of flatlab's files by name, and versions."""
    return {**package_hashes(Path(flatlab.__file__).parent), **versions()}


def package_hashes(package: Path) -> dict[str, str]:
    """Hash by name of the package's Python files, but for the runner's own, on which no result depends."""
    paths = {path.relative_to(package.parent).as_posix(): path for path in sorted(package.rglob("*.py"))}
    own = (f"{package.name}/runner/", f"{package.name}/__main__.py")
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items() if not name.startswith(own)
    }


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
