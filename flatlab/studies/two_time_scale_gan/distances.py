"""What the Frechet distance sees, and how far a finite sample can be trusted."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab import data, gan, metrics
from flatlab.studies.two_time_scale_gan.judges import Judge
from flatlab.studies.two_time_scale_gan.settings import TwoTimeScaleGAN
from flatlab.studies.two_time_scale_gan.training import Images


def textures(n: int, shape: Sequence[int], seed: int) -> Tensor:
    """Smooth random textures (n, *shape), uint8: what contaminates where no second image set is at hand.

    Args:
        n: how many.
        shape: (C, H, W).
        seed: of the textures.
    """
    channels, height, width = shape
    coarse = torch.rand(n, channels, 3, 3, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    return (smooth.clamp(0, 1) * 255).round().to(torch.uint8)


def others(cfg: TwoTimeScaleGAN, images: Images, *, root: str | None = None) -> Tensor:
    """Images of another set in the shape of these, uint8.

    Args:
        cfg: the settings.
        images: whose shape is wanted.
        root: folder of the data.
    """
    n = len(images.test)
    if cfg.other is None:
        return textures(n, images.shape, cfg.data_seed).to(images.device)
    name, split = cfg.other
    channels, size, _ = images.shape
    return data.load_images(name, split, root=root, limit=n, size=size, channels=channels).x.to(images.device)


def disturbed(judges: Sequence[Judge], images: Images, other: Tensor, seed: int) -> pd.DataFrame:
    """FID, and inception score, of disturbed test images: one row a judge, kind and level.

    Args:
        judges: classifiers of several seeds.
        images: test images to disturb.
        other: to contaminate with.
        seed: of the disturbances.
    """
    rows = []
    for kind, levels in gan.LEVELS.items():
        for place, level in enumerate(levels):
            spoiled = gan.disturb(images.test.x, kind, level, seed=seed, other=other)
            for number, judge in enumerate(judges):
                found = {"FID": judge.fid(spoiled), "inception score": judge.inception(spoiled)}
                rows.append({"kind": kind, "place": place, "level": level, "judge": number} | found)
    frame = pd.DataFrame(rows)
    best = frame.groupby(["kind", "judge"])["inception score"].transform("max")
    return frame.assign(
        IND=best - frame["inception score"], relative=frame["FID"] / [judges[j].scale for j in frame["judge"]]
    )


def steps(frame: pd.DataFrame, column: str) -> dict[tuple[str, int], np.ndarray]:
    """(kind, place) -> by how much the column rises from the level before to this one, one number a judge.

    Args:
        frame: of `disturbed`.
        column: which measure.
    """
    found: dict[tuple[str, int], np.ndarray] = {}
    for kind, rows in frame.groupby("kind", sort=False):
        rises = rows.pivot(index="judge", columns="place", values=column).diff(axis=1).to_numpy(dtype=float)
        found |= {(str(kind), place): rises[:, place] for place in range(1, rises.shape[1])}
    return found


def bias_table(cfg: TwoTimeScaleGAN, covariance: Tensor, features: Tensor) -> pd.DataFrame:
    """FID of two samples of one distribution, whose true value is 0: one row a source, size and draw.

    Args:
        cfg: the settings.
        covariance: (D, D) of the normal distribution.
        features: (N, D) of images, of which two disjoint samples are drawn; sizes above N / 2 are left out.
    """
    generator = torch.Generator().manual_seed(1000 * cfg.seeds[0] + cfg.data_seed)
    values, vectors = torch.linalg.eigh(covariance.double().cpu())
    root, rows = (values.clamp(min=0).sqrt()[:, None] * vectors.T), []
    features = features.double().cpu()
    for size in cfg.bias_sizes:
        for draw in range(cfg.bias_draws):
            pair = [torch.randn(size, len(root), generator=generator, dtype=torch.float64) @ root for _ in range(2)]
            rows.append({"of": "normal", "N": size, "draw": draw, "FID": metrics.fid(*pair, warn=False)})
            if 2 * size <= len(features):
                order = torch.randperm(len(features), generator=generator)
                some = metrics.fid(features[order[:size]], features[order[size : 2 * size]], warn=False)
                rows.append({"of": "images", "N": size, "draw": draw, "FID": some})
    return pd.DataFrame(rows)


def infinity_table(cfg: TwoTimeScaleGAN, covariance: Tensor) -> pd.DataFrame:
    """A normal generator with a known FID: how far the plain and the extrapolated FID are from it, one row a draw.

    Its mean is off, and its spread too large, so that both parts of the distance are at work.

    Args:
        cfg: the settings.
        covariance: (D, D) of the real features.
    """
    generator = torch.Generator().manual_seed(1000 * cfg.seeds[0] + cfg.data_seed + 1)
    cov = covariance.double().cpu()
    values, vectors = torch.linalg.eigh(cov)
    root = values.clamp(min=0).sqrt()[:, None] * vectors.T
    size, rows = max(cfg.bias_sizes), []
    shift = 0.05 * cov.trace().sqrt() * vectors[:, -1]
    truth = metrics.frechet_distance(torch.zeros(len(cov)), cov, shift, 1.3 * cov)
    for draw in range(cfg.bias_draws):
        real, fake = (
            torch.randn(n, len(root), generator=generator, dtype=torch.float64) @ root for n in (4 * size, size)
        )
        fake = 1.3**0.5 * fake + shift
        plain = metrics.fid(real, fake, warn=False)
        rows.append(
            {
                "draw": draw,
                "truth": truth,
                "plain": plain,
                "FID-infinity": metrics.fid_infinity(real, fake, seed=draw).value,
            }
        )
    return pd.DataFrame(rows)


def coverage_table(cfg: TwoTimeScaleGAN, covariance: Tensor) -> pd.DataFrame:
    """Pairs of normal generators with known FIDs: does the interval of `fid_difference` cover the true difference?

    Args:
        cfg: the settings.
        covariance: (D, D) of the real features.
    """
    generator = torch.Generator().manual_seed(1000 * cfg.seeds[0] + cfg.data_seed + 2)
    cov = covariance.double().cpu()
    values, vectors = torch.linalg.eigh(cov)
    root = values.clamp(min=0).sqrt()[:, None] * vectors.T
    size, rows, zero = max(cfg.bias_sizes), [], torch.zeros(len(cov))
    for trial in range(cfg.coverage):
        spreads = 1.5 + torch.rand(2, generator=generator).double()
        if trial % 2:
            spreads[1] = spreads[0]
        truths = [metrics.frechet_distance(zero, cov, zero, s * cov) for s in spreads]
        real, a, b = (
            torch.randn(n, len(root), generator=generator, dtype=torch.float64) @ root for n in (size, size, size)
        )
        found = metrics.fid_difference(real, spreads[0].sqrt() * a, spreads[1].sqrt() * b, seed=trial)
        truth = truths[0] - truths[1]
        rows.append(
            {"truth": truth, "value": found.value, "low": found.low, "high": found.high}
            | {"covered": found.low <= truth <= found.high}
        )
    return pd.DataFrame(rows)
