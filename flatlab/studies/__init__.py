"""What belongs to one notebook alone, a folder each: settings, claims, and experiments.

settings.py     one frozen dataclass, and an instance of it for each preset: `quick` (a minute; the stored outputs),
                `cpu` (full statistics on embedded data), `real` (benchmark data on two cores, at most 40 minutes; not
                every study has it), `gpu` (the benchmarks on one GPU), `full` (the paper's own setting)
claims.py       what is claimed, and the rule that decides each claim
experiments.py  what only this notebook measures

A notebook says `cfg = studies.resolve("likelihood_landscapes", preset, eps=eps)`. Only here may all subjects meet.
"""

from flatlab.studies.resolve import available, presets, resolve

__all__ = ["available", "presets", "resolve"]
