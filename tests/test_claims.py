"""Claims: what a notebook shows, what is stored with it, and what is recorded across presets."""

import json
import math
import os

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from flatlab import claims
from flatlab.claims import MIME, Claim, ClaimTable, from_notebook, load_recorded, record, recorded
from flatlab.stats import Estimate, exact, greater, less

SEEN = Estimate(-0.42137, -0.51239, -0.33035, 5, 0.00031, "paired t, 95 %")
VERSIONS = claims.versions()
HOSTILE = "<script>alert(1)</script> | a & b"


@pytest.fixture(autouse=True)
def _no_recorded_results(tmp_path, monkeypatch):
    monkeypatch.setenv("FLATLAB_RESULTS", str(tmp_path / "recorded"))


def table(preset="quick", paper="01_demo", verdicts=(SEEN, None), **options):
    return ClaimTable(
        [
            Claim("C1", "training on attacks flattens", less(0), verdicts[0], paper_value=-0.5, unit="nats"),
            Claim("C2", "nothing was measured", greater(0), verdicts[1], source="ours", note="needs a GPU"),
        ],
        paper=paper,
        preset=preset,
        seeds=range(5),
        **{"environment": VERSIONS} | options,
    )


def notebook(tab):
    data, metadata = tab._repr_mimebundle_()
    output = new_output("execute_result", data=data, metadata=metadata, execution_count=1)
    return new_notebook(cells=[new_code_cell("claims", outputs=[output], execution_count=1)])


def test_text_has_verdicts_and_no_numbers():
    data, _ = table()._repr_mimebundle_()
    assert data["text/plain"].splitlines() == [
        "C1  ✓ supported     training on attacks flattens",
        "C2  – not run       nothing was measured",
    ]


def test_json_is_the_same_for_other_numbers_with_the_same_verdicts():
    one, meta = table()._repr_mimebundle_()
    other, other_meta = table(verdicts=(Estimate(-0.1, -0.2, -0.05, 5), None))._repr_mimebundle_()
    assert one[MIME] == other[MIME]
    assert one["text/plain"] == other["text/plain"]
    assert meta != other_meta
    assert one[MIME]["claims"][0] == {
        "id": "C1",
        "statement": "training on attacks flattens",
        "source": "paper",
        "where": "abstract",
        "family": "",
        "exploratory": "",
        "rule": "high < 0",
        "verdict": "supported",
        "fragile": False,
    }
    assert not any(isinstance(value, float) for claim in one[MIME]["claims"] for value in claim.values())


def test_json_changes_with_a_verdict():
    changed = table(verdicts=(Estimate(0.1, 0.05, 0.2, 5), None))._repr_mimebundle_()[0]
    assert changed[MIME]["claims"][0]["verdict"] == "contradicted"
    assert changed[MIME] != table()._repr_mimebundle_()[0][MIME]


def test_metadata_carries_numbers_versions_and_preset():
    meta = table(device="cpu")._repr_mimebundle_()[1][MIME]
    assert meta["preset"] == "quick"
    assert meta["seeds"] == [0, 1, 2, 3, 4]
    assert meta["device"] == "cpu"
    assert {"python", "flatlab", "torch", "numpy"} <= set(meta["environment"])
    assert meta["numbers"][0]["estimate"]["low"] == SEEN.low
    assert meta["numbers"][1]["estimate"] is None


def test_bundle_is_a_valid_notebook_output_of_strict_json():
    nbformat.validate(notebook(table()))
    data, metadata = table()._repr_mimebundle_()
    json.dumps([data, metadata], allow_nan=False)


def test_ipython_shows_exactly_this_bundle():
    from IPython.core.interactiveshell import InteractiveShell

    data, metadata = InteractiveShell.instance().display_formatter.format(table())
    own, own_metadata = table()._repr_mimebundle_()
    assert data == own
    assert metadata == own_metadata


def test_html_states_everything_and_escapes():
    hostile = Claim(
        "C<3>", HOSTILE, greater(0), exact(1), where=HOSTILE, unit="<u>", note=HOSTILE, paper_value="<b>5</b>"
    )
    html = ClaimTable([hostile, *table().claims], paper="<p>", preset="<q>", title=HOSTILE)._repr_mimebundle_()[0][
        "text/html"
    ]
    for tag in ("<script", "<b>5", "<u>", "<q>", "<p>", "C<3>"):
        assert tag not in html
    for part in (
        "paper&#x27;s value",
        "−0.421 nats",
        "[−0.512, −0.33]",
        "p &lt; 0.001",
        "high &lt; 0",
        "✓ supported",
        "– not run",
    ):
        assert part in html
    assert "needs a GPU" in html
    assert "our own claim" in html


def test_verdicts_of_other_presets_stand_beside(tmp_path):
    record([table("gpu"), table("gpu", "02_other")], "gpu", tmp_path / "recorded")
    record([table("quick")], "quick", tmp_path / "recorded")
    html = table("quick")._repr_mimebundle_()[0]["text/html"]
    assert "recorded: gpu" in html
    assert "recorded: quick" not in html  # this run's own preset is the table itself
    assert html.count("✓ supported") == 2
    stricter = ClaimTable([Claim("C1", "s", less(-1), SEEN)], paper="01_demo", preset="quick")
    assert "by another rule: high &lt; 0" in stricter._repr_mimebundle_()[0]["text/html"]


def test_corrupt_records_are_reported_and_break_nothing(tmp_path, recwarn):
    folder = tmp_path / "recorded"
    folder.mkdir()
    record([table("cpu")], "cpu", folder)
    (folder / "gpu.json").write_text("{not json")
    (folder / "full.json").write_text('{"schema": 2, "papers": {"01_demo": {"claims": [{"id": "C1"}]}}}')
    (folder / "old.json").write_text("[]")
    html = table()._repr_mimebundle_()[0]["text/html"]
    assert "recorded: cpu" in html
    assert "gpu.json cannot be read" in html
    assert not recwarn.list  # text on stderr would fail the notebook's regression test
    with pytest.warns(UserWarning, match=r"full\.json cannot be read .*lacks statement"):
        found = load_recorded("01_demo")
    assert list(found) == ["cpu"]
    with pytest.raises(ValueError, match=r"gpu\.json cannot be read.*; delete .*gpu\.json first"):
        record([table("gpu")], "gpu", folder)


def test_no_records_at_all(tmp_path):
    assert load_recorded("01_demo") == {}


def test_folders_are_tried_in_order(tmp_path, monkeypatch):
    monkeypatch.delenv("FLATLAB_RESULTS")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "cpu").mkdir(parents=True)  # the runner's folder holds no recorded files
    record([table("cpu", "nested")], "cpu", tmp_path / "notebooks" / "results")
    assert list(load_recorded("nested")) == ["cpu"]
    record([table("gpu", "near")], "gpu", tmp_path / "results")
    assert load_recorded("nested") == {}
    assert list(load_recorded("near")) == ["gpu"]
    monkeypatch.setenv("FLATLAB_RESULTS", str(tmp_path / "empty"))
    assert load_recorded("near") == {}
    assert list(load_recorded("nested", tmp_path / "notebooks" / "results")) == ["cpu"]


def test_record_merges_by_notebook(tmp_path):
    record([table("cpu", "02_b")], "cpu", tmp_path, seconds={"02_b": 3.5})
    path = record([table("cpu", "01_a")], "cpu", tmp_path)
    record([table("cpu", "02_b", (Estimate(1, 0.5, 2, 5), None))], "cpu", tmp_path, seconds={"02_b": 4.0})
    content = json.loads(path.read_text())
    assert (content["schema"], content["preset"], list(content["papers"])) == (2, "cpu", ["01_a", "02_b"])
    assert content["papers"]["02_b"]["seconds"] == 4.0
    assert content["papers"]["02_b"]["claims"][0]["verdict"] == "contradicted"
    assert os.listdir(tmp_path) == ["cpu.json"]
    with pytest.raises(ValueError, match="preset 'quick', not 'cpu'"):
        record([table("quick")], "cpu", tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = record([table("cpu")], "cpu", tmp_path)
    before = path.read_text()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        record([table("cpu", "02_b")], "cpu", tmp_path)
    assert path.read_text() == before
    assert os.listdir(tmp_path) == ["cpu.json"]


def test_presets_come_in_their_order(tmp_path):
    for preset in ("zoo", "full", "real", "quick", "gpu", "cpu"):
        record([table(preset)], preset, tmp_path)
    assert list(recorded(tmp_path)) == ["quick", "cpu", "real", "gpu", "full", "zoo"]


def test_round_trips(tmp_path):
    tab = table(title="T", device="cpu")
    assert ClaimTable.from_dict(json.loads(json.dumps(tab.to_dict()))).to_dict() == tab.to_dict()
    path = tmp_path / "n.ipynb"
    nbformat.write(notebook(tab), path)
    (found,) = from_notebook(json.loads(path.read_text()))
    assert found.to_dict() == tab.to_dict()
    assert from_notebook({"cells": [{"cell_type": "markdown", "source": "x"}]}) == []


def test_a_flipped_verdict_is_noticed():
    content = table().to_dict()
    content["claims"][0]["verdict"] = "contradicted"
    with pytest.raises(ValueError, match="'contradicted' does not follow from the numbers"):
        ClaimTable.from_dict(content)


@pytest.mark.parametrize("damage", [{"schema": 1}, {"claims": [{}]}, {"claims": 5}, {"seeds": None}])
def test_unreadable_tables_are_value_errors(damage):
    with pytest.raises(ValueError, match=r"schema|cannot be read"):
        ClaimTable.from_dict(table().to_dict() | damage)


def test_notebook_without_its_numbers_is_a_value_error():
    data, _ = table()._repr_mimebundle_()
    with pytest.raises(ValueError, match="cannot be read"):
        from_notebook({"cells": [{"outputs": [{"data": data, "metadata": {}}]}]})


def test_claims_refuse_nonsense():
    for wrong, error in (
        ({"id": " C1"}, ValueError),
        ({"statement": ""}, ValueError),
        ({"rule": "low > 0"}, TypeError),
        ({"estimate": 0.5}, TypeError),
        ({"source": "theirs"}, ValueError),
        ({"paper_value": math.nan}, ValueError),
    ):
        with pytest.raises(error):
            Claim(**{"id": "C1", "statement": "s", "rule": greater(0), "estimate": SEEN} | wrong)
    with pytest.raises(ValueError, match="C1 occur more than once"):
        ClaimTable(table().claims[:1] * 2, paper="p", preset="quick")
    with pytest.raises(ValueError, match="at least one claim"):
        ClaimTable([], paper="p", preset="quick")


def test_counts():
    assert table().counts() == {"supported": 1, "contradicted": 0, "inconclusive": 0, "not run": 1}


TUNED = {"adam": {"lr": 0.03}, "adam_cm": {"lr": 0.01, "capacity": 5}, "budget": 200, HOSTILE: {}}


def test_tuned_values_travel_with_the_numbers_and_are_not_compared():
    plain, meta = table()._repr_mimebundle_()
    data, metadata = table(settings=TUNED)._repr_mimebundle_()
    assert data[MIME] == plain[MIME]
    assert data["text/plain"] == plain["text/plain"]
    assert metadata[MIME] == meta[MIME] | {"settings": TUNED}
    json.dumps([data, metadata], allow_nan=False)
    assert "<details><summary>tuned in this run</summary>" in data["text/html"]
    assert "adam: lr = 0.03<br>adam_cm: lr = 0.01, capacity = 5<br>budget: 200<br>" in data["text/html"]
    assert "<script" not in data["text/html"]
    assert "<details" not in plain["text/html"]


def test_tuned_values_are_recorded_and_read_again(tmp_path):
    tab = table("cpu", settings=TUNED)
    (found,) = from_notebook(json.loads(nbformat.writes(notebook(tab))))
    assert found.settings == TUNED
    assert ClaimTable.from_dict(json.loads(json.dumps(tab.to_dict()))).to_dict() == tab.to_dict()
    record([found, table("cpu", "02_untuned")], "cpu", tmp_path)
    papers = recorded(tmp_path)["cpu"]["papers"]
    assert (papers["01_demo"]["settings"], papers["02_untuned"]["settings"]) == (TUNED, {})


@pytest.mark.parametrize("settings", [{"lr": math.nan}, {"lr": {1, 2}}, {"optimizer": ClaimTable}, [1]])
def test_settings_that_json_cannot_hold_are_refused(settings):
    with pytest.raises(ValueError, match="01_demo: settings must be plain JSON values by name"):
        table(settings=settings)


HAIR = Estimate(-0.42, -0.85, -0.01, 5, 0.04, "paired t, 95 %", 0.95, (-1.2, -0.7, -0.1, 0.2))


def test_a_fragile_verdict_is_marked_wherever_it_is_shown(tmp_path):
    tab, firm = table("cpu", verdicts=(HAIR, None)), table("cpu")
    assert repr(tab).splitlines()[0].endswith("flattens (fragile)")
    assert tab._repr_html_().count("<small>fragile</small>") == 1
    assert "fragile: the verdict would be another one" in tab._repr_html_()
    assert "fragile" not in firm._repr_html_() + repr(firm)
    record([tab], "cpu", tmp_path)
    (claim,) = [c for c in load_recorded("01_demo", tmp_path)["cpu"]["claims"] if c["id"] == "C1"]
    assert claim["fragile"] is True
    assert claim["estimate"]["without"] == [-1.2, -0.7, -0.1, 0.2]
    (read,) = from_notebook(notebook(tab))
    assert read.claims == tab.claims


def test_a_mark_that_does_not_follow_is_refused():
    content = table(verdicts=(HAIR, None)).to_dict()
    content["claims"][0]["fragile"] = False
    with pytest.raises(ValueError, match="C1: the mark fragile=False does not follow"):
        ClaimTable.from_dict(content)


def test_two_runs_compared_claim_by_claim(tmp_path):
    moved = Estimate(*(end - 1e-9 for end in (SEEN.value, SEEN.low, SEEN.high)), SEEN.n, SEEN.p, SEEN.kind)
    old = claims.read_claims(record([table("cpu"), table("cpu", "02_b")], "cpu", tmp_path))
    assert claims.compare(old, old) == []
    (tmp_path / "run").mkdir()
    nbformat.write(notebook(table(verdicts=(moved, None))), tmp_path / "run" / "01_demo.ipynb")
    new = claims.read_claims(tmp_path / "run")
    assert claims.read_claims(tmp_path / "run" / "01_demo.ipynb") == new
    found = [(d.paper, d.id, d.what) for d in claims.compare(old, new)]
    assert found == [("01_demo", "C1", "numbers"), ("02_b", "C1", "missing"), ("02_b", "C2", "missing")]
    (flipped,) = claims.compare(
        new, claims.read_claims(record([table("gpu", verdicts=(moved, SEEN))], "gpu", tmp_path))
    )
    assert (flipped.id, flipped.what, flipped.old) == ("C2", "verdict", "not run")
    assert flipped.new == "contradicted: -0.42137 [-0.51239, -0.33035], n = 5"


def test_what_cannot_be_compared_is_said(tmp_path):
    with pytest.raises(ValueError, match="holds no claims"):
        claims.read_claims(tmp_path)
    for name in ("01_demo", "01_demo-seed1"):
        nbformat.write(notebook(table()), tmp_path / f"{name}.ipynb")
    with pytest.raises(ValueError, match="twice"):
        claims.read_claims(tmp_path)
    with pytest.raises(FileNotFoundError):
        claims.read_claims(tmp_path / "gone.json")
