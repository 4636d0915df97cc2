"""The unit tests of the rooms that changed since the last commit, or in it: what `make test-fast` runs.

    python tests/changed.py     one path of tests a line; nothing if no room has changed

A room is a folder or file of `flatlab/`; its tests are `tests/<room>/` and `tests/test_<room>*.py`. A changed test file
stands for itself. Laws, benches and notebooks are for `make test`.
"""

import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]


def changed(root: Path = ROOT) -> list[str]:
    """Files that differ from the last commit, new ones too; if there are none, those of the last commit."""

    def git(*words: str) -> list[str]:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.split()

    now = git("diff", "--name-only", "HEAD") + git("ls-files", "--others", "--exclude-standard")
    return now or git("show", "--name-only", "--format=", "HEAD")  # of a first or a shallow commit, all its files


def paths_for(files: Iterable[str], root: Path = ROOT) -> list[str]:
    """The paths of tests that belong to changed files, each once and in order."""
    found: dict[str, None] = {}
    for name in files:
        parts = Path(name).parts
        if parts[0] == "flatlab" and len(parts) > 1:
            room = Path(parts[1]).stem
            places = [root / "tests" / room, *sorted((root / "tests").glob(f"test_{room}*.py"))]
        else:
            is_test = parts[0] == "tests" and parts[-1].startswith("test_") and parts[1] not in ("laws", "bench", "lab")
            places = [root / name] if is_test else []
        found |= dict.fromkeys(str(place.relative_to(root)) for place in places if place.exists())
    return [name for name in found if not any(str(parent) in found for parent in Path(name).parents)]


if __name__ == "__main__":
    print("\n".join(paths_for(changed())))
