"""The results page: every state of a job, damaged files, hostile text, and that it needs nothing but itself."""

import base64
import json
import re
import struct
import time
from html.parser import HTMLParser

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from flatlab.claims import Change, Claim, ClaimTable
from flatlab.runner import report
from flatlab.runner.executed import checksum
from flatlab.runner.page import duration, interval_svg
from flatlab.runner.style import CSS
from flatlab.stats import Estimate, exact, greater, less, never, within

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", 560, 200) + b"pixels").decode()
EVIL = "<script>alert('x')</script>\"&"
MORE = ("family", "units", "population", "exploratory")
STATES = ("failed", "killed", "timed out", "interrupted")


def claim_table(statement="flatter is more robust", name="01_demo"):
    hair = Estimate(-0.4, -0.5, -0.3, 5, 0.01, "paired t, 95 %", without=(-0.6, -0.4, -0.4, 0.1))
    claims = [
        Claim("C1", statement, less(0), hair, paper_value=47.04),
        Claim("C2", "no effect at all", greater(0), Estimate(-2, -3, -1, 5), unit="points", family="pair"),
        Claim("C3", "one seed only", within(-3, 3), Estimate(1, None, None, 1), source="ours"),
        Claim("C4", "not here", greater(0), None),
        Claim(
            "C5", "too few", never(0.1), Estimate(0.0, 0.0, 0.26, 10), units="random trials", population="other nets"
        ),
        Claim("C6", "open", less(0), Estimate(0.5, -0.5, 1.5, 9), units="seeds x images", exploratory="best of 13"),
    ]
    changes = [Change("2026-11-26", "C1 C2", "a threshold, before any run")]
    return ClaimTable(claims, paper=name, preset="cpu", seeds=range(5), device="2 CPU cores", changes=changes)


def write_notebook(path, *, title="Demo", tables=(), png=PNG, heading="Dose and response"):
    data = [table._repr_mimebundle_() for table in tables]
    outputs = [new_output("display_data", data=d, metadata=m) for d, m in data]
    figure = new_output("display_data", data={"image/png": png, "text/plain": "<Figure>"})
    cells = [
        new_markdown_cell(f"# {title}\n\n```python\n# not a heading\n```"),
        new_markdown_cell(f"## {heading}"),
        new_code_cell("plot()", outputs=[figure] if png else []),
        new_code_cell("claims", outputs=outputs),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)


def write_record(folder, job, state="done", **fields):
    record = {
        "job": job,
        "notebook": job,
        "parameters": {"preset": "cpu", "seed": 0},
        "state": state,
        "seconds": 41.0,
        "error": "",
        "output": f"{job}.ipynb" if state in ("done", "cached") else None,
        "started": "2026-11-02T10:00:00+00:00",
        "finished": "2026-11-02T10:05:12+00:00",
        "key": "0123",
    } | fields
    (folder / "jobs").mkdir(parents=True, exist_ok=True)
    (folder / "jobs" / f"{job}.json").write_text(json.dumps(record))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty results folder; nbconvert, which is slow, is replaced by a one-line page."""
    monkeypatch.setenv("FLATLAB_RESULTS", str(tmp_path / "none"))

    def quick(notebook):
        page = notebook.with_suffix(".html")
        page.write_text("<p>notebook</p>")
        return page

    monkeypatch.setattr(report, "export_html", quick)
    path = tmp_path / "results" / "cpu"
    path.mkdir(parents=True)
    return path


class Checker(HTMLParser):
    """Collects tags and fails on elements that are not closed in order."""

    VOID = ("meta", "img", "br", "link", "rect", "line", "circle")

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes = [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag


def build(folder, **options):
    path = report.build_report(folder, **options)
    assert path == folder / "index.html"
    text = path.read_text(encoding="utf-8")
    return text, Checker(text)


def test_claims_with_all_their_parts(folder):
    write_notebook(folder / "01_demo.ipynb", tables=[claim_table()])
    write_record(folder, "01_demo")
    text, page = build(folder, title="What held")
    for part in (
        "<title>What held: cpu</title>",
        "✓ supported",
        "✗ contradicted",
        "? inconclusive",
        "– not run",
        "[−0.5, −0.3]",
        "p = 0.01",
        "47.04",
        '−2</span><span class="small">points</span>',
        "our own claim",
        "5 seeds",
        "1 of 1 job ran to the end",
        "6 claims",
        "10 random trials",
        "9 seeds × images",
        "paper, abstract; family pair",
        "speaks for other nets",
        "exploratory: best of 13",
        '? inconclusive</span><span class="small">exploratory</span>',
        f"<span>{sum(claim.fragile for claim in claim_table().claims)} fragile</span><span>1 exploratory</span>",
        '✓ supported</span><span class="small">fragile</span>',
        "could have seen 1.43",
        "could have seen: the smallest distance",
        "none, high &lt; 0.1",
        "<summary>Changes of the rules (1)</summary><ul><li>2026-11-26, C1 C2: a threshold, before any run</li></ul>",
        "finished 2026-11-02 10:05 UTC",
        "seed = 0",
        '<a href="01_demo.html">',
        '<a href="01_demo.ipynb">',
        "2 CPU cores",
    ):
        assert part in text, part
    assert page.tags.count("svg") == 5  # all but the claim without an estimate
    assert page.tags.count("h1") == 1
    assert "without a result" not in text


def test_page_is_one_file_without_scripts(folder):
    write_notebook(folder / "01_demo.ipynb", tables=[claim_table()])
    write_record(folder, "01_demo")
    text, page = build(folder)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert "@import" not in text
    assert "url(" not in text
    sources = [value for tag, name, value in page.attributes if name == "src"]
    assert sources == [f"data:image/png;base64,{PNG}"]
    assert not [value for _, name, value in page.attributes if name.startswith("on")]
    assert ("img", "alt", "Dose and response") in page.attributes
    assert "<figcaption>Dose and response</figcaption>" in text
    assert 'width="560" height="200"' in text
    assert '<figure class="wide" style="max-width: 560px">' in text


@pytest.mark.parametrize("state", STATES)
def test_jobs_without_a_result_come_first(folder, state):
    write_notebook(folder / "01_demo.ipynb", tables=[claim_table()])
    write_record(folder, "01_demo")
    noise = "\n".join(f"frame {i}" for i in range(40))
    write_record(folder, "09_bad", state, error=f"{noise}\n\x1b[31mValueError\x1b[0m: eps is <nan>", seconds=None)
    text, _ = build(folder)
    first = text.index(f'09_bad: <span class="state">{state}</span>')
    assert first < text.index('<section class="job" id="01_demo">')
    assert "ValueError: eps is &lt;nan&gt;" in text
    assert "frame 39" in text
    assert "frame 5\n" not in text
    assert "1 of 2 jobs ran to the end" in text


def test_a_partial_notebook_is_shown_but_not_counted(folder):
    write_notebook(folder / "failed" / "03_part.ipynb", title="Part", tables=[claim_table()])
    write_record(folder, "03_part", "failed", error="boom", output="failed/03_part.ipynb")
    text, _ = build(folder)
    assert 'href="failed/03_part.html"' in text
    assert "counts nowhere" in text
    assert "0 claims" in text
    assert '<div class="tally">' not in text


def test_an_earlier_result_does_not_stand_in_for_a_failed_run(folder):
    write_notebook(folder / "01_demo.ipynb", tables=[claim_table()])
    write_record(folder, "01_demo", "failed", error="boom")
    text, _ = build(folder)
    assert "✓ supported" not in text
    assert "0 of 1 job ran to the end" in text


def test_a_notebook_that_is_not_what_its_run_wrote_counts_nowhere(folder):
    write_notebook(folder / "01_demo.ipynb", tables=[claim_table()])
    write_record(folder, "01_demo", checksum=checksum((folder / "01_demo.ipynb").read_bytes()))
    assert "1 of 1 job ran to the end" in build(folder)[0]
    write_notebook(folder / "01_demo.ipynb", tables=[claim_table("another statement")])
    text, _ = build(folder)
    assert "01_demo.ipynb is not what its run wrote: run it again" in text
    assert "0 of 1 job ran to the end" in text


def test_cached_counts_as_done(folder):
    write_notebook(folder / "01_demo.ipynb", tables=[claim_table()])
    write_record(folder, "01_demo", "cached")
    assert "1 of 1 job ran to the end" in build(folder)[0]


def test_missing_outputs_and_missing_jobs(folder):
    write_record(folder, "06_gone")
    text, _ = build(folder, expected=["07_never"])
    assert '06_gone: <span class="state">missing</span>' in text
    assert '07_never: <span class="state">missing</span>' in text
    assert "2 jobs without a result" in text


def test_notebooks_without_a_record_are_shown(folder):
    write_notebook(folder / "01_demo.ipynb", tables=[claim_table()])
    text, _ = build(folder)
    assert "no record" in text
    assert "✓ supported" in text
    assert "without a result" not in text


@pytest.mark.parametrize("content", ["{", "[]", '{"cells": 3}', '{"cells": [{}]}', ""])
def test_a_corrupt_notebook_is_listed_and_hides_nothing(folder, content):
    write_notebook(folder / "01_demo.ipynb", tables=[claim_table()])
    write_record(folder, "01_demo")
    (folder / "02_bad.ipynb").write_text(content)
    write_record(folder, "02_bad")
    text, _ = build(folder)
    assert '02_bad: <span class="state">unreadable notebook</span>' in text
    assert "✓ supported" in text


def test_a_corrupt_record_is_listed(folder):
    (folder / "jobs").mkdir()
    (folder / "jobs" / "01_demo.json").write_text("{")
    (folder / "jobs" / "02_demo.json").write_text("{}")
    text, _ = build(folder)
    assert text.count('<span class="state">unreadable record</span>') == 2


def test_a_verdict_that_does_not_follow_is_a_problem(folder):
    write_notebook(folder / "01_demo.ipynb", tables=[claim_table()])
    path = folder / "01_demo.ipynb"
    path.write_text(path.read_text().replace('"verdict": "contradicted"', '"verdict": "supported"'))
    text, _ = build(folder)
    assert "does not follow from the numbers" in text
    assert "unreadable notebook" in text


def test_hostile_text_stays_text(folder):
    table = ClaimTable(
        [Claim("C1", EVIL, less(0), exact(1), **dict.fromkeys(("where", "note", "unit", "paper_value", *MORE), EVIL))],
        paper="01_demo",
        preset=EVIL,
        title=EVIL,
        device=EVIL,
        environment={EVIL: EVIL},
        changes=[Change(EVIL, EVIL, EVIL)],
    )
    write_notebook(folder / "01_demo.ipynb", tables=[table], title=EVIL, heading=EVIL)
    write_record(folder, "01_demo", parameters={EVIL: EVIL})
    write_record(folder, "02_bad", EVIL, error=EVIL)
    text, page = build(folder, title=EVIL)
    assert "script" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 12


@pytest.mark.parametrize("png", ['"><script>alert(1)</script>', 'AAA" onload="x', "not base64!"])
def test_pictures_that_are_not_base64_are_left_out(folder, png):
    write_notebook(folder / "01_demo.ipynb", tables=[claim_table()], png=png)
    assert "img" not in build(folder)[1].tags


def test_outputs_outside_the_folder_are_not_read(folder):
    write_notebook(folder.parent / "secret.ipynb", title="Secret")
    write_record(folder, "01_demo", output="../secret.ipynb")
    text, _ = build(folder)
    assert "Secret" not in text
    assert "missing" in text


def test_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="run some first"):
        report.build_report(tmp_path / "none")


def test_empty_folder_gives_a_page(folder):
    assert "0 of 0 jobs" in build(folder)[0]


def test_exported_notebook_is_complete_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("FLATLAB_RESULTS", str(tmp_path / "none"))
    path = tmp_path / "01_demo.ipynb"
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "c1.png").write_bytes(b"recorded")
    write_notebook(path, tables=[claim_table()], title="![a](results/c1.png) ![b](results/gone.png)")
    page = report.export_html(path)
    text = page.read_text(encoding="utf-8")
    assert page == tmp_path / "01_demo.html"
    assert PNG in text
    assert "✓ supported" in text
    assert "require.min.js" not in text
    assert base64.b64encode(b"recorded").decode() in text
    assert 'src="results/gone.png"' in text, "a picture that is missing is missing, and breaks nothing"
    stamp = page.stat().st_ctime_ns
    assert report.export_html(path).stat().st_ctime_ns == stamp  # up to date: not written again
    time.sleep(0.01)
    write_notebook(path, title="Changed")
    assert "Changed" in report.export_html(path).read_text(encoding="utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["01_demo.html", "01_demo.ipynb", "results"]


def test_a_column_of_the_papers_values_only_where_there_are_some(folder):
    table = ClaimTable([Claim("C1", "s", less(0), exact(1))], paper="01_demo", preset="cpu")
    write_notebook(folder / "01_demo.ipynb", tables=[table])
    assert "paper&#x27;s value" not in build(folder)[0]


def test_nothing_that_may_be_long_is_kept_on_one_line():
    """In a browser: tests/lab. Here the rules that made a phone scroll sideways."""
    rules = dict(re.findall(r"^(\S[^{}]*?) \{([^}]*)\}", CSS, re.M))
    assert not [name for name in ("nav .strip", ".small", "td .small", "body") if "nowrap" in rules[name]]
    assert "overflow-wrap: anywhere" in rules["nav .strip"]
    assert "max-width: 100%" in rules[".interval"]


def positions(svg, css):
    (tag,) = re.findall(rf'<\w+ class="{css}"[^>]*>', svg)
    return {name: float(value) for name, value in re.findall(r'\b(x|x1|x2|cx|width)="([-\d.]+)"', tag)}


def test_interval_bar_is_to_scale():
    svg = interval_svg(Estimate(2, 1, 3, 5), greater(0), "good")
    span, point, bound, zone = (positions(svg, css) for css in ("span", "point", "bound", "zone"))
    unit = (span["x2"] - span["x1"]) / 2
    assert point["cx"] - span["x1"] == pytest.approx(unit, abs=0.2)
    assert span["x1"] - bound["x1"] == pytest.approx(unit, abs=0.2)
    assert zone["x"] == bound["x1"]  # the wanted side is right of the threshold
    assert zone["x"] + zone["width"] == pytest.approx(190)
    left = positions(interval_svg(Estimate(2, 1, 3, 5), less(0), "bad"), "zone")
    assert left["x"] == 0
    never_zone = positions(interval_svg(Estimate(0, 0, 0.05, 59), never(0.1), "good"), "zone")
    assert never_zone["x"] == 0
    assert never_zone["width"] < 190
    for degenerate in (exact(0.0), exact(5.0), Estimate(0, None, None, 1)):
        assert 'class="span"' not in interval_svg(degenerate, greater(0), "good")


def test_durations_read_well():
    assert [duration(s) for s in (0.42, 41, 120, 200.4, 3600, 7500)] == [
        "0.4 s",
        "41 s",
        "2 min",
        "3 min 20 s",
        "1 h",
        "2 h 5 min",
    ]
