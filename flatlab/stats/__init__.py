"""Statistics behind the verdicts: estimates with intervals, and rules that say where an interval must lie.

An `Estimate` is a number with its interval, its n, how the interval was made, and the values it was made from. A `Rule`
(`greater`, `less`, `within`, `never`) says where the interval must lie. `verdict` is a pure function of the two, so
that a verdict can never disagree with the numbers beside it, and `recompute` makes an estimate again from its record.
NaN and infinity are errors everywhere, unless the caller says what a run that diverged counts as.
"""

from flatlab.stats.compound import holm, hull, judged, largest, smallest
from flatlab.stats.estimate import Estimate, recompute
from flatlab.stats.paired import (
    crossed_columns,
    crossed_difference,
    equivalence,
    mean,
    paired_columns,
    paired_difference,
    paired_wins,
    trend,
)
from flatlab.stats.ranks import pearson, permutation_test, spearman
from flatlab.stats.rules import (
    VERDICTS,
    Rule,
    Verdict,
    detectable,
    fragile,
    greater,
    less,
    never,
    p_value,
    verdict,
    within,
)
from flatlab.stats.shares import clean_trials, exact, proportion, share

__all__ = [
    "VERDICTS",
    "Estimate",
    "Rule",
    "Verdict",
    "clean_trials",
    "crossed_columns",
    "crossed_difference",
    "detectable",
    "equivalence",
    "exact",
    "fragile",
    "greater",
    "holm",
    "hull",
    "judged",
    "largest",
    "less",
    "mean",
    "never",
    "p_value",
    "paired_columns",
    "paired_difference",
    "paired_wins",
    "pearson",
    "permutation_test",
    "proportion",
    "recompute",
    "share",
    "smallest",
    "spearman",
    "trend",
    "verdict",
    "within",
]
