"""The rates of the arms of WGAN-GP: each arm's own best, at its own steps of the critic and ratio of rates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flatlab import train
from flatlab.studies.two_time_scale_gan.judges import Judge
from flatlab.studies.two_time_scale_gan.settings import Arms, TwoTimeScaleGAN
from flatlab.studies.two_time_scale_gan.training import Images, Score, Texts, arm_grid


def tune(found: Arms, real: Tensor, score: Score, column: str, seeds: Sequence[int]) -> train.Sweep:
    """Score the rates that each arm is to try, all rates and seeds of an arm in one stacked run.

    Args:
        found: the arms, and the generator's rates to try.
        real: images or texts, (N, ...) in [-1, 1].
        score: of samples.
        column: the number that is to be small, where the operations are spent.
        seeds: of the runs.
    """

    def whole(name: str, points: list[dict[str, Any]], seeds: tuple[int, ...]) -> np.ndarray:
        arm = found.arms[name]
        pairs = [(point["lr_g"] * arm.lr_d / arm.lr_g, point["lr_g"]) for point in points]
        rows = pd.DataFrame(arm_grid(found, arm, real, score, seeds, pairs).rows)
        ends = rows[rows["giga"] == found.giga[-1]]
        return ends[column].to_numpy(dtype=float).reshape(len(points), len(seeds))

    grid = {name: {"lr_g": list(found.tried)} for name in found.arms}
    return train.sweep(whole, grid, seeds=list(seeds), extend=2, whole=True)


def retuned(
    cfg: TwoTimeScaleGAN,
    show: Callable[[Any], object],
    *,
    root: str | None = None,
    device: torch.device | str = "cpu",
) -> TwoTimeScaleGAN:
    """The settings, with `tune` after the rates of the arms have been chosen again.

    Args:
        cfg: settings; without `tune` they are returned as they are.
        show: called with a table of what was tried: IPython's `display`.
        root: folder of data that is not embedded.
        device: where to train.

    Raises:
        ValueError: a reported seed is one of the tuning's.
    """
    if not cfg.tune:
        return cfg
    train.Sweep((), cfg.tuning_seeds).fresh(cfg.seeds)
    images, texts = Images(cfg, root=root, device=device), Texts(cfg, root=root, device=device)
    judge = Judge(cfg, images, cfg.data_seed)
    on_images = tune(cfg.wgan, images.signed, judge.score, "fid", cfg.tuning_seeds)
    on_text = tune(cfg.text, texts.real, texts.score, f"JSD-{cfg.grams[-1]}", cfg.tuning_seeds)
    for found in (on_images, on_text):
        show(pd.DataFrame(found.table()).round(3))
    return replace(cfg, wgan=_chosen(cfg.wgan, on_images.best), text=_chosen(cfg.text, on_text.best))


def _chosen(found: Arms, best: Mapping[str, Mapping[str, float]]) -> Arms:
    arms = {
        name: replace(arm, lr_g=best[name]["lr_g"], lr_d=best[name]["lr_g"] * arm.lr_d / arm.lr_g)
        for name, arm in found.arms.items()
    }
    return replace(found, arms=arms)
