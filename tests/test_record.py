"""The record: every verdict can be made again from it, and prose takes its numbers from it."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from flatlab import claims, stats
from flatlab.claims import Change, Claim, ClaimTable
from flatlab.stats import greater, never, within

RNG = np.random.default_rng(0)
A, B = RNG.normal(1, 1, (2, 8)), RNG.normal(0, 1, (2, 8))
HITS = RNG.random((2, 4, 30)) < 0.8
CHANGES = (Change("2026-11-26", "C1.1 C1.2", "now over eight seeds"),)


@dataclasses.dataclass(frozen=True)
class Config:
    seeds: tuple[int, ...] = (1, 2)
    score: object = np.mean
    make: object = functools.partial(np.quantile, q=0.5)


def table(**options):
    made = [
        Claim("C1.1", "One is better.", greater(0), stats.paired_difference(A[0], B[0]), family="C1", unit="nats"),
        Claim("C1.2", "The other, too.", greater(0), stats.paired_difference(A[1], B[1]), family="C1"),
        Claim("C2", "As good.", within(-0.3, 0.3), stats.equivalence(*HITS)),
        Claim("C3", "No trial failed.", never(0.1), stats.clean_trials(np.linspace(-1, 0, 30), tolerance=1e-6)),
        Claim("C4", "All of them.", greater(0), stats.smallest([stats.mean(A[0]), stats.mean(A[1])])),
        Claim("C5", "Nothing was measured.", greater(0)),
        Claim("C6", "An identity.", within(0, 0), stats.exact(0.0)),
    ]
    return ClaimTable(made, paper="01_demo", preset="cpu", **options)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FLATLAB_RESULTS", str(tmp_path))
    claims.record([table(config=Config(), changes=CHANGES)], "cpu", tmp_path)
    return tmp_path


def test_a_table_adjusts_its_families():
    found = {claim.id: claim for claim in table().claims}
    alone = {claim.id: stats.recompute(claim.estimate.source) for claim in found.values() if claim.estimate}
    assert found["C1.1"].estimate.low == alone["C1.1"].at(0.975).low
    assert found["C4"].estimate.low == alone["C4"].low  # a family of its own
    raw = [stats.p_value(alone[name], greater(0)) for name in ("C1.1", "C1.2")]
    assert [found[name].estimate.p for name in ("C1.1", "C1.2")] == pytest.approx(stats.holm(raw))
    again = ClaimTable(found.values(), paper="01_demo", preset="cpu")
    assert again.claims == table().claims  # and does not adjust twice


def test_every_verdict_is_derived_again(folder):
    assert claims.recompute(folder / "cpu.json") == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda estimate: estimate["source"].update(a="9 9 9 9 9 9 9 8"), "numbers"),
        (lambda estimate: estimate.update(low=estimate["low"] + 1e-6), "numbers"),
        (lambda estimate: estimate.update(p=0.5), "numbers"),
        (lambda estimate: estimate["source"].update(b=estimate["source"]["a"]), "verdict"),
    ],
)
def test_a_record_that_was_touched_is_found(folder, change, what):
    content = json.loads((folder / "cpu.json").read_text())
    change(content["papers"]["01_demo"]["claims"][0]["estimate"])
    (folder / "cpu.json").write_text(json.dumps(content))
    found = claims.recompute(folder / "cpu.json")
    assert (found[0].id, found[0].what) == ("C1.1", what)


def test_a_record_without_values_is_refused(folder):
    content = json.loads((folder / "cpu.json").read_text())
    content["papers"]["01_demo"]["claims"][2]["estimate"]["source"] = None
    (folder / "cpu.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="01_demo: the estimate of C2 has no source"):
        claims.recompute(folder / "cpu.json")


def test_settings_changes_and_hashes_are_recorded(folder):
    found = claims.load_recorded("01_demo")["cpu"]
    assert found["config"] == {"seeds": [1, 2], "score": "numpy.mean", "make": {"numpy.quantile": {"q": 0.5}}}
    assert found["changes"] == [{"date": "2026-11-26", "ids": "C1.1 C1.2", "what": "now over eight seeds"}]
    same, other = table(config=Config()), table(config=Config(seeds=(3,)))
    assert found["hashes"] == same.hashes
    assert (other.hashes["rules"], other.hashes["config"] == same.hashes["config"]) == (same.hashes["rules"], False)
    words = ClaimTable([dataclasses.replace(table().claims[0], statement="x")], paper="p", preset="cpu")
    assert words.hashes["rules"] != same.hashes["rules"]
    read = ClaimTable.from_dict({**found, "schema": 2, "paper": "01_demo", "preset": "cpu"})
    assert (read.hashes, read.changes) == (found["hashes"], CHANGES)


def test_the_environment_says_what_may_change_a_number():
    import torch

    found = claims.environment()
    assert found["threads"] == str(torch.get_num_threads())
    assert {"processor", "vector units", "peak memory", "python", "torch"} <= set(found)
    assert claims.versions().items() <= found.items() or "changed" in found["commit"]


def test_prose_takes_its_numbers_from_the_record(folder):
    text = "{C1.1}, {C1.1.value} of {C1.1.n}: {C1.1.verdict}; {C2:%} and {C2.low:%}; {C5} {C9.9} {x} $e^{x}$"
    found = claims.load_recorded("01_demo")["cpu"]["claims"]
    first, second = found[0]["estimate"], found[2]["estimate"]
    number = claims.render.number
    percent = [f"{100 * second[end]:.1f}".replace("-", "−") for end in ("value", "low", "high")]
    expected = (
        f"{number(first['value'])} [{number(first['low'])}, {number(first['high'])}], {number(first['value'])} of 8: "
        f"{found[0]['verdict']}; {percent[0]} [{percent[1]}, {percent[2]}] and {percent[1]}; "
        "(not recorded) (not recorded) {x} $e^{x}$"
    )
    assert claims.reading("01_demo", text)._repr_markdown_() == expected
    assert claims.reading("02_other", "{C1}")._repr_markdown_() == "(not recorded)"
