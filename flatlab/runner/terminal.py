"""What a person sees of a batch: a line per finished job, a live line meanwhile, the claims at the end."""

import shutil
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from flatlab.runner import notebooks
from flatlab.runner.batch import Event
from flatlab.runner.records import STATES, JobResult

if TYPE_CHECKING:
    from flatlab.claims import Claim


class Terminal:
    """Prints the events of a batch. The live line appears only on a terminal, and while jobs run one at a time.

    with Terminal() as terminal:
        run(..., progress=terminal)
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.results: list[JobResult] = []
        self.skipped: list[str] = []  # a line for each notebook that was left out
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._running: dict[str, tuple[float, str]] = {}  # job -> (start, "cell 7/22")
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "Terminal":
        if self._live:
            self._ticker.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        if self._live:
            self._ticker.join()
            with self._lock:
                self._write("")

    def __call__(self, event: Event) -> None:
        with self._lock:
            if event.kind == "skip":
                self.skipped.append(f"skipped: {event.reason}")
                self._write(self.skipped[-1] + "\n")
            elif event.kind == "wait":
                self._write(f"waiting for {event.job}: {event.reason}\n")
            elif event.kind == "start":
                self._running[event.job] = (time.monotonic(), "starting")
            elif event.kind == "cell" and event.job in self._running:
                start, _ = self._running[event.job]
                self._running[event.job] = (start, f"cell {event.cell}/{event.cells}")
            elif event.kind == "end" and event.result is not None:
                self._running.pop(event.job, None)
                self.results.append(event.result)
                self._write(_line(event, event.result) + "\n")
            self._show()

    def _tick(self) -> None:
        while not self._over.wait(1.0):
            with self._lock:
                self._show()

    def _show(self) -> None:
        if self._live and len(self._running) == 1:
            job, (start, where) = next(iter(self._running.items()))
            text = f"running {job}: {where}, {duration(time.monotonic() - start)}"
            self._write(text[: shutil.get_terminal_size().columns - 1])

    def _write(self, text: str) -> None:
        self._stream.write(("\r\x1b[K" if self._live else "") + text)
        self._stream.flush()


def duration(seconds: float) -> str:
    """Seconds in words: 41 s, 3 min 05 s, 1 h 02 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def tally(results: Iterable[JobResult]) -> str:
    """Such as "5 jobs: 3 done, 1 cached, 1 failed"."""
    counts = Counter(result.state for result in results)
    parts = [f"{counts[state]} {state}" for state in STATES if counts[state]]
    total = sum(counts.values())
    return f"{total} {'job' if total == 1 else 'jobs'}: {', '.join(parts) or 'none'}"


def claims_summary(results: Iterable[JobResult], folder: Path) -> str:
    """Id, verdict and statement of every claim in the executed notebooks, job by job; empty if there are none."""
    from flatlab.claims import from_notebook  # scipy and numpy: seconds, and not needed by every command

    blocks = []
    for result in results:
        if result.ok and result.output:
            try:
                tables = from_notebook(notebooks.load(folder / result.output))
            except (OSError, ValueError) as error:
                blocks.append(f"{result.job}\n  cannot be read: {error}")
                continue
            if claims := [claim for found in tables for claim in found.claims]:
                blocks.append(f"{result.job}\n{_claims_table(claims)}")
    return "\n\n".join(blocks)


def table(rows: Sequence[Sequence[str]], *, indent: str = "") -> str:
    """Rows in aligned columns; the last column is wrapped to the width of the terminal."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    offset = len(indent) + sum(widths) + 2 * len(widths)
    room = max(30, shutil.get_terminal_size().columns - offset)
    lines = []
    for *cells, last in rows:
        first = indent + "".join(f"{cell:<{width}}  " for cell, width in zip(cells, widths, strict=True))
        pieces = textwrap.wrap(last, room) or [""]
        lines += [(first + pieces[0]).rstrip(), *(" " * offset + piece for piece in pieces[1:])]
    return "\n".join(lines)


def _claims_table(claims: "Sequence[Claim]") -> str:
    from flatlab.claims.render import marks

    rows = [(c.id, ", ".join((c.verdict, *marks(c.fragile, c.exploratory))), c.statement) for c in claims]
    return table(rows, indent="  ")


def _line(event: Event, result: JobResult) -> str:
    width = len(str(event.total))
    took = "" if result.seconds is None else duration(result.seconds)
    text = f"[{event.finished:>{width}}/{event.total}] {event.job:<28}  {result.state}  {took}".rstrip()
    return f"{text}\n    {result.error}" if result.error else text
