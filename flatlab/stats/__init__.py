"""Statistics behind the verdicts: estimates with intervals, and rules that say where an interval must lie.

An `Estimate` is a number with its interval, its n and how the interval was made. A `Rule` (`greater`, `less`,
`within`) says where the interval must lie. `verdict` is a pure function of the two, so that a verdict can never
disagree with the numbers beside it. NaN and infinity are errors everywhere.
"""

from flatlab.stats.bootstrap import bootstrap_interval
from flatlab.stats.paired import (
    equivalence,
    holm,
    paired_columns,
    paired_difference,
    paired_differences,
    proportion,
)
from flatlab.stats.ranks import spearman, trend
from flatlab.stats.rules import (
    VERDICTS,
    Estimate,
    Rule,
    Verdict,
    exact,
    fragile,
    greater,
    largest,
    less,
    smallest,
    verdict,
    within,
)

__all__ = [
    "VERDICTS",
    "Estimate",
    "Rule",
    "Verdict",
    "bootstrap_interval",
    "equivalence",
    "exact",
    "fragile",
    "greater",
    "holm",
    "largest",
    "less",
    "paired_columns",
    "paired_difference",
    "paired_differences",
    "proportion",
    "smallest",
    "spearman",
    "trend",
    "verdict",
    "within",
]
