"""A claim: one statement, the rule that decides it, and what was measured."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from flatlab.stats import Estimate, Rule, Verdict, detectable, fragile, verdict


@dataclass(frozen=True)
class Change:
    """What was changed in the claims of a study, and when.

    Args:
        date: "2026-11-26".
        ids: of the claims, separated by spaces.
        what: the change, its reason, and whether results had been seen.
    """

    date: str
    ids: str
    what: str


@dataclass(frozen=True)
class Claim:
    """One statement that a run can support or contradict.

    Args:
        id: short name, unique in its table: "C1", "C4a".
        statement: one sentence, free of measured numbers (it must be the same in every run).
        rule: where the interval must lie: `stats.greater(0)`. Bounds are fixed beforehand, never computed from data.
        estimate: what was measured, or None if this preset cannot measure it (verdict "not run").
        source: "paper", or "ours" for a claim that the paper does not make.
        where: place in the source: "abstract", "Table 2".
        paper_value: the paper's own number, only where it was verified in the paper.
        unit: of the estimate: "nats", "fraction".
        units: what n counts: "seeds", "starts", "kinds of methods".
        population: for whom the interval speaks, in words: "other seeds, on these test images".
        exploratory: why the claim only explores: its subset, measure or threshold was chosen on the same data; empty
            for a claim that was fixed before.
        note: a caveat for the reader.
        family: name of the family whose verdicts hold together; a `ClaimTable` adjusts for it.
    """

    id: str
    statement: str
    rule: Rule
    estimate: Estimate | None = None
    source: Literal["paper", "ours"] = "paper"
    where: str = "abstract"
    paper_value: float | str | None = None
    unit: str = ""
    units: str = ""
    population: str = ""
    exploratory: str = ""
    note: str = ""
    family: str = ""

    def __post_init__(self) -> None:
        for name in ("id", "statement", "where", "unit", "units", "population", "exploratory", "note", "family"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{self.id}: {name} must be a text, got {getattr(self, name)!r}")
        if not self.id or self.id != self.id.strip() or not self.statement.strip():
            raise ValueError(f"a claim needs an id and a statement, got {self.id!r}: {self.statement!r}")
        if not isinstance(self.rule, Rule):
            raise TypeError(f"{self.id}: rule must come from greater, less or within, got {self.rule!r}")
        if self.estimate is not None and not isinstance(self.estimate, Estimate):
            raise TypeError(f"{self.id}: estimate must be an Estimate or None, got {type(self.estimate).__name__}")
        if self.source not in ("paper", "ours"):
            raise ValueError(f"{self.id}: source must be 'paper' or 'ours', got {self.source!r}")
        if self.paper_value is not None and not isinstance(self.paper_value, str):
            if not math.isfinite(self.paper_value):
                raise ValueError(f"{self.id}: paper_value must be finite, got {self.paper_value}; unknown is None")
            object.__setattr__(self, "paper_value", float(self.paper_value))

    @property
    def verdict(self) -> Verdict:
        """What the rule says about the estimate."""
        return verdict(self.estimate, self.rule)

    @property
    def fragile(self) -> bool:
        """Whether one unit, or the last digits of another processor, would make it another verdict."""
        return fragile(self.estimate, self.rule)

    @property
    def detectable(self) -> float | None:
        """If inconclusive, the smallest distance from the threshold that this n decides in four of five runs."""
        return detectable(self.estimate, self.rule)

    def measured(self, estimate: Estimate | None) -> "Claim":
        """The same claim with what a run measured; None if the run could not measure it."""
        return replace(self, estimate=estimate)

    def to_dict(self) -> dict[str, Any]:
        """All fields, the rule as text, the verdict, its marks, and what this n could have seen."""
        fields = {name: value for name, value in vars(self).items() if name not in ("rule", "estimate")}
        judged = {"rule": str(self.rule), "verdict": self.verdict, "fragile": self.fragile}
        return fields | judged | {"estimate": dict(vars(self.estimate)) if self.estimate else None}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Claim":
        """Inverse of `to_dict`; ValueError if the fields are not those of a claim, or if the verdict or mark written
        there does not follow from the numbers."""
        try:
            values = {name: value for name, value in fields.items() if name not in ("verdict", "fragile")}
            estimate = values["estimate"]
            values |= {"rule": Rule.parse(values["rule"]), "estimate": Estimate(**estimate) if estimate else None}
            claim, written = cls(**values), fields["verdict"]
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"a claim cannot be read: {error!r}; run the notebook again") from error
        if written != claim.verdict:
            raise ValueError(
                f"{claim.id}: the verdict {written!r} does not follow from the numbers, which say "
                f"{claim.verdict!r}; run the notebook again"
            )
        if fields.get("fragile", claim.fragile) != claim.fragile:
            raise ValueError(
                f"{claim.id}: the mark fragile={fields['fragile']} does not follow from the numbers, which say "
                f"{claim.fragile}; run the notebook again"
            )
        return claim
