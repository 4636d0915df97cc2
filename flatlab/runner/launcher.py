"""The kernel process: ipykernel, made to lose no output and to say which background threads failed.

    python launcher.py FAULTS -f CONNECTION_FILE

FAULTS gets a line for each exception that ends a thread. Started by its path, so that the kernel imports nothing of
flatlab that its notebook does not.
"""

import sys
import threading
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    del sys.path[0]  # this folder, whose modules are not the notebook's; ipykernel puts the working folder there

from ipykernel.kernelapp import IPKernelApp


class KernelApp(IPKernelApp):
    """ipykernel's application with an unlimited queue of outputs."""

    def init_iopub(self, context: Any) -> None:
        """Open the channel of outputs. By default ZeroMQ drops, unseen, what a reader leaves of more than 1000."""
        context.sndhwm = 0
        super().init_iopub(context)


def note_faults(file: Path) -> None:
    """Add a line to `file` for each exception that ends a thread from now on; it is shown as before, too."""
    show = threading.excepthook

    def hook(fault: threading.ExceptHookArgs) -> None:
        show(fault)
        if fault.exc_type is not SystemExit:
            name = fault.thread.name if fault.thread else "without a name"
            line = f"the thread {name} failed: {fault.exc_type.__name__}: {fault.exc_value}".splitlines()[0]
            with file.open("a", encoding="utf-8", errors="backslashreplace") as lines:
                lines.write(f"{line}\n")

    threading.excepthook = hook


if __name__ == "__main__":
    note_faults(Path(sys.argv.pop(1)))
    KernelApp.launch_instance()
