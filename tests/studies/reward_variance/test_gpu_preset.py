"""The gpu, real and full presets of 02 at a tiny size on whatever device is here: the whole notebook."""

import dataclasses
import os

import pytest

from flatlab import studies
from flatlab.studies.reward_variance import settings


def tiny(preset: str) -> settings.RewardVariance:
    """The preset with everything that costs time made small; its runs, rates and recipes stay."""
    cfg = studies.resolve("reward_variance", preset)
    return dataclasses.replace(
        cfg,
        seeds=cfg.seeds[:2],
        instances=40,
        flows=6,
        policies={name: {"width": 8, "layers": 1, "heads": 2} for name in cfg.policies},
        prompt=12,
        response=6,
        windows=256,
        pairs=32,
        prompts=64,
        scored=12,
        samples=4,
        judged=4,
        off_pairs=16,
        batch=8,
        steps=3,
        looks=(2,),
        score_batches=2,
        check_steps=1,
        processes=1,
        rates={run: 100 * rate for run, rate in cfg.rates.items()},
    )


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["real", "gpu", "full"])
@pytest.mark.skipif(not os.environ.get("FLATLAB_DATA"), reason="needs Tiny Shakespeare in $FLATLAB_DATA")
@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_the_notebook_runs_with_the_large_presets(preset: str, run_cells, monkeypatch) -> None:
    monkeypatch.setattr(settings, preset.upper(), tiny(preset))
    names = run_cells("02_reward_variance", preset)
    assert set(names["lessons"].measures["policy"]) == set(names["cfg"].policies)
    unmeasured = {claim for claim, estimate in names["measured"].items() if estimate is None}
    if preset == "real":
        assert not unmeasured, "everything is judged there"
    assert names["measured"]["C9.1"].n == 2
