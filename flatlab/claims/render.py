"""Claims as a person reads them: HTML for a notebook, and the wording that every table shares."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from flatlab.claims.claim import Claim
from flatlab.stats import Estimate, Verdict

SYMBOLS: dict[Verdict, str] = {"supported": "✓", "contradicted": "✗", "inconclusive": "?", "not run": "–"}
LEGEND = {
    "fragile": "the verdict would be another one without one of the units, or after as small a shift of the interval "
    "as another processor's rounding can cause",
    "exploratory": "subset, measure or threshold were chosen on the same data, so that the claim suggests and does not "
    "confirm",
    "could have seen": "the smallest distance from the threshold that this n decides in four of five runs; where it is "
    "larger than anything possible, nothing could have been seen",
    "family": "its verdicts hold together, by intervals at a higher level",
}
_COLOURS: dict[Verdict, str] = {
    "supported": "#15803d",
    "contradicted": "#d03030",
    "inconclusive": "#a16207",
    "not run": "inherit",
}


def html_table(
    claims: Sequence[Claim],
    *,
    caption: str,
    preset: str,
    others: Mapping[str, Mapping[str, Mapping[str, Any]]],
    settings: Mapping[str, Any] | None = None,
    notes: Iterable[str] = (),
) -> str:
    """The table of a notebook.

    Args:
        claims: its rows.
        caption: above it.
        preset: of this run.
        others: preset -> claim id -> recorded claim, one more column each.
        settings: what the run tuned, folded away below the table.
        notes: paragraphs below the table.
    """
    theirs = any(claim.paper_value is not None for claim in claims)
    heads = ["claim", *["paper's value"] * theirs, f"ours ({preset})", "interval", "n", "rule", "verdict"]
    heads += [f"recorded: {name}" for name in others]
    cell = 'style="text-align: left; vertical-align: top"'  # Jupyter aligns right and reads no style sheet of ours
    rows = []
    for claim in claims:
        values = [_claim(claim), *[escape(reported(claim.paper_value))] * theirs, *_numbers(claim)]
        values.append(_verdict(claim.verdict, marks(claim.fragile, claim.exploratory)))
        values += [_recorded(recorded.get(claim.id), str(claim.rule)) for recorded in others.values()]
        rows.append("".join(f"<td {cell}>{value}</td>" for value in values))
    head = "".join(f'<th scope="col" {cell}>{escape(name)}</th>' for name in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    known = [recorded[claim.id] for recorded in others.values() for claim in claims if claim.id in recorded]
    marked = {mark for claim in known for mark in _recorded_marks(claim)}
    lines = [*legend(claims, marked), *notes]
    tail = _settings(settings or {}) + "".join(f"<p>{escape(line)}</p>" for line in lines)
    return (
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{tail}"
    )


def marks(fragile: bool, exploratory: str) -> list[str]:
    """The marks beside a verdict, as words."""
    return ["fragile"] * fragile + ["exploratory"] * bool(exploratory)


def remarks(claim: Claim) -> list[str]:
    """What stands below a statement, line by line: source, why it only explores, for whom it speaks, a note."""
    source = f"paper, {claim.where}" if claim.source == "paper" else "our own claim"
    lines = [source + (f"; family {claim.family}" if claim.family else "")]
    lines += [f"exploratory: {claim.exploratory}"] if claim.exploratory else []
    lines += [f"speaks for {claim.population}"] if claim.population else []
    return lines + ([claim.note] if claim.note else [])


def method(claim: Claim) -> list[str]:
    """How an interval was made, the p of the rule, and what an inconclusive one could have seen."""
    if claim.estimate is None:
        return []
    kind = "" if claim.estimate.kind == "exact" else claim.estimate.kind.replace(" %", "\N{NO-BREAK SPACE}%")
    seen = "" if claim.detectable is None else f"could have seen {number(claim.detectable)}"
    return [part for part in (kind, p_value(claim.estimate.p), seen) if part]


def count(claim: Claim) -> str:
    """n with what it counts, "30 seeds × images"."""
    units = claim.units.replace(" x ", " × ")
    return "–" if claim.estimate is None else f"{claim.estimate.n} {units}".strip()


def legend(claims: Iterable[Claim], others: Iterable[str] = ()) -> list[str]:
    """A sentence for each mark and word that needs one and occurs among the claims, or in `others`."""
    found = set(others)
    for claim in claims:
        found |= set(marks(claim.fragile, claim.exploratory)) | ({"family"} if claim.family else set())
        found |= set() if claim.detectable is None else {"could have seen"}
    return [f"{word}: {meaning}" for word, meaning in LEGEND.items() if word in found]


def _claim(claim: Claim) -> str:
    """Id, statement and remarks of a claim, as HTML."""
    below = "".join(f"<br><small>{escape(line)}</small>" for line in remarks(claim))
    return f"<b>{escape(claim.id)}</b> {escape(claim.statement)}{below}"


def _numbers(claim: Claim) -> list[str]:
    """Ours, interval, n and rule of a claim, as HTML."""
    estimate, rule = claim.estimate, f"<code>{escape(str(claim.rule))}</code>"
    if estimate is None:
        return ["–", "–", "–", rule]
    below = "".join(f"<br><small>{escape(part)}</small>" for part in method(claim))
    ours = f"{number(estimate.value)} {escape(claim.unit)}".strip()
    return [ours, interval(estimate) + below, escape(count(claim)), rule]


def _verdict(verdict: Verdict, words: Iterable[str]) -> str:
    """A verdict by symbol, word and colour, and its marks, as HTML."""
    word = f'<b style="color: {_COLOURS[verdict]}; white-space: nowrap">{SYMBOLS[verdict]} {verdict}</b>'
    return word + "".join(f"<br><small>{mark}</small>" for mark in words)


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
    known = claim["verdict"] in SYMBOLS
    return (_verdict(claim["verdict"], _recorded_marks(claim)) if known else escape(str(claim["verdict"]))) + other


def _recorded_marks(claim: Mapping[str, Any]) -> list[str]:
    return marks(bool(claim.get("fragile")), claim.get("exploratory", ""))
