"""The table of claims that a notebook displays, and how it is read back."""

import dataclasses
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from flatlab.claims import records, render
from flatlab.claims.claim import Change, Claim
from flatlab.claims.environment import environment as this_environment
from flatlab.stats import VERDICTS, Estimate, judged

MIME = "application/vnd.flatlab.claims+json"
_RULES = ("id", "statement", "rule", "family", "exploratory", "unit", "units", "population")
_STABLE = ("id", "statement", "source", "where", "family", "exploratory", "rule", "verdict", "fragile")


class ClaimTable:
    """The claims of one notebook in one run; display it as the last value of a cell.

    Claims of one family are adjusted here: their intervals hold together, and their p-values are Holm's.

    Args:
        claims: at least one, with distinct ids.
        paper: the notebook's name, which recorded results are filed under: "01_likelihood_landscapes".
        preset: the preset of this run.
        seeds: the seeds that were paired.
        title: heading of the table.
        device: what the run computed on.
        environment: versions and machine; by default those of this process.
        settings: values that the run chose by tuning, such as {"adam": {"lr": 0.03}}; anything that JSON can hold.
            They are recorded with the numbers, and differ from run to run as those do.
        config: the resolved settings of the run, a dataclass or a mapping; recorded as plain values, with their hash.
        changes: dated log of the rules.
    """

    def __init__(
        self,
        claims: Iterable[Claim],
        *,
        paper: str,
        preset: str,
        seeds: Iterable[int] = (),
        title: str = "",
        device: str = "",
        environment: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        config: object = None,
        changes: Iterable[Change] = (),
    ) -> None:
        self.claims = _adjusted(tuple(claims))
        self.paper, self.preset, self.title, self.device = paper, preset, title, str(device)
        self.seeds = tuple(int(seed) for seed in seeds)
        self.environment = dict(this_environment() if environment is None else environment)
        self.settings = _plain(paper, settings or {})
        self.config, self.changes = _described(config), tuple(changes)
        for name in ("paper", "preset", "title"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} of a claim table must be a text, got {getattr(self, name)!r}")
        if not self.claims:
            raise ValueError(f"{paper}: a claim table needs at least one claim")
        repeated = [name for name, times in Counter(claim.id for claim in self.claims).items() if times > 1]
        if repeated:
            raise ValueError(f"{paper}: claim ids must differ, but {', '.join(repeated)} occur more than once")

    def __repr__(self) -> str:
        width = max(len(claim.id) for claim in self.claims)
        return "\n".join(
            f"{claim.id:<{width}}  {render.SYMBOLS[claim.verdict]} {claim.verdict:<12}  {claim.statement}"
            + (" (fragile)" if claim.fragile else "")
            for claim in self.claims
        )

    def counts(self) -> dict[str, int]:
        """Number of claims per verdict, all four named."""
        return {name: sum(claim.verdict == name for claim in self.claims) for name in VERDICTS}

    @property
    def hashes(self) -> dict[str, str]:
        """Of the claims' words and rules, and of the settings: equal in two runs that asked the same."""
        rules = [{name: claim[name] for name in _RULES} for claim in (claim.to_dict() for claim in self.claims)]
        return {"rules": _hash(rules), "config": _hash(self.config)}

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON without NaN."""
        head = {"schema": records.SCHEMA, "paper": self.paper, "title": self.title, "preset": self.preset}
        run = {"seeds": list(self.seeds), "device": self.device, "environment": self.environment}
        asked = {"settings": self.settings, "config": self.config, "hashes": self.hashes}
        log = {"changes": [vars(change) for change in self.changes]}
        return head | run | asked | log | {"claims": [claim.to_dict() for claim in self.claims]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "ClaimTable":
        """Inverse of `to_dict`; ValueError for another schema, missing fields or a verdict that does not follow."""
        if content.get("schema") != records.SCHEMA:
            raise ValueError(
                f"claims are written in schema {content.get('schema')!r}, this version reads {records.SCHEMA}"
            )
        names = ("paper", "preset", "seeds", "title", "device", "environment", "settings", "config")
        try:
            claims = [Claim.from_dict(claim) for claim in content["claims"]]
            changes = [Change(**change) for change in content["changes"]]
            return cls(claims, **{name: content[name] for name in names}, changes=changes)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"claims cannot be read: {error!r}") from error

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        full = self.to_dict()
        stable = [{name: claim[name] for name in _STABLE} for claim in full["claims"]]
        numbers = [
            {n: value for n, value in claim.items() if n == "id" or n not in _STABLE} for claim in full["claims"]
        ]
        data = {"schema": records.SCHEMA, "paper": self.paper, "claims": stable}
        rest = {name: full[name] for name in records.RUN if name in full}
        rest["preset"] = self.preset
        return (
            {"text/plain": repr(self), "text/html": self._repr_html_(), MIME: data},
            {MIME: rest | {"numbers": numbers}},
        )

    def _repr_html_(self) -> str:
        found, problems = records.read_folder(records.find_folder())
        others = {
            preset: {claim["id"]: claim for claim in content["papers"][self.paper]["claims"]}
            for preset, content in found.items()
            if preset != self.preset and self.paper in content["papers"]
        }
        return render.html_table(
            self.claims,
            caption=self.title or f"Claims of {self.paper}",
            preset=self.preset,
            others=others,
            settings=self.settings,
            notes=problems,
        )


def from_notebook(notebook: Mapping[str, Any]) -> list[ClaimTable]:
    """The claim tables in the outputs of an executed notebook, given as its parsed JSON.

    ValueError for a table that cannot be read, or whose verdicts do not follow from its numbers.
    """
    tables = []
    try:
        for cell in notebook.get("cells", ()):
            for output in cell.get("outputs", ()):
                data = output.get("data", {}).get(MIME)
                if data is not None:
                    rest = dict(output.get("metadata", {}).get(MIME, {}))
                    numbers = {entry["id"]: entry for entry in rest.pop("numbers", ())}
                    claims = [{**claim, **numbers.get(claim.get("id"), {})} for claim in data.get("claims", ())]
                    tables.append(ClaimTable.from_dict({**data, **rest, "claims": claims}))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"claims cannot be read: {error!r}") from error
    return tables


def _plain(paper: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the settings as JSON gives them back, so that a table read from a file equals the one written."""
    try:
        return dict(json.loads(json.dumps(dict(settings), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{paper}: settings must be plain JSON values by name, got {settings!r} ({error})") from error


def _adjusted(claims: tuple[Claim, ...]) -> tuple[Claim, ...]:
    """The claims with intervals and p-values of their families; those that have a p have been here before."""
    families: dict[str, list[Claim]] = {}
    for claim in claims:
        if claim.estimate is not None and claim.estimate.source is not None and claim.estimate.p is None:
            families.setdefault(claim.family or f"only {claim.id}", []).append(claim)
    found: dict[str, Estimate] = {}
    for family in families.values():
        found |= judged({c.id: (c.estimate, c.rule) for c in family if c.estimate is not None})
    return tuple(claim.measured(found.get(claim.id, claim.estimate)) for claim in claims)


def _described(value: Any) -> Any:
    """Settings as plain values: fields by name, functions and classes by theirs."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _described(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _described(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_described(inner) for inner in value]
    if isinstance(value, functools.partial):
        return {_described(value.func): _described(value.keywords)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else str(value)


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
