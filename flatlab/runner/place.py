"""Where jobs run, and how they are asked to stop: what a batch knows of a machine or a cluster."""

import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flatlab.files import naming, owner


@dataclass
class Place:
    """Where jobs run: an executor, how many it takes at a time, and how to make running jobs stop."""

    executor: Executor
    slots: Callable[[], int]
    options: dict[str, Any]
    stop: Callable[[], object]
    cells: bool = False  # whether on_cell can be passed
    lost: str = ""  # what it means that a future was cancelled without having been asked to
    deaths: tuple[type[BaseException], ...] = ()  # what a future raises if its worker died


class StopFile:
    """A request to stop that reaches workers of other processes and machines through the results folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "running" / f"batch.{owner()}.stop"

    def __call__(self) -> bool:
        return self.path.exists()

    def set(self) -> None:
        """Ask all jobs that hold this object to stop."""
        with naming(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()

    def clear(self) -> None:
        """Take the request back."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
