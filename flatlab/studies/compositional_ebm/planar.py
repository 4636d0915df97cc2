"""Densities of the plane: one network architecture, one base, one test set, and every loss that can train it.

The model is p(x) ~ q0(x) exp g(x) with a fixed wide Gaussian q0, so that all methods fit the same family, always
normalizable, and log Z can be had on a grid. The noise that they are trained with may be another.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from flatlab import data, ebm, models, train
from flatlab.studies.compositional_ebm.settings import CompositionalEBM
from flatlab.studies.tuning import choose

BASE = 2.0
"""Standard deviation of q0 in both directions, in units of the plane."""

NOISES: dict[str, Callable[[Tensor], ebm.Noise]] = {
    "wide": lambda x: ebm.GaussianNoise.standard(2, BASE),
    "box": lambda x: ebm.BoxNoise(-6.0, 6.0, 2),
    "narrow": lambda x: ebm.GaussianNoise.standard(2, 0.6),
    "narrow + wide": lambda x: ebm.DefensiveNoise(NOISES["narrow"](x), NOISES["wide"](x), 0.1),
    "GMM": lambda x: ebm.GMMNoise.fit(x, 10),
    "GMM + wide": lambda x: ebm.DefensiveNoise(NOISES["GMM"](x), NOISES["wide"](x), 0.1),
}
"""Name -> the noise for training points (N, 2)."""

LOSSES: dict[str, Callable[[ebm.Noise, int], ebm.EnergyLoss]] = {
    "NCE": lambda q, n: ebm.NCELoss(q, n_noise=n),
    "eNCE": lambda q, n: ebm.ExpNCELoss(q, n_noise=n),
    "MECO": lambda q, n: ebm.MECOLoss(q, n_noise=n),
    "MECO, gamma 1": lambda q, n: ebm.MECOLoss(q, n_noise=n, gamma=1.0),
    "SNL": lambda q, n: ebm.SNLLoss(q, n_noise=n),
    "PCD": lambda q, n: ebm.PCDLoss(q, steps=10, eps=0.1, buffer_size=4096, l2=0.1),
    "DSM": lambda q, n: ebm.DSMLoss(sigma=0.15),
}
"""Name -> the loss for a noise and a number of draws."""


@dataclass(frozen=True)
class Fitted:
    """What one method learned of one density, for S seeds.

    Attributes:
        models: log p + log Z, one a seed.
        log_z: (S,) on a grid; NaN for a run that diverged.
        nll: (S, N) negative log-likelihoods of the test points, in nats; NaN likewise.
        error: the largest error of a log Z.
        seconds: of training all seeds side by side.
        ess: (S,) effective draws a step, in the last half of the steps; NaN without importance weights.
    """

    models: list[ebm.TiltedModel]
    log_z: np.ndarray
    nll: np.ndarray
    error: float
    seconds: float
    ess: np.ndarray


class Plane:
    """One density: its training and test points, and what is learned of it.

    Attributes:
        train, test: points (N, 2).
        truth: the NLL of the density itself on the test points, in nats.
    """

    def __init__(self, cfg: CompositionalEBM, name: str, *, device: str = "cpu", tuning: bool = False) -> None:
        """Draw the points, for `tuning` others than those that are reported on."""
        self.cfg, self.device, self.density = cfg, device, data.density(name)
        self._noises: dict[str, ebm.Noise] = {}
        generator = torch.Generator().manual_seed(cfg.data_seed + 999 * tuning)
        self.train = self.density.sample(cfg.planar_points, generator=generator)
        self.test = self.density.sample(cfg.planar_test, generator=generator).to(device)
        self.truth = -float(self.density.log_prob(self.test.cpu()).double().mean())

    def fit(
        self,
        method: str,
        noise: str = "wide",
        *,
        seeds: Sequence[int] | None = None,
        rate: float | None = None,
        n_noise: int | None = None,
    ) -> Fitted:
        """Train networks with a loss and a noise, and evaluate them.

        Args:
            method: of `LOSSES`.
            noise: of `NOISES`.
            seeds: of the networks; None takes the settings'.
            rate: of Adam; None takes the settings' of this method.
            n_noise: draws a batch; None takes the settings'.
        """
        cfg = self.cfg
        watched: list[Tensor] = []
        seeds = cfg.seeds if seeds is None else tuple(seeds)
        if noise not in self._noises:
            self._noises[noise] = NOISES[noise](self.train).to(self.device)
        loss = LOSSES[method](self._noises[noise], n_noise or cfg.planar_batch)
        base = NOISES["wide"](self.train).to(self.device)
        goal = ebm.objective(loss, base=base, watch=lambda out: watched.append(out.ess))
        recipe = replace(cfg.planar_recipe, lr=rate or cfg.planar_rates[method])
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fewer than 2 effective")  # what it says is in `ess`
            nets = train.fit_seeds(self.network, data.Points(self.train), goal, recipe, seeds=seeds, device=self.device)
        seconds = time.perf_counter() - start
        ess = torch.stack(watched[len(watched) // 2 :]).mean(0).cpu().numpy()
        return self._evaluated([ebm.TiltedModel(net, base) for net in nets], seconds, ess)

    def shades(self, fitted: Fitted | None = None, *, reach: float = 3.6, n: int = 120) -> Tensor:
        """The density, or what the first seed learned of it, on a grid of (n, n) points up to `reach`: rows rise."""
        axis = torch.linspace(-reach, reach, n)
        points = torch.cartesian_prod(axis, axis).flip(1)
        if fitted is None:
            return self.density.log_prob(points).exp().view(n, n)
        found = ebm.evaluated(fitted.models[0], points.to(self.device)).cpu() - fitted.log_z[0]
        return found.exp().view(n, n)

    def network(self, seed: int) -> nn.Module:
        """An untrained network."""
        return models.build("mlp", (2,), 1, seed=seed, options=dict(self.cfg.planar_net))

    def _evaluated(self, fitted: list[ebm.TiltedModel], seconds: float, ess: np.ndarray) -> Fitted:
        log_z, error, nll = [], 0.0, []
        for model in fitted:
            if not all(bool(p.isfinite().all()) for p in model.parameters()):
                log_z.append(np.nan)
                nll.append(np.full(len(self.test), np.nan))
                continue
            found = ebm.log_z_grid(model, n=self.cfg.planar_cells, device=self.device)
            log_z.append(found.log_z)
            error = max(error, found.error)
            nll.append((found.log_z - ebm.evaluated(model, self.test)).cpu().numpy())
        return Fitted(fitted, np.array(log_z), np.array(nll), error, seconds, ess)


def blocks(nll: np.ndarray, count: int = 50) -> np.ndarray:
    """Means over so many blocks of samples, (S, N) -> (S, count): of samples in no order they are samples themselves.

    Intervals over seeds and samples stay what they are, and a record holds fewer numbers.
    """
    return np.stack([part.mean(1) for part in np.array_split(nll, min(count, nll.shape[1]), axis=1)], 1)


def tuned_rates(cfg: CompositionalEBM, show: Callable[[object], object]) -> dict[str, float]:
    """Rates by method with the best mean NLL over all densities, on the tuning seeds and other points.

    Args:
        cfg: the settings.
        show: of tables, such as IPython's `display`.
    """
    planes = [Plane(cfg, name, tuning=True) for name in cfg.planar_sets]

    def score(method: str, options: dict[str, float], seeds: tuple[int, ...]) -> np.ndarray:
        found = [plane.fit(method, seeds=seeds, rate=options["lr"]).nll.mean(1) for plane in planes]
        return np.mean(found, 0)

    found = choose(
        "plane",
        score,
        {method: {"lr": [3e-3, 1e-2, 3e-2]} for method in cfg.planar_methods},
        {},
        tune=True,
        seeds=cfg.tuning_seeds,
        reported=cfg.seeds,
        show=show,
    )
    return {method: options["lr"] for method, options in found.items()}
