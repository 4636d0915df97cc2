"""The choice of tuned options: from the settings, or from a sweep on other seeds than those reported."""

from typing import Any

import pytest

from flatlab.studies.tuning import choose

GRID = {"a": {"lr": (0.1, 1.0, 10.0)}, "b": {"lr": (0.1, 1.0)}}
DEFAULT = {"a": {"lr": 7.0}, "b": {"lr": 8.0}}


def score(method: str, options: dict[str, Any], seeds: tuple[int, ...]) -> list[float]:
    return [abs(options["lr"] - 1.0) if method == "a" else options["lr"] for _ in seeds]


def test_without_tuning_nothing_is_scored_or_shown() -> None:
    def never(*_: object) -> list[float]:
        raise AssertionError("scored")

    found = choose("x", never, GRID, DEFAULT, tune=False, seeds=(1,), reported=(1,), show=never)
    assert found == DEFAULT


def test_a_sweep_chooses_the_lowest_score_and_says_what_lies_at_an_edge() -> None:
    shown: list[Any] = []
    found = choose("x", score, GRID, DEFAULT, tune=True, seeds=(1, 2), reported=(3,), show=shown.append, extend=0)
    assert found == {"a": {"lr": 1.0}, "b": {"lr": 0.1}}
    assert shown[0] == "x: b at the edge of its grid"
    assert shown[1].loc["a", 10.0] == 9.0


def test_reported_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="seed"):
        choose("x", score, GRID, DEFAULT, tune=True, seeds=(1, 2), reported=(2, 3), show=lambda _: None)
