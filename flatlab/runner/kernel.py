"""Execute one notebook in a kernel of this Python through papermill, under our own watch.

papermill injects the parameters, keeps the file up to date cell by cell and marks the failing cell. What it does not do
is decided here: which interpreter runs, where sockets lie, the environment, the time limit, stopping on request, that
no output is lost, and what the outcome was, since papermill records a dead kernel as a completed notebook, and a
notebook as well whose background threads failed.
"""

import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError
from papermill import execute_notebook
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from flatlab.files import temporary_folder
from flatlab.runner import notebooks

START_TIMEOUT = 120  # seconds; a machine that starts several kernels at once needs more than nbclient's 60
OUTPUT_TIMEOUT = 60  # seconds for the last outputs of a cell to arrive after its end
_SOCKET_PATH_LIMIT = 100  # bytes; Linux allows 107, macOS 103, and "-<channel>" is appended
_FAULTS = "faults"  # file beside the connection file

_log = logging.getLogger("flatlab.runner")
_log.addHandler(logging.NullHandler())
# papermill warns of annotations such as `float | None`, which it does not need to understand.
logging.getLogger("papermill").addHandler(logging.NullHandler())


class Manager(AsyncKernelManager):
    """Remembers its kernel's process, which jupyter forgets once that is over, and whether it was asked to end."""

    process: subprocess.Popen[bytes] | None = None
    asked = False

    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
        """Start the kernel, which leads a process group of its own."""
        await super().start_kernel(**options)
        self.process = getattr(self.provisioner, "process", None)

    async def shutdown_kernel(self, **options: Any) -> None:  # type: ignore[override]
        """End the kernel; jupyter asks only one that lives."""
        self.asked = True
        await super().shutdown_kernel(**options)

    def kill(self) -> None:
        """Kill the kernel, if it lives, and whatever it has started and left."""
        if self.process is not None and sys.platform == "win32":
            self.process.kill()
        elif self.process is not None:
            with suppress(ProcessLookupError, PermissionError):  # nobody left, or nobody but the dead
                os.killpg(self.process.pid, signal.SIGKILL)

    def death(self) -> str:
        """How the kernel died of itself, in words; empty if it did not."""
        code = None if self.asked or self.process is None else self.process.poll()
        if code is None:
            return ""
        if code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name
        return f"signal {-code}, {name}" + ("; out of memory?" if name == "SIGKILL" else "")


class Watch:
    """Ends a kernel that outlives its time limit or that the user has stopped, and remembers which it was."""

    def __init__(self, manager: Manager, *, timeout: float | None, stop: Callable[[], bool] | None) -> None:
        self.manager = manager
        self.reason: str | None = None  # "timed out", "interrupted", or None
        self.cell = 0
        self.fault = ""  # what ended a background thread, and in which cell
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._stop = stop
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.1):
            if self.reason is None and self._stop is not None and self._stop():
                self.reason = "interrupted"
            elif self.reason is None and self._deadline is not None and time.monotonic() > self._deadline:
                self.reason = "timed out"
            if self.reason:
                self.manager.kill()


class WatchedEngine(NBClientEngine):
    """papermill's engine, with a kernel manager of ours and a call at the start of each cell."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        *,
        start: Mapping[str, Any],
        watch: Watch,
        on_cell: Callable[[int, int], None] | None,
        start_timeout: int = START_TIMEOUT,
        **_: Any,
    ) -> None:
        client = PapermillNotebookClient(
            nb_man,
            km=watch.manager,
            kernel_name=kernel_name,
            startup_timeout=start_timeout,
            iopub_timeout=OUTPUT_TIMEOUT,
            log=_log,
        )
        cell_start, cell_complete = nb_man.cell_start, nb_man.cell_complete

        def note(cell: Any, cell_index: int) -> None:
            watch.cell = cell_index + 1
            if on_cell is not None:
                on_cell(watch.cell, len(nb_man.nb.cells))
            cell_start(cell, cell_index)

        def look(cell: Any, cell_index: int) -> None:
            watch.fault = watch.fault or _fault(watch)
            cell_complete(cell, cell_index)

        nb_man.cell_start, nb_man.cell_complete = note, look
        client.execute(cleanup_kc=True, **start)


papermill_engines.register("flatlab", WatchedEngine)


def execute(
    text: str,
    parameters: dict[str, Any],
    output: Path,
    *,
    cwd: Path,
    threads: int,
    timeout: float | None,
    stop: Callable[[], bool] | None,
    on_cell: Callable[[int, int], None] | None,
) -> tuple[str, str]:
    """Execute the notebook with JSON `text`, keeping `output` up to date; return (state, error).

    The state is done, failed, killed, timed out or interrupted. OSError where `output` cannot be written.
    """
    notebook = nbformat.reads(text, as_version=4)
    with _manager() as (manager, log), Watch(manager, timeout=timeout, stop=stop) as watch:
        try:
            executed = execute_notebook(
                notebook,
                str(output).replace("{", "{{").replace("}", "}}"),  # papermill formats paths
                parameters=parameters,
                engine_name="flatlab",
                kernel_name="python3",
                language="python",
                progress_bar=False,
                start_timeout=START_TIMEOUT,
                start={"env": environment(threads), "cwd": str(cwd), "stdout": log, "stderr": log},
                watch=watch,
                on_cell=on_cell,
            )
        except Exception as error:
            where = f"cell {watch.cell}" if watch.cell else "start"
            if watch.reason == "timed out":
                return "timed out", f"{where}: not finished within {timeout:g} s"
            if watch.reason == "interrupted":
                return "interrupted", f"{where}: stopped on request"
            if isinstance(error, CellTimeoutError):
                return "failed", f"{where}: its output did not arrive within {OUTPUT_TIMEOUT} s of its end"
            if isinstance(error, PapermillExecutionError):
                cause = f"; {watch.fault}" if watch.fault else ""
                return "failed", f"cell {error.cell_index + 1}: {error.ename}: {_first_line(error.evalue)}{cause}"
            if death := manager.death():
                last = "" if watch.cell else _last_line(Path(log.name))
                return "killed", f"{where}: the kernel died ({death}){last}"
            if isinstance(error, OSError):
                raise
            return "failed", f"{where}: {type(error).__name__}: {_first_line(str(error))}"
    problem = watch.fault or notebooks.unfinished(executed)
    return ("failed", problem) if problem else ("done", "")


def environment(threads: int) -> dict[str, str]:
    """Environment of a kernel: ours, with thread limits, a fixed hash seed, and the flatlab that is running here."""
    env = dict(os.environ)
    env.pop("MPLBACKEND", None)  # a backend set for scripts would leave the notebook without figures
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "FLATLAB_THREADS"):
        env[name] = str(threads)
    env["PYTHONHASHSEED"] = "0"
    # glibc would give each large tensor's memory back to the system, and be given it anew: minutes, in some kernels.
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        env.setdefault(name, str(1 << 30))
    env["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    paths = [str(Path(__file__).resolve().parents[2]), env.get("PYTHONPATH", "")]
    env["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return env


@contextmanager
def _manager() -> Iterator[tuple[Manager, Any]]:
    """A kernel manager of this very Python, and a file for what the kernel prints outside of cells. At the end nothing
    of the kernel is left, neither what it has started nor files.

    Connection file and sockets lie in a private folder: no port races between kernels, nothing on the network. Where
    the folder's path is too long for a socket, or there are none, it is TCP on the loopback.
    """
    room = _SOCKET_PATH_LIMIT - 4
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder(Path(tempfile.gettempdir())))
        if len(os.fsencode(folder)) > room and os.access("/tmp", os.W_OK):
            folder = stack.enter_context(temporary_folder(Path("/tmp")))
        manager = Manager(
            kernel_name="python3",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),  # a user's own "python3" may be another Python
            connection_file=str(folder / "kernel.json"),
            log=_log,
        )
        launcher = [str(Path(__file__).with_name("launcher.py")), str(folder / _FAULTS)]
        argv = [sys.executable, "-Xfrozen_modules=off", *launcher, "-f", "{connection_file}"]
        manager.kernel_spec.argv = argv  # type: ignore[union-attr]
        if sys.platform != "win32" and len(os.fsencode(folder)) <= room:
            manager.transport = "ipc"
            manager.ip = str(folder / "k")
        log = stack.enter_context(open(folder / "kernel.log", "wb"))
        try:
            yield manager, log
        finally:
            manager.kill()
            if manager.process is not None:
                manager.process.wait()


def _fault(watch: Watch) -> str:
    """What ended a background thread of the kernel, in words: the first of them, and how many more; or nothing."""
    file = Path(watch.manager.connection_file).with_name(_FAULTS)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return f"cell {watch.cell}: {lines[0]}{more}" if lines else ""


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return last and f": {last}"


def _first_line(text: str) -> str:
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    return lines[0].strip() if lines else ""
