"""The results page as HTML: one file without scripts; everything that comes from outside is escaped."""

import struct
from base64 import b64decode
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any
from urllib.parse import quote

from flatlab.claims import Claim, ClaimTable
from flatlab.claims.render import SYMBOLS, count, interval, legend, marks, method, number, remarks, reported
from flatlab.runner.style import CSS
from flatlab.stats import Estimate, Rule, Verdict

CLASSES: dict[Verdict, str] = {"supported": "good", "contradicted": "bad", "inconclusive": "open", "not run": "none"}


@dataclass(frozen=True)
class Figure:
    """A picture of an executed notebook: base64 PNG, and the heading that it stands under."""

    png: str
    caption: str


@dataclass(frozen=True)
class JobView:
    """What the page shows of one job; `problem` is the reason why it is listed first, or empty."""

    name: str
    title: str
    state: str
    seconds: float | None = None
    finished: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    error: str = ""
    notebook: str = ""
    html: str = ""
    tables: tuple[ClaimTable, ...] = ()
    figures: tuple[Figure, ...] = ()
    note: str = ""


def render(jobs: Sequence[JobView], *, title: str, preset: str) -> str:
    """The whole page. A job that cannot be drawn becomes a problem that says why; the others stay as they are."""
    jobs = [_drawable(job, preset) for job in jobs]
    body = _body(jobs, title, preset)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}: {escape(preset)}</title>\n<style>{CSS}</style>\n</head>\n"
        f'<body>\n<main class="page">\n{body}</main>\n</body>\n</html>\n'
    )


def _body(jobs: Sequence[JobView], title: str, preset: str) -> str:
    shown = [job for job in jobs if job.tables or job.figures or not job.problem]
    parts = [_header(jobs, title, preset), _problems([job for job in jobs if job.problem]), _contents(shown)]
    return "".join([*parts, *map(_section, shown), _environment(jobs, preset)])


def _drawable(job: JobView, preset: str) -> JobView:
    """The job, if a page of it alone can be drawn."""
    try:
        _body([job], "", preset)
    except Exception as error:  # whatever its files hold
        words = f"{type(error).__name__}: {error}"
        return JobView(job.name, job.name, job.state, problem="cannot be shown", error=words)
    return job


def _header(jobs: Sequence[JobView], title: str, preset: str) -> str:
    finished = [job for job in jobs if not job.problem]
    claims = [claim for job in finished for table in job.tables for claim in table.claims]
    counts = Counter(word for claim in claims for word in (claim.verdict, *_marks(claim)))
    bar = "".join(
        f'<span class="{CLASSES[name]}" style="flex: {counts[name]}"></span>' for name in SYMBOLS if counts[name]
    )
    items = "".join(
        f'<li class="{CLASSES[name]}"><b>{counts[name]}</b> {SYMBOLS[name]} {name}</li>' for name in SYMBOLS
    )
    facts = [f"{len(finished)} of {_count(len(jobs), 'job')} ran to the end", _count(len(claims), "claim")]
    facts += [f"finished {_when(max(job.finished for job in jobs))}"] if any(job.finished for job in jobs) else []
    marked = _spans(f"{counts[mark]} {mark}" for mark in ("fragile", "exploratory") if counts[mark])
    tally = (
        f'<div class="bar" aria-hidden="true">{bar}</div><ul class="counts">{items}</ul><p class="meta">{marked}</p>'
    )
    tally = f'<div class="tally">{tally}</div>' if claims else ""
    return (
        f'<header>\n<p class="eyebrow">Preset {escape(preset)}</p>\n<h1>{escape(title)}</h1>\n'
        f'<p class="meta">{_spans(facts)}</p>\n{tally}\n</header>\n'
    )


def _problems(jobs: Sequence[JobView]) -> str:
    if not jobs:
        return ""
    cards = []
    for job in jobs:
        error = f"<pre>{escape(job.error)}</pre>" if job.error else ""
        facts = [f"after {duration(job.seconds)}"] if job.seconds is not None else []
        facts += [_assignments(job.parameters)] if job.parameters else []
        meta = f'<p class="meta">{_spans(facts)}{_links(job, "as far as it came")}</p>' if facts or job.html else ""
        state = f'<span class="state">{escape(job.problem)}</span>'
        cards.append(f'<div class="problem"><h3>{escape(job.name)}: {state}</h3>{meta}{error}</div>')
    heading = f"{_count(len(jobs), 'job')} without a result"
    return f'<section class="problems">\n<h2>{heading}</h2>\n{"".join(cards)}\n</section>\n'


def _contents(jobs: Sequence[JobView]) -> str:
    rows = []
    for job in jobs:
        claims = [claim for table in job.tables for claim in table.claims]
        counts = Counter(claim.verdict for claim in claims)
        words = ", ".join(f"{counts[name]} {name}" for name in SYMBOLS if counts[name])
        marks = "".join(f'<span class="{CLASSES[claim.verdict]}">{SYMBOLS[claim.verdict]}</span>' for claim in claims)
        strip = f'<span class="strip" role="img" aria-label="{words}">{marks}</span>' if claims else ""
        strip = f'<span class="bad">{escape(job.problem)}</span>' if job.problem else strip
        rows.append(f'<li><a href="#{quote(job.name)}">{escape(job.title)}</a>{strip}</li>')
    return f'<nav aria-label="Notebooks">\n<ol>{"".join(rows)}</ol>\n</nav>\n' if rows else ""


def _section(job: JobView) -> str:
    facts = [job.name, job.state] + ([duration(job.seconds)] if job.seconds is not None else [])
    facts += [_assignments(job.parameters)] if job.parameters else []
    parts = [f"<h2>{escape(job.title)}</h2>", f'<p class="meta">{_spans(facts)}{_links(job, "executed notebook")}</p>']
    parts += [f"<p>{escape(job.note)}</p>"] if job.note else []
    parts += [_claims(table) for table in job.tables]
    if not job.tables:
        parts.append("<p>This notebook shows no claims.</p>")
    if job.figures:
        parts.append(f'<h3>Figures</h3><div class="figures">{"".join(map(_figure, job.figures))}</div>')
    return f'<section class="job" id="{escape(job.name)}">\n{"".join(parts)}\n</section>\n'


def _claims(table: ClaimTable) -> str:
    seeds = f", {_count(len(table.seeds), 'seed')}" if table.seeds else ""
    caption = (
        f"{table.title or 'Claims'}: preset {table.preset}{seeds}; the shaded side is where the rule wants the interval"
    )
    theirs = any(claim.paper_value is not None for claim in table.claims)
    columns = ["claim", "verdict", "ours", "interval", "n", *["paper's value"] * theirs, "rule"]
    head = "".join(f'<th scope="col" role="columnheader">{escape(name)}</th>' for name in columns)
    rows = "".join(_row(claim, theirs) for claim in table.claims)
    words = "".join(f"<p>{escape(line)}</p>" for line in legend(table.claims))
    below = f'<div class="legend">{words}</div>' if words else ""
    # roles are spelled out because the phone layout changes `display`, which takes the table semantics away
    return (
        f'<table role="table"><caption>{escape(caption)}</caption>'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead><tbody role="rowgroup">{rows}</tbody></table>'
        f"{below}{_log(table)}"
    )


def _row(claim: Claim, theirs: bool) -> str:
    """One claim; `theirs`: whether the table has a column of the paper's values."""
    estimate, css = claim.estimate, CLASSES[claim.verdict]
    ours, drawn = "–", "–"
    if estimate is not None:
        unit = f'<span class="small">{escape(claim.unit)}</span>' if claim.unit else ""
        ours = f'<span class="number">{number(estimate.value)}</span>{unit}'
        drawn = f'{interval_svg(estimate, claim.rule, css)}<span class="number">{interval(estimate)}</span>'
        drawn += _small(method(claim))
    verdict = f'<span class="verdict {css}">{SYMBOLS[claim.verdict]} {claim.verdict}</span>'
    cells = [
        ("verdict", verdict + _small(_marks(claim))),
        ("ours", ours),
        ("interval", drawn),
        ("n", escape(count(claim))),
        *[("paper's value", escape(reported(claim.paper_value)))] * theirs,
        ("rule", f"<code>{escape(str(claim.rule))}</code>"),
    ]
    head = f"<b>{escape(claim.id)}</b> {escape(claim.statement)}{_small(remarks(claim))}"
    body = "".join(f'<td role="cell" data-label="{escape(label)}"><div>{value}</div></td>' for label, value in cells)
    return f'<tr role="row"><th scope="row" role="rowheader">{head}</th>{body}</tr>'


def _marks(claim: Claim) -> list[str]:
    return marks(claim.fragile, claim.exploratory)


def _small(lines: Iterable[str]) -> str:
    return "".join(f'<span class="small">{escape(line)}</span>' for line in lines)


def _log(table: ClaimTable) -> str:
    """The changes of the rules, folded away; nothing without any."""
    items = "".join(f"<li>{escape(f'{c.date}, {c.ids}: {c.what}')}</li>" for c in table.changes)
    summary = f"<summary>Changes of the rules ({len(table.changes)})</summary>"
    return f"<details>{summary}<ul>{items}</ul></details>" if items else ""


def interval_svg(estimate: Estimate, rule: Rule, css: str) -> str:
    """The interval against the rule: dashed thresholds, the wanted side shaded, the interval as a bar."""
    low = estimate.value if estimate.low is None else estimate.low
    high = estimate.value if estimate.high is None else estimate.high
    marks = [low, high, estimate.value, *rule.bounds]
    left, right = min(marks), max(marks)
    room = 0.14 * (right - left) or max(abs(right), 1.0)
    left, right = left - room, right + room
    width, middle = 190.0, 11.0

    def at(value: float) -> float:
        return round(width * (value - left) / (right - left), 1)

    start = at(rule.bounds[0]) if rule.kind in ("greater", "within") else 0.0
    end = width if rule.kind == "greater" else at(rule.bounds[-1])
    parts = [f'<rect class="zone" x="{start}" y="1" width="{round(max(end - start, 0.5), 1)}" height="20" rx="2"/>']
    parts.append(f'<line class="axis" x1="0" y1="{middle}" x2="{width}" y2="{middle}"/>')
    labels = [(at(bound), number(bound)) for bound in rule.bounds]
    parts += [f'<line class="bound" x1="{x}" y1="1" x2="{x}" y2="21"/>' for x, _ in labels]
    if len(labels) == 2 and labels[1][0] - labels[0][0] < 44:  # side by side they would overlap
        labels = [((labels[0][0] + labels[1][0]) / 2, f"{labels[0][1]} to {labels[1][1]}")]
    for x, text in labels:
        half = 3.0 * len(text)  # about half of its width, so that it stays inside the drawing
        parts.append(f'<text x="{min(max(x, half), width - half):.1f}" y="32" text-anchor="middle">{text}</text>')
    if estimate.low is not None and high > low:
        parts.append(f'<line class="span" x1="{at(low)}" y1="{middle}" x2="{at(high)}" y2="{middle}"/>')
    parts.append(f'<circle class="point" cx="{at(estimate.value)}" cy="{middle}" r="4.6"/>')
    label = escape(f"estimate {number(estimate.value)}, interval {interval(estimate)}, rule {rule}")
    return f'<svg class="interval {css}" viewBox="0 0 190 34" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _figure(figure: Figure) -> str:
    caption = escape(figure.caption)
    width, height = _size(figure.png)
    size = f' width="{width}" height="{height}"' if width else ""
    wide = f' class="wide" style="max-width: {width}px"' if width > 1.8 * height else ""
    image = f'<img src="data:image/png;base64,{figure.png}" alt="{caption}"{size} loading="lazy">'
    return f"<figure{wide}>{image}<figcaption>{caption}</figcaption></figure>"


def _size(png: str) -> tuple[int, int]:
    """Width and height that a base64 PNG states in its header; zeros if it has none."""
    header = b64decode(png[:32])
    return struct.unpack(">II", header[16:]) if len(header) == 24 and header[12:16] == b"IHDR" else (0, 0)


def _environment(jobs: Sequence[JobView], preset: str) -> str:
    facts: dict[str, dict[str, None]] = {}
    for table in (table for job in jobs for table in job.tables):
        for name, value in ({"device": table.device} | table.environment).items():
            if value:
                facts.setdefault(name, {})[value] = None
    total = sum(job.seconds or 0.0 for job in jobs)
    rows = {"preset": preset, "time": f"{duration(total)}, all jobs together"}
    rows |= {name: ", ".join(values) for name, values in facts.items()}
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows.items())
    return f'<section class="job">\n<h2>Environment</h2>\n<dl>{items}</dl>\n</section>\n'


def duration(seconds: float) -> str:
    """Seconds as a person reads them: "41 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 9.5 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s".removesuffix(" 0 s")
    return f"{whole // 3600} h {whole % 3600 // 60} min".removesuffix(" 0 min")


def _when(stamp: str) -> str:
    return f"{stamp[:10]} {stamp[11:16]} UTC"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _assignments(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in parameters.items())


def _spans(facts: Iterable[str]) -> str:
    return "".join(f"<span>{escape(fact)}</span>" for fact in facts)


def _links(job: JobView, words: str) -> str:
    page = f'<a href="{quote(job.html)}">{words}</a>' if job.html else ""
    return page + (f'<a href="{quote(job.notebook)}">.ipynb</a>' if job.notebook else "")
