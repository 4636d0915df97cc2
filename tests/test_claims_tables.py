"""Claims as tables: HTML in a notebook, tally and full table in Markdown, and that the committed pages are current."""

import json
import re
import shutil
from pathlib import Path

import pytest

from flatlab import claims
from flatlab.claims import Change, Claim, ClaimTable
from flatlab.stats import Estimate, exact, greater, less, paired_difference, within

ROOT = Path(__file__).parents[1]
EVIL = "<script>alert(1)</script> | *a* & `b` [c](d) _e_ $f$"


def difference(*values: float) -> Estimate:
    return paired_difference(list(values), [0.0] * len(values))


def write(folder: Path, preset: str, *rows: Claim, paper: str = "01_demo", **options: object) -> None:
    table = ClaimTable(rows, paper=paper, preset=preset, environment={"torch": "2.13"}, **options)
    claims.record([table], preset, folder, seconds={paper: 90.0})


FIRM = Claim(
    "C1.1", "Training on attacks flattens.", less(0), difference(-1.0, -1.1, -0.9, -1.2, -1.05), unit="nats",
    units="seeds x images", population="networks of other seeds", family="C1",
)  # fmt: skip
OPEN = Claim(
    "C1.2", "It keeps accuracy.", within(-0.02, 0.02), difference(-0.05, 0.01, 0.06, 0.0, 0.02), source="ours",
    unit="fraction", units="seeds", population="other digits", family="C1", note="needs a GPU",
)  # fmt: skip
LEAD = Claim(
    "C2",
    "The best measure ranks.",
    greater(0),
    difference(0.1, 0.12, 0.11, 0.105, 0.115),
    exploratory="picked among 13",
)
NONE = Claim("C3", "It scales.", greater(0), population="other digits", paper_value=47.04)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "cpu", FIRM, OPEN, LEAD, NONE, seeds=range(5), device="cpu")
    return tmp_path


def rows(text: str) -> list[list[str]]:
    """Cells of all table rows of a Markdown text; escaped bars do not part them."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_tally_counts_verdicts_and_marks(folder: Path) -> None:
    write(folder, "cpu", NONE, paper="02_other")
    write(folder, "gpu", FIRM)
    table = rows(claims.tally(claims.recorded(folder)))
    assert table[0][:3] == ["preset", "claims", "✓ supported"]
    assert table[2] == ["`cpu`", "5", "2", "0", "1", "2", "0", "1"]
    assert table[3] == ["`gpu`", "1", "1", "0", "0", "0", "0", "0"]
    assert table[4] == ["notebook", "`cpu`", "`gpu`"]
    link = "notebooks/results/README.md#"
    assert table[6] == [f"[01_demo]({link}01_demo)", "2 ✓, 1 ?, 1 –; 1 exploratory", "1 ✓"]
    assert table[7] == [f"[02_other]({link}02_other)", "1 –", ""]
    assert claims.tally({}) == "No results are recorded yet."


def test_the_full_table_shows_all_that_a_record_says(folder: Path) -> None:
    text = claims.full_table(claims.recorded(folder))
    assert "\n## [01_demo](../01_demo.ipynb)\n" in text
    assert "- `cpu`: seeds 0 to 4; cpu; 1.5 minutes; torch 2.13\n" in text
    head, _, firm, still_open, lead, none = rows(text)[-6:]
    assert head == ["claim", "source", "unit", "rule", "`cpu`", "paper's value"]
    assert firm[0] == "**C1.1** Training on attacks flattens.<br><small>family C1</small>"
    assert firm[1:4] == ["paper, abstract", "nats", "`high < 0`"]
    assert re.fullmatch(
        r"✓ supported<br>−1\.05 \[−1\.\d+, −0\.\d+\]<br><small>n = 5 seeds × images <sup>a</sup>; .*%.*; p .*</small>",
        firm[4],
    )
    assert firm[5] == "–"
    assert "<small>needs a GPU</small>" in still_open[0]
    assert still_open[1] == "ours"
    assert re.search(r"n = 5 seeds <sup>b</sup>;.*could have seen 0\.\d+</small>$", still_open[4])
    assert lead[0].endswith("<small>exploratory: picked among 13</small>")
    assert lead[4].startswith("✓ supported, exploratory<br>0.11 ")
    assert none[4:] == ["– not run", "47.04"]
    assert "The intervals speak for\n\n- a: networks of other seeds\n- b: other digits\n" in text + "\n"
    for word in ("fragile", "exploratory", "could have seen", "family"):
        assert f"- *{word}*: " in text


def test_the_table_of_a_notebook_shows_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLATLAB_RESULTS", str(folder))
    html = ClaimTable([FIRM, OPEN, LEAD, NONE], paper="01_demo", preset="quick", environment={})._repr_html_()
    for part in (
        "−1.05 nats", "5 seeds × images", "paper, abstract; family C1", "our own claim", "needs a GPU",
        "speaks for networks of other seeds", "exploratory: picked among 13", "<br><small>exploratory</small>",
        "<small>could have seen 0.0", "<p>could have seen: ", "<p>family: ", "<p>exploratory: ", "paper&#x27;s value",
    ):  # fmt: skip
        assert part in html, part
    assert html.count("<br><small>exploratory</small>") == 2, "of this run and of the recorded one"
    assert "<p>fragile: " not in html
    plain = ClaimTable([LEAD], paper="02_other", preset="quick", environment={})._repr_html_()
    assert "paper&#x27;s value" not in plain
    assert "<p>family: " not in plain


def test_presets_stand_side_by_side(folder: Path) -> None:
    stricter = Claim("C1.1", FIRM.statement, less(-0.5), FIRM.estimate, unit="nats")
    write(folder, "gpu", stricter, Claim("C9", "Only here.", within(-1, 1), exact(0.0)), seeds=(0, 2, 3))
    table = {row[0][:6]: row for row in rows(claims.full_table(claims.recorded(folder)))}
    assert "\n- `gpu`: seeds 0, 2, 3; 1.5 minutes; torch" in claims.full_table(claims.recorded(folder))
    assert table["**C1.1"][3] == "`high < -0.5`", "the larger preset says what the claim is"
    assert "by another rule: `high < 0` nats" in table["**C1.1"][4]
    assert "another rule" not in table["**C1.1"][5]
    assert table["**C9**"][4:6] == ["", "✓ supported<br>0 exact<br><small>n = 1</small>"]


def test_a_fragile_verdict_is_marked(tmp_path: Path) -> None:
    write(tmp_path, "cpu", Claim("C1", "s", less(0), difference(-0.2, -1.0, -0.05, -0.9, -0.6)))
    recorded = claims.recorded(tmp_path)
    assert "✓ supported, fragile<br>" in claims.full_table(recorded)
    assert "1 ✓; 1 fragile" in claims.tally(recorded)


def test_changes_of_the_rules_are_folded_away(folder: Path) -> None:
    log = (Change("2026-11-26", "C1.1 C1.2", "now | crossed"), Change("2026-11-27", "C2", "label"))
    for preset in ("cpu", "gpu"):
        write(folder, preset, FIRM, changes=log)
    text = claims.full_table(claims.recorded(folder))
    assert (
        text.count("<details><summary>Changes of the rules (2)</summary>\n\n- 2026-11-26, C1.1 C1.2: now \\| crossed\n")
        == 1
    )
    assert "<details>" not in claims.tally(claims.recorded(folder))


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    names = ("statement", "where", "paper_value", "unit", "units", "population", "exploratory", "note", "family")
    row = Claim("C1", rule=less(0), estimate=exact(1.0), **dict.fromkeys(names, EVIL))
    write(tmp_path, "cpu", row, changes=[Change("d", EVIL, EVIL)], seeds=[1], device=EVIL)
    text = claims.full_table(claims.recorded(tmp_path))
    assert "<script" not in text
    assert "](d)" not in text.replace("\\](d)", "")
    assert len({len(row) for row in rows(text)[-3:]}) == 1
    assert r"\| \*a\* &amp; \`b\` \[c\](d) \_e\_ \$f\$" in text


def test_many_populations_have_a_letter_each(tmp_path: Path) -> None:
    many = [Claim(f"C{i}", "s", less(0), exact(1.0), population=f"p{i}") for i in range(28)]
    write(tmp_path, "cpu", *many)
    text = claims.full_table(claims.recorded(tmp_path))
    assert "\n- z: p25\n- aa: p26\n- bb: p27" in text


def test_a_verdict_that_does_not_follow_is_not_shown(folder: Path) -> None:
    path = folder / "cpu.json"
    path.write_text(path.read_text().replace('"verdict": "supported"', '"verdict": "contradicted"'))
    with pytest.raises(ValueError, match=r"C1\.1: the verdict 'contradicted' does not follow"):
        claims.full_table(claims.recorded(folder))


def test_pages_are_written_once(folder: Path) -> None:
    recorded = claims.recorded(folder)
    readme = folder / "TOP.md"
    readme.write_text("# A\n\n<!-- claims:begin -->\nold\n<!-- claims:end -->\n\nend\n")
    assert [claims.update_readme(readme, recorded) for _ in range(2)] == [True, False]
    tally = claims.tally(recorded)
    assert readme.read_text() == f"# A\n\n<!-- claims:begin -->\n{tally}\n<!-- claims:end -->\n\nend\n"
    assert [claims.update_table(folder, recorded) for _ in range(2)] == [True, False]
    assert (folder / "README.md").read_text() == claims.full_table(recorded)
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="claims:begin"):
        claims.update_readme(readme, recorded)


def test_the_committed_pages_show_the_committed_records(tmp_path: Path) -> None:
    kept = ROOT / "notebooks" / "results"
    recorded = claims.recorded(kept)
    assert "cpu" in recorded
    shutil.copy(ROOT / "README.md", tmp_path / "TOP.md")
    shutil.copy(kept / "README.md", tmp_path)
    assert not claims.update_readme(tmp_path / "TOP.md", recorded), "run make record"
    assert not claims.update_table(tmp_path, recorded), "run make record"


def test_every_picture_that_is_shown_is_there_and_small() -> None:
    kept = ROOT / "notebooks" / "results"
    texts = {ROOT / "README.md": (ROOT / "README.md").read_text()}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "markdown"]
        texts[path] = "\n".join("".join(cell["source"]) for cell in cells)
    for path, text in texts.items():
        for link in re.findall(r"!\[[^\]]*\]\(([^)]*\.png)\)", text):
            assert (path.parent / link).is_file(), f"{path.name} shows {link}: run make record"
    figures = list(kept.glob("*/*/*.png"))
    assert figures
    assert not list(kept.glob("*.png"))
    assert max(figure.stat().st_size for figure in figures) <= 60_000
    assert all(len(list(folder.iterdir())) <= 8 for folder in kept.glob("*/*"))
