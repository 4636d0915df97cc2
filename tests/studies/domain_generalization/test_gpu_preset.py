"""The real, gpu and full presets of 06 at a tiny size on whatever device is here: the whole notebook."""

import dataclasses
import os

import pytest

from flatlab import studies
from flatlab.studies.domain_generalization import settings
from flatlab.studies.domain_generalization.worlds import Task


def small(task: Task | None) -> Task | None:
    """The task with everything that costs time made small, timm's network exchanged; domains and sources stay."""
    if task is None:
        return None
    normed = task.network_options.get("norm") == "batch"
    files = task.domains in ("pacs", "cifar10_c")
    return dataclasses.replace(
        task,
        options={**task.options, "limit": 80} | ({"size": 16} if files else {}),
        network="small_cnn",
        network_options={"widths": (4, 4), "hidden": 8} | ({"norm": "batch"} if normed else {}),
        steps=5,
        eval_every=5,
        batch_size=12,
    )


def tiny(preset: str) -> settings.DomainGeneralization:
    """The preset with small tasks; its methods and their options stay."""
    cfg = studies.resolve("domain_generalization", preset)
    names = ("single", "out", "shift", "normed", "photos", "coloured", "development", "development_out")
    return dataclasses.replace(
        cfg,
        seeds=cfg.seeds[:2],
        few=2,
        photo_seeds=2,
        points=2,
        repeats=2,
        slice_n=3,
        **{name: small(getattr(cfg, name)) for name in names},
    )


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["real", "gpu", "full"])
@pytest.mark.skipif(not os.environ.get("FLATLAB_DATA"), reason="needs MNIST, CIFAR-10 and PACS in $FLATLAB_DATA")
def test_the_notebook_runs_with_the_large_presets(preset: str, run_cells, monkeypatch) -> None:
    cfg = tiny(preset)
    monkeypatch.setattr(settings, preset.upper(), cfg)
    names = run_cells("06_domain_generalization", preset)
    assert names["cfg"] == cfg
    assert set(names["measured"]) == {claim.id for claim in names["CLAIMS"]}
    assert names["measured"]["C1.1"].n == 2
    missing = {claim for claim, estimate in names["measured"].items() if estimate is None}
    assert all(claim.startswith(("C10", "C12", "C15", "C16", "C17")) for claim in missing), missing
    assert (names["measured"]["C17.1"] is None) == (cfg.photos is None)
