"""Choosing a device by name."""

import torch

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
