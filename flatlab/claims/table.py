"""The table of claims that a notebook displays, and how it is read back."""

import importlib.metadata
import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flatlab.claims import records, render
from flatlab.claims.claim import Claim
from flatlab.stats import VERDICTS

MIME = "application/vnd.flatlab.claims+json"
_PACKAGES = ("flatlab", "torch", "numpy", "scipy", "pandas", "scikit-learn", "foolbox")
_STABLE = ("id", "statement", "source", "where", "family", "rule", "verdict", "fragile")


class ClaimTable:
    """The claims of one notebook in one run; display it as the last value of a cell.

    Args:
        claims: at least one, with distinct ids.
        paper: the notebook's name, which recorded results are filed under: "01_likelihood_landscapes".
        preset: the preset of this run.
        seeds: the seeds that were paired.
        title: heading of the table.
        device: what the run computed on.
        environment: versions; by default those of this process.
        settings: values that the run chose by tuning, such as {"adam": {"lr": 0.03}}; anything that JSON can hold.
            They are recorded with the numbers, and differ from run to run as those do.
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
    ) -> None:
        self.claims = tuple(claims)
        self.paper, self.preset, self.title, self.device = paper, preset, title, str(device)
        self.seeds = tuple(int(seed) for seed in seeds)
        self.environment = dict(versions() if environment is None else environment)
        self.settings = _plain(paper, settings or {})
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

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON without NaN."""
        head = {"schema": records.SCHEMA, "paper": self.paper, "title": self.title, "preset": self.preset}
        run = {"seeds": list(self.seeds), "device": self.device, "environment": self.environment}
        tuned = {"settings": self.settings} if self.settings else {}
        return head | run | tuned | {"claims": [claim.to_dict() for claim in self.claims]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "ClaimTable":
        """Inverse of `to_dict`; ValueError for another schema, missing fields or a verdict that does not follow."""
        if content.get("schema") != records.SCHEMA:
            raise ValueError(
                f"claims are written in schema {content.get('schema')!r}, this version reads {records.SCHEMA}"
            )
        names = ("paper", "preset", "seeds", "title", "device", "environment")
        try:
            claims = [Claim.from_dict(claim) for claim in content["claims"]]
            return cls(claims, **{name: content[name] for name in names}, settings=content.get("settings"))
        except (KeyError, TypeError) as error:
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
    for cell in notebook.get("cells", ()):
        for output in cell.get("outputs", ()):
            data = output.get("data", {}).get(MIME)
            if data is not None:
                rest = dict(output.get("metadata", {}).get(MIME, {}))
                numbers = {entry["id"]: entry for entry in rest.pop("numbers", ())}
                claims = [{**claim, **numbers.get(claim.get("id"), {})} for claim in data.get("claims", ())]
                tables.append(ClaimTable.from_dict({**data, **rest, "claims": claims}))
    return tables


def _plain(paper: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the settings as JSON gives them back, so that a table read from a file equals the one written."""
    try:
        return dict(json.loads(json.dumps(dict(settings), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{paper}: settings must be plain JSON values by name, got {settings!r} ({error})") from error


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on, the system, and the commit of a checkout."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _commit(Path(__file__).parents[2] / ".git")
    return found | {"system": f"{platform.system()} {platform.machine()}"} | ({"commit": commit} if commit else {})


def _commit(git: Path) -> str:
    """The commit of a checkout, read without git; nothing for an installed copy."""
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if head.startswith("ref: "):
            head = (git / head.removeprefix("ref: ")).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
    return head[:12]
