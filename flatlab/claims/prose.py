"""Prose about a recorded run, with numbers that come from the record and not from memory."""

import re
from typing import Any

from flatlab.claims.records import load_recorded
from flatlab.claims.render import number

_PLACE = re.compile(r"\{([A-Z]\w*(?:\.\d+)?)(?:\.(value|low|high|n|verdict))?(:%)?\}")

MISSING = "(not recorded)"


class Reading:
    """Markdown with the numbers of a record filled in; display it as the last value of a cell."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_markdown_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text


def reading(paper: str, text: str, *, preset: str = "cpu") -> Reading:
    """Fill numbers of recorded claims into a text.

    `{C3.1}` becomes the estimate with its interval, "0.238 [0.206, 0.266]"; `{C3.1.value}`, `{C3.1.low}`,
    `{C3.1.high}`, `{C3.1.n}` and `{C3.1.verdict}` one part of it; `{C3.1:%}` and `{C3.1.low:%}` are times 100, for
    fractions that are read as percent or points. Other braces stay as they are.

    Args:
        paper: the notebook's name.
        text: Markdown.
        preset: whose record is read. What it lacks is filled by "(not recorded)".
    """
    content = load_recorded(paper).get(preset)
    claims = {claim["id"]: claim for claim in content["claims"]} if content else {}

    def fill(match: re.Match[str]) -> str:
        name, part, percent = match.groups()
        return _words(claims[name], part, bool(percent)) if name in claims else MISSING

    return Reading(_PLACE.sub(fill, text))


def _words(claim: dict[str, Any], part: str | None, percent: bool) -> str:
    if part == "verdict":
        return str(claim["verdict"])
    estimate = claim["estimate"]
    if estimate is None:
        return MISSING
    if part == "n":
        return str(estimate["n"])
    shown = lambda value: f"{100 * value:.1f}".replace("-", "−") if percent else number(value)  # noqa: E731
    if part is not None:
        return "none" if estimate[part] is None else shown(estimate[part])
    ends = "" if estimate["low"] is None else f" [{shown(estimate['low'])}, {shown(estimate['high'])}]"
    return f"{shown(estimate['value'])}{ends}"
