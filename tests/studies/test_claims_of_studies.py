"""What the claims of every study must say, and what must be recorded of them."""

import importlib
import re
from datetime import date
from pathlib import Path

import pytest

from flatlab import claims, stats, studies

RESULTS = Path(__file__).parents[2] / "notebooks" / "results"
PAPERS = {study: next(RESULTS.parent.glob(f"*_{study}.ipynb")).stem for study in studies.available()}


@pytest.fixture(params=studies.available())
def study(request):
    return request.param


@pytest.fixture
def module(study):
    return importlib.import_module(f"flatlab.studies.{study}.claims")


def test_every_claim_is_a_sentence_with_its_unit_and_population(module):
    for claim in module.CLAIMS:
        assert claim.unit, f"{claim.id}: the unit of its estimate"
        assert claim.units, f"{claim.id}: what its n counts"
        assert claim.population, f"{claim.id}: for whom its interval speaks"
        first, *rest = claim.statement.split()
        assert len(rest) >= 3, claim.id
        assert first[0].isupper() or first[0].isdigit(), f"{claim.id}: a whole sentence begins with a capital letter"
        assert first not in ("And", "So", "Than", "Also", "Nor", "None", "It", "They", "Both", "Without"), (
            f"{claim.id}: a sentence that stands alone does not begin with {first!r}"
        )


def test_families_have_members(module):
    families = [claim.family for claim in module.CLAIMS if claim.family]
    assert all(families.count(family) > 1 for family in families)


def test_an_exploratory_claim_says_why(module):
    assert all(len(claim.exploratory.split()) > 3 for claim in module.CLAIMS if claim.exploratory)


def test_changes_of_the_rules_are_dated_and_name_claims(module):
    dates = [date.fromisoformat(change.date) for change in module.CHANGES]
    assert dates == sorted(dates)
    for change in module.CHANGES:
        assert change.ids.split(), change
        assert all(re.fullmatch(r"C\d+(\.\d+)?", name) for name in change.ids.split()), change.ids
        assert len(change.what.split()) > 5, change


@pytest.mark.parametrize("preset", sorted(path.stem for path in RESULTS.glob("*.json")))
def test_every_recorded_verdict_follows_from_the_recorded_values(preset):
    assert claims.recompute(RESULTS / f"{preset}.json") == []


@pytest.mark.parametrize("preset", sorted(path.stem for path in RESULTS.glob("*.json")))
def test_the_record_asked_what_the_claims_ask_now(study, module, preset):
    recorded = claims.load_recorded(PAPERS[study], RESULTS).get(preset)
    if recorded is not None:
        now = claims.ClaimTable(module.CLAIMS, paper=PAPERS[study], preset=preset)
        assert recorded["hashes"]["rules"] == now.hashes["rules"], "the rules changed: record the notebook again"
        assert {"threads", "processor", "peak memory"} <= set(recorded["environment"])
        assert recorded["config"]["seeds"]


def test_rules_of_trials_are_for_trials(module):
    """A maximum over random samples is judged by `never`, and only by it."""
    for claim in module.CLAIMS:
        if claim.rule.kind == "never":
            assert 0 < claim.rule.bounds[0] <= 0.3, claim.id
            assert stats.verdict(stats.clean_trials([0.0]), claim.rule) == "inconclusive", claim.id
