"""Rules of selection: which row of a history they take, and the table that is made of a run."""

import pytest
from torch import nn

from flatlab import dg


def row(step: int, val: float, oracle: float = 0.0, test: float = 0.0) -> dict[str, float]:
    return {"step": step, "val": val, "oracle": oracle, "test": test}


def test_each_rule_takes_the_best_row_of_its_own_score() -> None:
    history = [row(10, 0.65, 0.2, 0.1), row(20, 0.75, 0.3, 0.3), row(30, 0.7, 0.6, 0.9), row(40, 0.1, 0.1, 0.95)]
    assert [dg.select(history, rule) for rule in dg.RULES] == [1, 2, 3]
    assert history[dg.select(history, "iid")] == row(20, 0.75, 0.3, 0.3)
    assert dg.select(history[:2], "iid") == 1


def test_of_equal_rows_the_first_is_taken_and_of_none_none() -> None:
    history = [row(1, 0.2, 0.2), row(2, 0.5, 0.5), row(3, 0.5, 0.5), row(4, 0.4, 0.4)]
    assert [dg.select(history, rule) for rule in dg.RULES] == [1, 1, 3]
    assert [dg.select([], rule) for rule in dg.RULES] == [None, None, None]


def test_no_rule_looks_at_the_test() -> None:
    history = [row(1, 0.5, 0.5, 0.0), row(2, 0.4, 0.4, 1.0)]
    without = [{name: value for name, value in entry.items() if name != "test"} for entry in history]
    assert [dg.select(entries, rule) for entries in (history, without) for rule in dg.RULES] == [0, 0, 1] * 2


def test_an_unknown_rule_is_refused_with_the_nearest() -> None:
    for history in ([], [row(1, 0.5)]):
        with pytest.raises(ValueError, match="unknown rule 'orakel': choose one of iid, oracle, last; .* 'oracle'"):
            dg.select(history, "orakel")


def test_a_run_has_a_row_for_each_rule_and_target() -> None:
    selected = {
        "iid": dg.Selection(20, 0.75, 0.35, nn.Identity(), {"c": 0.3, "d": 0.4}),
        "last": dg.Selection(30, 0.7, 0.55, nn.Identity(), {"c": 0.5, "d": 0.6}),
    }
    run = dg.RunResult("SAM", 7, ("a", "b"), ("c", "d"), selected, [], None, 1.5)
    shared = {"algorithm": "SAM", "seed": 7, "sources": "a+b", "diverged": None, "ms_per_step": 1.5}
    iid, last = {"rule": "iid", "step": 20, "val": 0.75}, {"rule": "last", "step": 30, "val": 0.7}
    assert run.rows() == [
        {**shared, **iid, "target": "c", "test": 0.3},
        {**shared, **iid, "target": "d", "test": 0.4},
        {**shared, **last, "target": "c", "test": 0.5},
        {**shared, **last, "target": "d", "test": 0.6},
    ]
