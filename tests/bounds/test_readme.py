"""The page of the package: its table is that of the registry, its code runs, the operators that it adds are sound."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flatlab import bounds
from flatlab.bounds import operator_table
from flatlab.bounds.expansions import EXPANSIONS

CODE = re.findall(r"^```python\n(.*?)^```$", operator_table.PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
ADDED = {"_upsample_bilinear2d_aa": bounds.RULES, "i0": bounds.RULES, "copysign": EXPANSIONS}


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """Without the operators that the page adds, and afterwards as it was."""
    kept = [(table, dict(table)) for table in (bounds.RULES, EXPANSIONS)]
    for name in ADDED:
        bounds.RULES.pop(name, None)
        EXPANSIONS.pop(name, None)
    yield
    for table, content in kept:
        table.clear()  # type: ignore[attr-defined]
        table.update(content)  # type: ignore[attr-defined]


def run(code: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(compile(code, "<page>", "exec"), found)
    return found


def test_the_table_is_that_of_the_registry(tmp_path: Path) -> None:
    copied = Path(shutil.copy(operator_table.PAGE, tmp_path))
    assert not operator_table.update(copied), "run: " + str(operator_table.__doc__).splitlines()[2]
    copied.write_text(copied.read_text().replace("| affine |", "| linear |"))
    assert operator_table.update(copied)
    assert copied.read_text() == operator_table.PAGE.read_text()
    names = {name for names in bounds.supported().values() for name in names if not name.startswith("_")}
    listed = " ".join(re.findall(r"\| ([^|]*) \|$", operator_table.supported_table(), re.M))
    assert names == set(re.findall(r"\w+", listed)) - {"operators"}


def test_the_page_is_one_page() -> None:
    lines = operator_table.PAGE.read_text().splitlines()
    assert len(lines) <= 120
    assert all(len(code.splitlines()) <= 15 for code in CODE)


@pytest.mark.parametrize("code", CODE[:2], ids=["functions", "classes"])
def test_the_use_that_it_shows(code: str) -> None:
    found = run(code)
    model, x = found["model"], torch.as_tensor(found["x"]).as_subclass(torch.Tensor)
    low, high = found["low"].detach(), found["high"].detach()
    seen = bounds.audit(model, bounds.LpBall(x, 0.1, clip=(0, 1)), low, high)
    assert bounds.violation(low, high, *seen) < 1e-6
    assert found.get("proven", torch.zeros(4, dtype=torch.bool)).dtype == torch.bool


@pytest.mark.parametrize(("name", "code"), list(zip(ADDED, CODE[2:], strict=True)), ids=ADDED)
def test_the_operators_that_it_adds_are_sound(name: str, code: str) -> None:
    with pytest.raises(bounds.UnsupportedOperator, match=name):
        run(re.sub(rf'^(RULES\["{name}"\].*|@expansion.*)$', "", code, flags=re.MULTILINE))
    found = run(code)
    assert name in ADDED[name]
    net, x = found["net"], found["x"]
    for eps in (0.01, 0.5, 3.0):
        region = bounds.LpBall(x, eps)
        for method in ("ibp", "crown-ibp", "crown", "forward", "forward+backward", "alpha-crown"):
            with torch.no_grad():
                low, high = bounds.compute_bounds(net, x, region, method)
                seen = bounds.audit(net, region, low, high, steps=10, starts=2)
            assert bounds.violation(low, high, *seen) < 2e-6, (name, eps, method)
            if method == "crown":  # and of use
                assert (seen[1] - seen[0]).mean() > 0.3 * (high - low).mean()
