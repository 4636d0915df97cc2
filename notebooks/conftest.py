"""What `pytest --nbval-lax` compares in these notebooks: the verdicts, not how they are drawn.

A cell tagged `nbval-check-output` must give the same text and the same claims (application/vnd.flatlab.claims+json) as
the stored notebook. HTML and pictures differ between library versions and hold measured numbers: they are left out.
"""

NOT_COMPARED = ("text/html", "text/latex", "image/png", "image/jpeg", "image/svg+xml")


def pytest_collectstart(collector):
    # only nbval's notebook collector has this attribute; session, folders and modules do not
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += NOT_COMPARED


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
