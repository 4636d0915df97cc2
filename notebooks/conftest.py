"""What `pytest --nbval-lax` compares in these notebooks: the verdicts, not how they are drawn.

A cell tagged `nbval-check-output` must give the same claims (application/vnd.flatlab.claims+json) as the stored
notebook. HTML and pictures differ between library versions and hold measured numbers: they are left out.

A processor that rounds differently may change a verdict that hangs by a hair. So a changed verdict passes, with a
warning, if the claim is marked as fragile in the stored notebook or in this run, and if it moved by one step only:
supported - inconclusive - contradicted. The mark itself is computed from such numbers, and not compared.
"""

import copy
import functools
import warnings

from flatlab.claims import MIME

NOT_COMPARED = ("text/html", "text/latex", "image/png", "image/jpeg", "image/svg+xml")
STEPS = ("supported", "inconclusive", "contradicted")


def pytest_collectstart(collector):
    # only nbval's notebook collector has this attribute; session, folders and modules do not
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += NOT_COMPARED


def pytest_itemcollected(item):
    # only nbval's cells have this method
    if hasattr(item, "compare_outputs"):
        item.compare_outputs = functools.partial(_compare, item.compare_outputs)


def _compare(compare, now, stored, skip_compare=None):
    """nbval's comparison of a cell's outputs, after what may change has been put back to what was stored."""
    before = [output["data"] for output in stored if MIME in output.get("data", {})]
    now = copy.deepcopy(now)
    after = [output["data"] for output in now if MIME in output.get("data", {})]
    for old, new in zip(before, after, strict=False):  # another number of tables is for nbval to find
        for line in settle(old[MIME], new[MIME]):
            warnings.warn(line, stacklevel=1)
        if old[MIME] == new[MIME]:
            new["text/plain"] = old["text/plain"]  # the same claims as text, with marks
    return compare(now, stored, skip_compare)


def settle(stored, now):
    """Put verdicts that may change, and all marks, of `now` back to those of `stored`; a sentence for each verdict."""
    claims, said = {claim["id"]: claim for claim in stored["claims"]}, []
    for claim in now["claims"]:
        old = claims.get(claim["id"], claim)
        hair = old.get("fragile") or claim.get("fragile")
        before, after = old["verdict"], claim["verdict"]
        if before != after and hair and {before, after} <= set(STEPS):
            if abs(STEPS.index(before) - STEPS.index(after)) > 1:
                continue
            said.append(f"{claim['id']} is fragile: its verdict was {before!r}, and is {after!r} here")
            claim["verdict"] = before
        if claim["verdict"] == before and "fragile" in old:
            claim["fragile"] = old["fragile"]
    return said


def pytest_assertrepr_compare(op, left, right):
    """For two claim tables, say which claims differ and how, in place of a diff of long dictionaries."""
    if op != "==" or not (_is_claims(left) and _is_claims(right)):
        return None
    stored, now = ({claim["id"]: claim for claim in side["claims"]} for side in (left, right))
    lines = ["the claims are not those of the stored notebook"]
    for name in dict.fromkeys([*stored, *now]):
        if name not in stored or name not in now:
            lines.append(f"{name}: only {'stored' if name in stored else 'in this run'}")
            continue
        for field in dict.fromkeys([*stored[name], *now[name]]):
            before, after = stored[name].get(field), now[name].get(field)
            if before != after:
                lines.append(f"{name}: {field} was {before!r}, is now {after!r}")
    return lines


def _is_claims(value):
    claims = value.get("claims") if isinstance(value, dict) else None
    return isinstance(claims, list) and all(isinstance(claim, dict) and "id" in claim for claim in claims)
