"""Claims as a person reads them: HTML for a notebook, Markdown for a README, and the wording of numbers."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Protocol

from flatlab.stats import Estimate, Rule, Verdict

SYMBOLS: dict[Verdict, str] = {"supported": "✓", "contradicted": "✗", "inconclusive": "?", "not run": "–"}
FRAGILE = (
    "fragile: the verdict would be another one without one of the units, or after as small a shift of the interval as "
    "another processor's rounding can cause"
)
_COLOURS: dict[Verdict, str] = {
    "supported": "#15803d",
    "contradicted": "#d03030",
    "inconclusive": "#a16207",
    "not run": "inherit",
}


class Row(Protocol):
    """What the tables need of a claim; see `flatlab.claims.Claim`."""

    @property
    def id(self) -> str: ...
    @property
    def statement(self) -> str: ...
    @property
    def rule(self) -> Rule: ...
    @property
    def estimate(self) -> Estimate | None: ...
    @property
    def source(self) -> str: ...
    @property
    def where(self) -> str: ...
    @property
    def paper_value(self) -> float | str | None: ...
    @property
    def unit(self) -> str: ...
    @property
    def note(self) -> str: ...
    @property
    def verdict(self) -> Verdict: ...
    @property
    def fragile(self) -> bool: ...


def html_table(
    claims: Sequence[Row],
    *,
    caption: str,
    preset: str,
    others: Mapping[str, Mapping[str, Mapping[str, Any]]],
    settings: Mapping[str, Any] | None = None,
    notes: Iterable[str] = (),
) -> str:
    """The table of a notebook. `others`: preset -> claim id -> recorded claim, one more column each.

    `settings`: what the run tuned, folded away below the table.
    """
    heads = ["claim", "paper's value", f"ours ({preset})", "interval", "n", "rule", "verdict"]
    heads += [f"recorded: {name}" for name in others]
    cell = 'style="text-align: left; vertical-align: top"'  # Jupyter aligns right and reads no style sheet of ours
    rows = []
    for claim in claims:
        values = [claim_text(claim), *number_cells(claim), verdict_text(claim.verdict, claim.fragile)]
        values += [_recorded(recorded.get(claim.id), str(claim.rule)) for recorded in others.values()]
        rows.append("".join(f"<td {cell}>{value}</td>" for value in values))
    head = "".join(f'<th scope="col" {cell}>{escape(name)}</th>' for name in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    known = [recorded[claim.id] for recorded in others.values() for claim in claims if claim.id in recorded]
    marked = any(claim.fragile for claim in claims) or any(claim.get("fragile") for claim in known)
    notes = ([FRAGILE] if marked else []) + list(notes)
    tail = _settings(settings or {}) + "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{tail}"
    )


def claim_text(claim: Row) -> str:
    """Id, statement, source and note of a claim, as HTML."""
    source = f"paper, {claim.where}" if claim.source == "paper" else "our own claim"
    note = f"<br><small>{escape(claim.note)}</small>" if claim.note else ""
    return f"<b>{escape(claim.id)}</b> {escape(claim.statement)}<br><small><i>{escape(source)}</i></small>{note}"


def number_cells(claim: Row) -> list[str]:
    """The paper's value, ours, interval, n and rule of a claim, as HTML."""
    paper, unit, estimate = claim.paper_value, f" {escape(claim.unit)}" if claim.unit else "", claim.estimate
    theirs = escape(reported(paper))
    rule = f"<code>{escape(str(claim.rule))}</code>"
    if estimate is None:
        return [theirs, "–", "–", "–", rule]
    kind = escape(", ".join(part for part in (estimate.kind, p_value(estimate.p)) if part))
    below = f"<br><small>{kind}</small>" if kind and kind != "exact" else ""
    return [theirs, number(estimate.value) + unit, interval(estimate) + below, str(estimate.n), rule]


def verdict_text(verdict: Verdict, fragile: bool = False) -> str:
    """A verdict by symbol, word and colour, and the mark of one that hangs by a hair, as HTML."""
    word = f'<b style="color: {_COLOURS[verdict]}; white-space: nowrap">{SYMBOLS[verdict]} {verdict}</b>'
    return word + ("<br><small>fragile</small>" if fragile else "")


def markdown_table(recorded: Mapping[str, Mapping[str, Any]]) -> str:
    """The recorded claims as a Markdown table: one row a claim, one column a preset."""
    papers = sorted({paper for content in recorded.values() for paper in content["papers"]})
    lines = [f"| claim | source | {' | '.join(recorded)} |", "| --- " * (len(recorded) + 2) + "|"] if papers else []
    for paper in papers:
        columns = [
            {claim["id"]: claim for claim in content["papers"].get(paper, {}).get("claims", ())}
            for content in recorded.values()
        ]
        lines.append(f"| **{_markdown(paper)}** |" + " |" * (len(columns) + 1))
        for name in dict.fromkeys(name for column in columns for name in column):
            claim = next(column[name] for column in reversed(columns) if name in column)
            source = f"{claim['source']}, {claim['where']}" if claim["source"] == "paper" else "ours"
            cells = [_markdown_verdict(column.get(name)) for column in columns]
            text = f"{name}: {claim['statement']}"
            lines.append(f"| {_markdown(text)} | {_markdown(source)} | {' | '.join(cells)} |")
    return "\n".join(lines) if lines else "No results are recorded yet."


def number(value: float) -> str:
    """A measured number as a reader sees it: three significant digits and a real minus sign."""
    return f"{value:.3g}".replace("-", "−") if value else "0"


def reported(value: float | str | None) -> str:
    """The paper's own number, with the digits it gives."""
    return "–" if value is None else value if isinstance(value, str) else f"{value:g}".replace("-", "−")


def interval(estimate: Estimate) -> str:
    """The interval as a reader sees it, "none" without one."""
    if estimate.low is None or estimate.high is None:
        return "none"
    return "exact" if estimate.kind == "exact" else f"[{number(estimate.low)}, {number(estimate.high)}]"


def p_value(p: float | None) -> str:
    """The words "p = 0.03" or "p < 0.001", or nothing."""
    return "" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _settings(settings: Mapping[str, Any]) -> str:
    """Tuned values as a line that opens, such as "adam: lr = 0.03"; nothing without any."""
    lines = [f"{name}: {_setting(value)}" for name, value in settings.items()]
    body = "<br>".join(escape(line) for line in lines)
    return f"<details><summary>tuned in this run</summary><small>{body}</small></details>" if lines else ""


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {_setting(inner)}" for name, inner in value.items()) or "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _recorded(claim: Mapping[str, Any] | None, rule: str) -> str:
    if claim is None:
        return "–"
    other = "" if claim["rule"] == rule else f"<br><small>by another rule: {escape(claim['rule'])}</small>"
    known, mark = claim["verdict"] in SYMBOLS, bool(claim.get("fragile"))
    return (verdict_text(claim["verdict"], mark) if known else escape(str(claim["verdict"]))) + other


def _markdown_verdict(claim: Mapping[str, Any] | None) -> str:
    if claim is None:
        return ""
    words = f"{SYMBOLS.get(claim['verdict'], '')} {_markdown(claim['verdict'])}".strip()
    words += ", fragile" if claim.get("fragile") else ""
    if not claim.get("estimate"):
        return words
    estimate = Estimate(**claim["estimate"])
    unit = f" {_markdown(claim['unit'])}" if claim.get("unit") else ""
    return f"{words}<br>{number(estimate.value)}{unit} {interval(estimate)}, n = {estimate.n}"


def _markdown(text: str) -> str:
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|")
