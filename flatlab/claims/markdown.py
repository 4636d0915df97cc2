"""Recorded claims in Markdown: the tally that a README shows, and the full table beside the records.

`make record` writes both, and the tests compare them with the records: neither is edited by hand.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flatlab.claims.claim import Claim
from flatlab.claims.render import LEGEND, SYMBOLS, count, interval, marks, method, number, reported
from flatlab.files import write_text

README_MARKERS = ("<!-- claims:begin -->", "<!-- claims:end -->")
NOTHING = "No results are recorded yet."
_TABLE = "README.md"
_MARKS = ("fragile", "exploratory")
_INTRODUCTION = """\
# Recorded claims

`make record` writes this page from the records beside it, `<preset>.json`; do not edit it. Those hold the values of
every unit, from which `python -m flatlab recompute` derives each verdict again.

A verdict is computed from the interval and the rule, which names the side of a threshold where the interval must lie.
The estimate and the threshold have the unit of the row. n counts what was repeated independently, and the letter after
it names, below the table, the population that the interval speaks for."""

Recorded = Mapping[str, Mapping[str, Any]]  # preset -> content of its recorded file


@dataclass(frozen=True)
class _Run:
    """One notebook in one preset: its claims by id, and the rest of its record."""

    claims: Mapping[str, Claim]
    record: Mapping[str, Any]


def update_readme(path: Path | str, recorded: Recorded) -> bool:
    """Renew the tally between the two claims markers of a Markdown file; True if that changed the file.

    ValueError if the markers are not there, or if a recorded verdict does not follow from its numbers.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    begin, end = README_MARKERS
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{path} must hold {begin} and {end} once each, in this order")
    before, after = text.split(begin)[0], text.split(end)[1]
    return _write(path, text, f"{before}{begin}\n{tally(recorded)}\n{end}{after}")


def update_table(folder: Path | str, recorded: Recorded) -> bool:
    """Renew the full table, README.md in the folder of the records; True if that changed the file."""
    path = Path(folder) / _TABLE
    return _write(path, path.read_text(encoding="utf-8") if path.exists() else "", full_table(recorded))


def tally(recorded: Recorded, *, table: str = f"notebooks/results/{_TABLE}") -> str:
    """How many claims have which verdict and mark, in each preset and in each notebook.

    `table`: where the full table is, seen from the text that this becomes part of.
    """
    papers = _papers(recorded)
    if not papers:
        return NOTHING
    heads = ["preset", "claims", *(f"{symbol} {verdict}" for verdict, symbol in SYMBOLS.items()), *_MARKS]
    lines = _head(heads)
    for preset in recorded:
        claims = [claim for runs in papers.values() if preset in runs for claim in runs[preset].claims.values()]
        counts = _counts(claims)
        lines.append(_row([f"`{preset}`", str(len(claims)), *(str(counts[word]) for word in (*SYMBOLS, *_MARKS))]))
    lines += ["", *_head(["notebook", *(f"`{preset}`" for preset in recorded)])]
    for paper, runs in papers.items():
        cells = [_verdicts(runs[preset].claims.values()) if preset in runs else "" for preset in recorded]
        lines.append(_row([f"[{_text(paper)}]({table}#{_anchor(paper)})", *cells]))
    return "\n".join(lines)


def full_table(recorded: Recorded) -> str:
    """The page of all recorded claims: one section a notebook, one row a claim, one column a preset."""
    words = "\n".join(f"- *{word}*: {meaning}." for word, meaning in LEGEND.items())
    sections = [_section(paper, runs) for paper, runs in _papers(recorded).items()]
    return "\n\n".join([_INTRODUCTION, words, tally(recorded, table=""), *sections]) + "\n"


def _papers(recorded: Recorded) -> dict[str, dict[str, _Run]]:
    """Notebook -> preset -> run, notebooks sorted."""
    found: dict[str, dict[str, _Run]] = {}
    for preset, content in recorded.items():
        for paper, record in content["papers"].items():
            claims = [Claim.from_dict(claim) for claim in record["claims"]]
            found.setdefault(paper, {})[preset] = _Run({claim.id: claim for claim in claims}, record)
    return dict(sorted(found.items()))


def _section(paper: str, runs: Mapping[str, _Run]) -> str:
    every = [claim for run in runs.values() for claim in run.claims.values()]
    newest = {claim.id: claim for claim in every}  # of presets that differ, the largest says what a claim is
    letters = {words: _letter(i) for i, words in enumerate(dict.fromkeys(c.population for c in every if c.population))}
    theirs = any(claim.paper_value is not None for claim in newest.values())
    lines = _head(["claim", "source", "unit", "rule", *(f"`{name}`" for name in runs), *["paper's value"] * theirs])
    for name, claim in newest.items():
        source = f"paper, {claim.where}" if claim.source == "paper" else "ours"
        cells = [_statement(claim), _text(source), _text(claim.unit), f"`{claim.rule}`"]
        cells += [_result(run.claims.get(name), claim, letters) for run in runs.values()]
        lines.append(_row(cells + [_text(reported(claim.paper_value))] * theirs))
    parts = [f"## [{_text(paper)}](../{quote(paper)}.ipynb)", "\n".join(_facts(runs)), "\n".join(lines)]
    if letters:
        parts.append("The intervals speak for\n\n" + "\n".join(f"- {key}: {_text(w)}" for w, key in letters.items()))
    return "\n\n".join(parts + _log(runs))


def _statement(claim: Claim) -> str:
    small = [f"family {claim.family}"] if claim.family else []
    small += [f"exploratory: {claim.exploratory}"] if claim.exploratory else []
    small += [claim.note] if claim.note else []
    below = "".join(f"<br><small>{_text(line)}</small>" for line in small)
    return f"**{_text(claim.id)}** {_text(claim.statement)}{below}"


def _result(claim: Claim | None, shown: Claim, letters: Mapping[str, str]) -> str:
    """Verdict, marks, estimate with interval and n of one preset; its rule and unit where they are not the row's."""
    if claim is None:
        return ""
    words = [f"{SYMBOLS[claim.verdict]} {claim.verdict}", *marks(claim.fragile, claim.exploratory)]
    lines = [", ".join(words)]
    if claim.estimate is not None:
        lines.append(f"{number(claim.estimate.value)} {interval(claim.estimate)}")
        letter = f" <sup>{letters[claim.population]}</sup>" if claim.population else ""
        lines.append(f"<small>{'; '.join([f'n = {_text(count(claim))}{letter}', *map(_text, method(claim))])}</small>")
    if (claim.rule, claim.unit) != (shown.rule, shown.unit):
        lines.append(f"<small>by another rule: `{claim.rule}` {_text(claim.unit)}</small>")
    return "<br>".join(lines)


def _facts(runs: Mapping[str, _Run]) -> list[str]:
    """A line for each preset: what the run computed with, and how long it took."""
    lines = []
    for preset, run in runs.items():
        where, seconds = run.record["environment"], run.record["seconds"]
        facts = [_seeds(run.record["seeds"])]
        facts += [run.record["device"]] + ([f"{seconds / 60:.1f} minutes"] if seconds else [])
        facts += [f"{name} {where[name]}" for name in ("threads", "processor", "torch", "commit") if where.get(name)]
        lines.append(f"- `{preset}`: {_text('; '.join(filter(None, facts)))}")
    return lines


def _seeds(seeds: list[int]) -> str:
    """Such as "seeds 10 to 14", or all of them where some are left out; nothing without any."""
    whole = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    words = f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))
    return f"seeds {words}" if seeds else ""


def _log(runs: Mapping[str, _Run]) -> list[str]:
    """The changes of the rules, folded away; nothing without any."""
    changes = [change for run in runs.values() for change in run.record["changes"]]
    lines = dict.fromkeys(f"- {c['date']}, {_text(c['ids'])}: {_text(c['what'])}" for c in changes)
    if not lines:
        return []
    body = "\n".join(lines)
    return [f"<details><summary>Changes of the rules ({len(lines)})</summary>\n\n{body}\n\n</details>"]


def _verdicts(claims: Iterable[Claim]) -> str:
    """Such as "17 ✓, 5 ?; 2 fragile"."""
    counts = _counts(claims)
    verdicts = [f"{counts[verdict]} {symbol}" for verdict, symbol in SYMBOLS.items() if counts[verdict]]
    marked = [f"{counts[mark]} {mark}" for mark in _MARKS if counts[mark]]
    return "; ".join(filter(None, (", ".join(verdicts), ", ".join(marked))))


def _counts(claims: Iterable[Claim]) -> Counter[str]:
    return Counter(word for c in claims for word in (c.verdict, *marks(c.fragile, c.exploratory)))


def _letter(index: int) -> str:
    """a to z, then aa to zz."""
    return chr(ord("a") + index % 26) * (index // 26 + 1)


def _anchor(heading: str) -> str:
    """The fragment that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _head(names: Iterable[str]) -> list[str]:
    columns = list(names)
    return [_row(columns), "| --- " * len(columns) + "|"]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    """A text on one line, in which nothing is Markdown or HTML."""
    plain = re.sub(
        r"([\\`*\[\]|$~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", re.sub(r"[ \t\r\n]+", " ", text.strip())
    )
    return escape(plain, quote=False)


def _write(path: Path, old: str, new: str) -> bool:
    if new != old:
        write_text(path, new)
    return new != old
