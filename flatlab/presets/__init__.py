"""Settings of the notebooks: one module per notebook, one frozen dataclass, four instances of it.

`quick` (seconds; the stored outputs), `cpu` (full statistics on embedded data), `gpu` (the benchmarks on one GPU) and
`full` (the paper's own setting). A notebook says `cfg = presets.resolve("likelihood_landscapes", preset, eps=eps)`.
"""

from flatlab.presets.resolve import NAMES, available, resolve

__all__ = ["NAMES", "available", "resolve"]
