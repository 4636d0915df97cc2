"""Two runs, claim by claim: did anything that was measured change?"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flatlab import stats
from flatlab.claims.claim import Claim
from flatlab.claims.records import read_file
from flatlab.claims.table import ClaimTable, from_notebook
from flatlab.stats import Estimate


@dataclass(frozen=True)
class Difference:
    """What differs of one claim.

    Attributes:
        paper, id: of the claim.
        what: "missing", "new", "statement or rule", "verdict", or "numbers" (the verdict is the same).
        old, new: as a reader should see them.
    """

    paper: str
    id: str
    what: str
    old: str
    new: str


def read_claims(path: Path | str) -> dict[tuple[str, str], Claim]:
    """(paper, id) -> claim, of a recorded file (.json), an executed notebook, or all notebooks of a folder.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file that cannot be read, no claims, or one claim twice.
    """
    path = Path(path)
    if path.suffix == ".json":
        papers = read_file(path)["papers"]
        found = [(paper, Claim.from_dict(claim)) for paper, content in papers.items() for claim in content["claims"]]
    else:
        files = sorted(path.glob("*.ipynb")) if path.is_dir() else [path]
        tables = [table for file in files for table in _tables(file)]
        found = [(table.paper, claim) for table in tables for claim in table.claims]
    claims = {(paper, claim.id): claim for paper, claim in found}
    if len(claims) < len(found):
        raise ValueError(f"{path} holds a claim of one paper twice: compare one run of each notebook")
    if not claims:
        raise ValueError(f"{path} holds no claims: give a recorded file, an executed notebook, or a folder of them")
    return claims


def _tables(path: Path) -> list[ClaimTable]:
    try:
        return from_notebook(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, AttributeError) as error:  # no JSON, or other JSON
        raise ValueError(f"{path} cannot be read as a notebook with claims: {error}") from error


def compare(
    old: Mapping[tuple[str, str], Claim], new: Mapping[tuple[str, str], Claim], *, tolerance: float = 0.0
) -> list[Difference]:
    """What differs between two readings of `read_claims`, in the order of the first.

    Args:
        old, new: (paper, id) -> claim.
        tolerance: by how much numbers may differ, relative to 1 + their size; 0 compares to the last digit.
    """
    found = []
    for key in dict.fromkeys([*old, *new]):
        if key not in new or key not in old:
            what = "missing" if key in old else "new"
            found.append(Difference(*key, what, _words(old.get(key)), _words(new.get(key))))
            continue
        before, after = old[key], new[key]
        if (before.statement, before.rule) != (after.statement, after.rule):
            words = (f"{claim.statement} ({claim.rule})" for claim in (before, after))
            found.append(Difference(*key, "statement or rule", *words))
        if before.verdict != after.verdict or not _near(_numbers(before), _numbers(after), tolerance):
            what = "numbers" if before.verdict == after.verdict else "verdict"
            found.append(Difference(*key, what, _words(before), _words(after)))
    return found


def recompute(path: Path | str) -> list[Difference]:
    """Derive every verdict of a record from the values of its units; what differs from what is recorded.

    Args:
        path: a recorded file, an executed notebook, or a folder of them, as in `read_claims`.

    Raises:
        FileNotFoundError, ValueError: as `read_claims`; and an estimate with an interval but without a source.
    """
    recorded = read_claims(path)
    papers: dict[str, list[Claim]] = {}
    for (paper, _), claim in recorded.items():
        papers.setdefault(paper, []).append(claim.measured(_again(paper, claim)))
    tables = [ClaimTable(claims, paper=paper, preset="", environment={}) for paper, claims in papers.items()]
    made = {(table.paper, claim.id): claim for table in tables for claim in table.claims}
    return compare(recorded, made, tolerance=1e-9)


def _again(paper: str, claim: Claim) -> Estimate | None:
    if claim.estimate is None or (claim.estimate.source is None and claim.estimate.low is None):
        return claim.estimate
    if claim.estimate.source is None:
        raise ValueError(f"{paper}: the estimate of {claim.id} has no source: record the notebook again")
    return stats.recompute(claim.estimate.source)


def _near(a: tuple[float | None, ...], b: tuple[float | None, ...], tolerance: float) -> bool:
    if len(a) != len(b) or any((x is None) != (y is None) for x, y in zip(a, b, strict=True)):
        return False
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return all(abs(x - y) <= tolerance * (1 + abs(x)) for x, y in pairs)


def _numbers(claim: Claim) -> tuple[float | None, ...]:
    """What a reader sees of an estimate; nothing of none."""
    e = claim.estimate
    return () if e is None else (e.value, e.low, e.high, e.n, e.p)


def _words(claim: Claim | None) -> str:
    if claim is None:
        return "–"
    if claim.estimate is None:
        return claim.verdict
    e = claim.estimate
    ends = "" if e.low is None else f" [{e.low!r}, {e.high!r}]"
    return f"{claim.verdict}: {e.value!r}{ends}, n = {e.n}"
