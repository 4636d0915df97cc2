"""How well measures of reward models predict what training with them brings, as the paper's tables 2-9 show it."""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from flatlab import checks
from flatlab.stats import permutation_test

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("pearson", "pearson_p", "spearman", "spearman_p")


def correlation_table(
    rows: Sequence[Mapping[str, float]], measures: Sequence[str], targets: Sequence[str]
) -> "pd.DataFrame":
    """Correlations over reward models, one row for each measure and target.

    Columns: measure, target, n, pearson, pearson_p, spearman, spearman_p; p is two-sided, over permutations. With fewer
    than three models, or where a column is constant, the last four are NaN, with a warning. For intervals and verdicts
    there are `flatlab.stats.pearson` and `spearman`.

    Args:
        rows: one mapping a reward model, from names to numbers.
        measures: names of what is known before training.
        targets: names of what training brought.
    """
    import pandas as pd

    for name in (*measures, *targets):
        for row in rows:
            checks.one_of("column", name, row)
    found = []
    for measure in measures:
        for target in targets:
            x, y = (np.array([row[name] for row in rows], dtype=float) for name in (measure, target))
            found.append({"measure": measure, "target": target, "n": len(rows), **_pair(measure, target, x, y)})
    return pd.DataFrame(found)


def _pair(measure: str, target: str, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        why = "fewer than three rows" if len(x) < 3 else "a constant column"
        warnings.warn(f"no correlation of {measure} with {target}: {why}", stacklevel=3)
        return dict.fromkeys(_COLUMNS, float("nan"))
    return dict(zip(_COLUMNS, permutation_test(x, y, kind="Pearson") + permutation_test(x, y), strict=True))
