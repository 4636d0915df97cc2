"""Small settings: toys of few chains and short times, and two hundred digits."""

from dataclasses import replace
from typing import Any

import pytest

from flatlab import studies
from flatlab.studies.two_time_scale_gan.judges import Judge
from flatlab.studies.two_time_scale_gan.settings import TwoTimeScaleGAN
from flatlab.studies.two_time_scale_gan.training import Images


@pytest.fixture(scope="session")
def cfg() -> TwoTimeScaleGAN:
    few: dict[str, Any] = {"limits": {"train": 200, "test": 60}, "chains": 6, "game_steps": 400, "games": 12}
    few |= {"saddle_runs": 5, "saddle_steps": 300, "flow_runs": 4, "flow_steps": 200, "starts": 20, "ball_steps": 400}
    quick = studies.resolve("two_time_scale_gan", "quick")
    recipe = replace(quick.judge_recipe, epochs=20, batch_size=20)
    return replace(quick, seeds=(3, 4), judge_options={"hidden": 8}, judge_recipe=recipe, **few)


@pytest.fixture(scope="session")
def images(cfg: TwoTimeScaleGAN) -> Images:
    return Images(cfg)


@pytest.fixture(scope="session")
def judge(cfg: TwoTimeScaleGAN, images: Images) -> Judge:
    return Judge(cfg, images, 3)
