"""The choice of options that a notebook tunes: those of its settings, or those that a sweep finds again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flatlab.train import sweep


def choose(
    what: str,
    score: Callable[[str, dict[str, Any], tuple[int, ...]], Iterable[Any]],
    grid: Mapping[str, Mapping[str, Sequence[Any]]],
    default: Mapping[str, dict[str, Any]],
    *,
    tune: bool,
    seeds: Sequence[int],
    reported: Sequence[int],
    show: Callable[[Any], object],
    extend: int = 3,
) -> dict[str, dict[str, Any]]:
    """Options by method: the settings' own, or with `tune` the best of a sweep, whose table is shown.

    Args:
        what: is tuned, as a reader should see it.
        score, grid, extend: as in `flatlab.train.sweep`; the options of one method have one name.
        default: method -> options, used without tuning.
        tune: whether to sweep.
        seeds: of the sweep.
        reported: seeds that are reported on.
        show: called with the sentence about grids' edges and with the table, a pandas frame: IPython's `display`.

    Raises:
        ValueError: a reported seed is one of the sweep's.
    """
    if not tune:
        return dict(default)
    import pandas as pd

    found = sweep(score, grid, seeds=seeds, extend=extend)
    found.fresh(reported)
    (option,) = {name for options in grid.values() for name in options}
    show(f"{what}: {', '.join(found.at_edge) or 'nothing'} at the edge of its grid")
    show(pd.DataFrame(found.table()).pivot(index="method", columns=option, values="mean score").round(4))
    return found.best
