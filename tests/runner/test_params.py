"""Parameters are read from the parameters cell and checked before anything runs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatlab.names import PRESETS
from flatlab.runner import StudyError
from flatlab.runner.params import ParameterError, check, presets, read

CELL = """\
# What a reader may change
preset: str = "quick"  # size of the run
seed: int = 0
device: str = "auto"  # auto, cpu or cuda
eps: float = 8 / 255  # radius
lr: float | None = None  # None = the preset's
epochs: int | None = None
clean: bool = True
radii: list[float] = [0.1,
                      0.2]  # several
names: list[str] | None = None
amount: int | float = 1
plain = 3
word = "x"  # a comment
unknown = None
computed = len("abc")
"""
KNOWN = read(CELL, "demo")


def test_reading_names_types_defaults_and_help() -> None:
    table = {p.name: (p.annotation, p.default, p.default_text, p.help) for p in KNOWN.values()}
    assert list(table)[:3] == ["preset", "seed", "device"]
    assert table["preset"] == ("str", "quick", "'quick'", "size of the run")
    assert table["seed"] == ("int", 0, "0", "")
    assert table["eps"] == ("float", 8 / 255, "8 / 255", "radius")
    assert table["lr"] == ("float | None", None, "None", "None = the preset's")
    assert table["radii"] == ("list[float]", [0.1, 0.2], "[0.1, 0.2]", "several")
    assert table["plain"] == ("int", 3, "3", "")
    assert table["word"] == ("str", "x", "'x'", "a comment")
    assert table["unknown"][0] == ""
    assert table["computed"] == ("", None, "len('abc')", "")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("clean", "true", True),
        ("clean", "True", True),
        ("clean", "FALSE", False),
        ("clean", False, False),
        ("lr", "1e-3", 1e-3),
        ("lr", "1E-3", 1e-3),
        ("lr", " .5 ", 0.5),
        ("lr", "8/255", 8 / 255),
        ("lr", "2", 2.0),
        ("lr", 2, 2.0),
        ("lr", np.float32(0.5), 0.5),
        ("lr", "none", None),
        ("lr", "None", None),
        ("lr", None, None),
        ("epochs", "10", 10),
        ("epochs", np.int64(10), 10),
        ("epochs", "None", None),
        ("seed", "-1", -1),
        ("device", "None", "None"),
        ("device", "cuda:1", "cuda:1"),
        ("device", "8/255", "8/255"),
        ("device", "", ""),
        ("radii", "[0.1, 8/255]", [0.1, 8 / 255]),
        ("radii", "0.1,0.2", [0.1, 0.2]),
        ("radii", "[]", []),
        ("radii", [1, 0.5], [1.0, 0.5]),
        ("radii", (1, "1/2"), [1.0, 0.5]),
        ("names", "['a', \"b\", c]", ["a", "b", "c"]),
        ("names", "None", None),
        ("amount", "3", 3),
        ("amount", "3.5", 3.5),
        ("plain", "4", 4),
        ("preset", "gpu", "gpu"),
    ],
)
def test_spellings(name: str, value: object, expected: object) -> None:
    converted = check({name: value}, KNOWN, "demo")[name]
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("clean", "yes", "true or false"),
        ("clean", 1, "true or false"),
        ("clean", "1", "true or false"),
        ("lr", "fast", "8/255"),
        ("lr", "1/0", "8/255"),
        ("lr", "nan", "finite"),
        ("lr", math.inf, "finite"),
        ("lr", True, "finite"),
        ("lr", 1j, "finite"),
        ("lr", "", "finite"),
        ("lr", [0.1], "finite"),
        ("epochs", "1.5", "an integer"),
        ("epochs", 2.0, "an integer"),
        ("epochs", True, "an integer"),
        ("epochs", "8/4", "an integer"),
        ("seed", "None", "an integer"),
        ("seed", None, "an integer"),
        ("device", 3, "a text"),
        ("radii", "", "a list"),
        ("radii", "[a]", "a list"),
        ("radii", 0.1, "a list"),
        ("preset", "fast", "quick, cpu, real, gpu, full"),
        ("preset", "ful", "did you mean 'full'"),
        ("unknown", 1, "annotate it"),
        ("computed", "1", "annotate it"),
    ],
)
def test_wrong_values_are_refused_with_what_would_be_right(name: str, value: object, words: str) -> None:
    with pytest.raises(ParameterError, match=r"parameter|preset") as caught:
        check({name: value}, KNOWN, "demo")
    assert words in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"), [("sedd", "seed"), ("Eps", "eps"), ("epoch", "epochs"), ("presett", "preset")]
)
def test_an_unknown_name_brings_the_nearest_valid_one(name: str, meant: str) -> None:
    with pytest.raises(ParameterError, match=f"notebook demo has no parameter '{name}'.*did you mean '{meant}'"):
        check({name: 1}, KNOWN, "demo")


def test_a_name_like_no_other_brings_the_list() -> None:
    with pytest.raises(ParameterError, match="it has preset, seed") as caught:
        check({"zzzzz": 1}, KNOWN, "demo")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("annotation", ["dict", "tuple[int, ...]", "list[list[int]]", "Path", "'float'", "list"])
def test_an_annotation_that_is_not_understood_is_named(annotation: str) -> None:
    with pytest.raises(StudyError, match="demo") as caught:
        read(f"x: {annotation} = 1", "demo")
    assert annotation in str(caught.value)


def test_a_cell_that_is_not_python_is_named() -> None:
    with pytest.raises(StudyError, match="parameters cell of demo is not valid Python: line 2"):
        read("a: int = 1\nb: int = = 2", "demo")


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("quick, cpu, gpu or full", ("quick", "cpu", "gpu", "full")),
        ("quick, cpu, real, gpu or full: here all the same", PRESETS),
        ("full, or quick", ("quick", "full")),
        ("real", ("real",)),
        ("quick: the full study needs a gpu", ("quick",)),
        ("size of the full run", PRESETS),
        ("quick, cpu or another", PRESETS),
        ("", PRESETS),
    ],
)
def test_the_comment_says_which_presets_there_are(comment: str, expected: tuple[str, ...]) -> None:
    known = read(f'preset: str = "quick"  # {comment}', "demo")
    assert presets(known) == expected
    for preset in PRESETS:
        if preset in expected:
            assert check({"preset": preset}, known, "demo") == {"preset": preset}
        else:
            words = f"notebook demo has no preset '{preset}'; it has {', '.join(expected)}"
            with pytest.raises(ParameterError, match=f"^{words}$"):
                check({"preset": preset}, known, "demo")


@settings(deadline=None, max_examples=100)
@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(), st.booleans(), st.text())
def test_what_python_prints_is_read_back(number: float, whole: int, truth: bool, text: str) -> None:
    given_texts = {"eps": repr(number), "seed": str(whole), "clean": str(truth), "word": text}
    assert check(given_texts, KNOWN, "demo") == {"eps": number, "seed": whole, "clean": truth, "word": text}
