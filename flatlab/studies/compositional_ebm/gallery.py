"""Every loss with every noise on one set of images: what each learned, what it draws, and what it calls unlikely."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from flatlab import ebm
from flatlab.studies.compositional_ebm.images import HARD, Images, Learned
from flatlab.studies.compositional_ebm.planar import blocks
from flatlab.studies.compositional_ebm.settings import CompositionalEBM

Key = tuple[str, str]
"""Loss and noise."""


@dataclass(frozen=True)
class Gallery:
    """What came of the images, by loss and noise; lists and arrays have one entry a seed.

    Attributes:
        pictures: the images.
        learned, samples, frechet, auroc: see `Images.fit`, `Images.samples`, `Images.frechet` and `Images.auroc`.
    """

    pictures: Images
    learned: Mapping[Key, Learned]
    samples: Mapping[Key, list[ebm.Chains]]
    frechet: Mapping[Key, np.ndarray]
    auroc: Mapping[Key, list[Mapping[str, Mapping[str, float]]]]

    @classmethod
    def fill(cls, cfg: CompositionalEBM, **where: Any) -> "Gallery":
        """Train and judge everything; `where` has `root` and `device` of `Images`."""
        pictures = Images(cfg, **where)
        learned = {(method, noise): pictures.fit(method, noise) for method, noise in cfg.image_rates}
        samples = {
            key: [pictures.samples(model, seed) for model, seed in zip(of.models, cfg.seeds, strict=True)]
            for key, of in learned.items()
        }
        frechet = {key: np.array([pictures.frechet(chains.x) for chains in of]) for key, of in samples.items()}
        auroc = {key: [pictures.auroc(model) for model in of.models] for key, of in learned.items()}
        return cls(pictures, learned, samples, frechet, auroc)

    def hard(self, key: Key, part: str) -> np.ndarray:
        """Mean AUROC over the hard sets, (S,), by a part of the score: "f", "g" or "log q"."""
        return np.array([np.mean([one[part][name] for name in HARD]) for one in self.auroc[key]])

    def nll(self, key: Key) -> np.ndarray:
        """Negative log-likelihoods in a hundred blocks of test images, (S, 100)."""
        return blocks(self.learned[key].nll, 100)

    def table(self) -> pd.DataFrame:
        """A row for each noise itself, and for each loss with it."""
        rows: dict[Key, dict[str, float]] = {}
        pictures, device = self.pictures, self.pictures.device
        for name in pictures.cfg.noises:
            noise = pictures.noise(name)
            start = noise.sample(len(pictures.test), generator=torch.Generator(device).manual_seed(0))
            rows[name, "noise itself"] = {
                "NLL": -float(noise.log_prob(pictures.test).mean()),
                "Fréchet": pictures.frechet(start),
                "AUROC": float(self.hard(("NCE", name), "log q")[0]),
            }
        for (method, name), of in self.learned.items():
            key = (method, name)
            rows[name, method] = {
                "NLL": float(np.nanmean(of.nll.mean(1))),
                "no NLL": int(np.isnan(of.log_z).sum()),
                "effective draws": of.ess.mean(),
                "Fréchet": self.frechet[key].mean(),
                "AUROC": self.hard(key, "f").mean(),
                "AUROC of g": self.hard(key, "g").mean(),
                "seconds": of.seconds,
                "MALA accepts": float(np.mean([chains.acceptance for chains in self.samples[key]])),
            }
        columns = ["NLL", "no NLL", "effective draws", "Fréchet", "AUROC", "AUROC of g", "seconds", "MALA accepts"]
        return pd.DataFrame(rows).T[columns]

    def detection(self, methods: tuple[str, ...] = ("NCE", "MECO")) -> pd.DataFrame:
        """AUROC of each other set, means over seeds: a row for each noise, loss and part of the score."""
        rows = {
            (noise, method, part): pd.DataFrame([one[part] for one in self.auroc[method, noise]]).mean()
            for noise in self.pictures.cfg.noises
            for method in methods
            for part in ("f", "g")
        }
        rows |= {
            (noise, "", "log q"): pd.DataFrame([one["log q"] for one in self.auroc[methods[0], noise]]).mean()
            for noise in self.pictures.cfg.noises
        }
        return pd.DataFrame(rows).T.sort_index().rename_axis(["noise", "model", "score"])

    def two_ways(self) -> tuple[ebm.LogZ, ebm.LogZ]:
        """log Z of the first seed of MECO with the first noise: by importance sampling, and by annealing."""
        cfg, device = self.pictures.cfg, self.pictures.device
        model, noise = self.learned["MECO", cfg.noises[0]].models[0], self.pictures.noise(cfg.noises[0])
        draws = torch.Generator(device).manual_seed(0)
        direct = ebm.log_z_snis(model, noise, cfg.draws, generator=draws)
        return direct, ebm.ais(model, noise, 1000, temperatures=500, generator=draws)
