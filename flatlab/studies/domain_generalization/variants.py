"""Methods that are made of the tuned ones: UDIM in parts, on other bases, and with other settings."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flatlab.studies.domain_generalization.settings import DomainGeneralization
from flatlab.studies.domain_generalization.worlds import Method

ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "first order": {"second_order": False},
    "norm term": {"terms": "norm"},
    "variance term": {"terms": "variance"},
    "random direction": {"direction": "random"},
    "not perturbed": {"rho_x": 0.0},
}
"""UDIM with one thing taken out, or exchanged."""


def ablations(cfg: DomainGeneralization) -> dict[str, Method]:
    """UDIM for several sources, once for each of the settings' ablations."""
    return {label: cfg.out_methods["UDIM"].but(**ABLATIONS[label]) for label in cfg.ablations}


def on_bases(cfg: DomainGeneralization) -> dict[str, Method]:
    """SAM and each other base as it was tuned, and UDIM on it: the base's radius and rate, UDIM's length and weight."""
    found = {}
    for label, base in {"SAM": cfg.methods["SAM"], **cfg.family}.items():
        found[label] = base
        combined = cfg.methods["UDIM"].but(base=label.lower(), rho=base.hparams["rho"])
        found[f"{label} + UDIM"] = replace(combined, lr=base.lr)
    return found


def dials(cfg: DomainGeneralization) -> dict[str, Method]:
    """UDIM for one source with each length and each weight of the settings."""
    udim = cfg.methods["UDIM"]
    return {f"rho_x = {value:g}": udim.but(rho_x=value) for value in cfg.rho_xs} | {
        f"lam = {value:g}": udim.but(lam=value) for value in cfg.lams
    }
