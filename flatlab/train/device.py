"""Choosing a device by name."""

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from flatlab import checks


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`: "auto" takes a CUDA GPU where there is one, else the CPU.

    Raises:
        ValueError: unknown name.
        RuntimeError: a GPU is asked for and none is there.
    """
    kind = checks.one_of("device", name.split(":")[0], ("auto", "cpu", "cuda"))
    if kind == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"device {name!r} was asked for, but torch sees no CUDA GPU; use device='cpu' or 'auto'")
    return torch.device(name)


def seconds(function: Callable[[], object], device: torch.device, *, repeats: int = 5) -> list[float]:
    """Time of each of several calls, after one that does not count.

    Processor time on a CPU, which others on the machine do not lengthen; on a GPU time by the clock until it is done.

    Args:
        function: what is timed.
        device: on which it works.
        repeats: calls that count.
    """
    found = []
    for _ in range(checks.at_least("repeats", repeats, 1) + 1):
        start = _clock(device)
        function()
        found.append(_clock(device) - start)
    return found[1:]


def operations(function: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions in a call, backward passes included."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def _clock(device: torch.device) -> float:
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
