"""Recorded claims: one JSON file per preset.

{"schema": 2, "preset": "cpu", "papers": {notebook: {"claims": [...], "environment": {...}, "seconds": 71.0, ...}}}

Each claim's estimate has a source: the values of its units and the name of the analysis, from which `recompute` derives
the verdict again. Beside the claims stand the resolved settings ("config"), what was tuned ("settings"), the dated
changes of the rules, and hashes of rules and settings.
"""

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from flatlab.files import write_text
from flatlab.names import PRESETS
from flatlab.stats import Estimate

SCHEMA = 2
RUN = ("title", "seeds", "device", "environment", "settings", "config", "hashes", "changes")  # what is kept of a run
_FIELDS = ("id", "statement", "source", "where", "rule", "verdict", "estimate")


class Table(Protocol):
    """What `record` needs of a claim table."""

    paper: str
    preset: str

    def to_dict(self) -> dict[str, Any]: ...


def record(
    tables: Iterable[Table], preset: str, folder: Path | str, *, seconds: Mapping[str, float] | None = None
) -> Path:
    """Write `folder/preset.json`, keeping what it holds about other notebooks.

    Args:
        tables: one of each notebook.
        preset: that all of them ran with.
        folder: made if missing; the file appears in it only when complete.
        seconds: what each run took, by notebook name.

    Raises:
        ValueError: the present file cannot be read, a table belongs to another preset, or two to one notebook.
    """
    path = Path(folder) / f"{preset}.json"
    try:
        papers: dict[str, Any] = dict(read_file(path)["papers"]) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{error}; delete {path} first, since it cannot be kept beside the new ones") from error
    seen = set[str]()
    for table in tables:
        if table.preset != preset:
            raise ValueError(f"{table.paper} ran with preset {table.preset!r}, not {preset!r}: record it under its own")
        if table.paper in seen:
            raise ValueError(f"two tables are of {table.paper}, and one would overwrite the other: join their claims")
        seen.add(table.paper)
        content = table.to_dict()
        entry = {name: content[name] for name in (*RUN, "claims")}
        papers[table.paper] = entry | {"seconds": (seconds or {}).get(table.paper)}
    content = {"schema": SCHEMA, "preset": preset, "papers": dict(sorted(papers.items()))}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def recorded(folder: Path | str | None = None) -> dict[str, dict[str, Any]]:
    """Preset -> content of its recorded file; a file that cannot be read is left out with a warning.

    Without `folder`: $FLATLAB_RESULTS if set, else the first of ./results, ./notebooks/results and the folder beside
    an editable install that holds recorded files.
    """
    found, problems = read_folder(find_folder(folder))
    for problem in problems:
        warnings.warn(problem, stacklevel=2)
    return found


def load_recorded(paper: str, folder: Path | str | None = None) -> dict[str, dict[str, Any]]:
    """Preset -> what was recorded for one notebook: its claims with numbers, environment and seconds."""
    return {name: content["papers"][paper] for name, content in recorded(folder).items() if paper in content["papers"]}


def find_folder(folder: Path | str | None = None) -> Path | None:
    """The folder of recorded results, or None: see `recorded`."""
    named = folder or os.environ.get("FLATLAB_RESULTS")
    if named:
        return Path(named)
    beside = Path(__file__).parents[2] / "notebooks" / "results"
    places = [Path.cwd() / "results", Path.cwd() / "notebooks" / "results", beside]
    return next((place for place in places if next(place.glob("*.json"), None)), None)


def read_folder(folder: Path | None) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Preset -> content of each recorded file, and one sentence for each file that cannot be read."""
    found: dict[str, dict[str, Any]] = {}
    problems = []
    for path in sorted(folder.glob("*.json")) if folder else ():
        try:
            found[path.stem] = read_file(path)
        except (OSError, ValueError) as error:
            problems.append(str(error))
    rank = {name: index for index, name in enumerate(PRESETS)}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[0], len(rank)), item[0]))), problems


def read_file(path: Path) -> dict[str, Any]:
    """The content of one recorded file; ValueError naming the file and the cure if it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']!r} instead of {SCHEMA}")
        for paper in content["papers"].values():
            for claim in paper["claims"]:
                missing = [name for name in _FIELDS if name not in claim]
                if missing:
                    raise ValueError(f"a claim lacks {', '.join(missing)}")
                if claim["estimate"]:
                    Estimate(**claim["estimate"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"recorded results in {path.name} cannot be read ({reason}); record them again") from error
    return content
