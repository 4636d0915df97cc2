"""Dose and response: how robust and how flat networks are as the weight or the radius of a defense grows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from flatlab import stats
from flatlab.studies.likelihood_landscapes import experiments
from flatlab.studies.likelihood_landscapes.learning import Split


@dataclass(frozen=True, eq=False)
class DoseResponse:
    """What `experiments.robustness_and_flatness` says of networks at each dose.

    Attributes:
        frame: one row a dose and seed: `dose`, `seed`, `robust`, `phi`; the largest `phi` for networks that diverged.
        hits: which images are classified rightly under attack, (doses, seeds, N).
    """

    frame: pd.DataFrame
    hits: NDArray[np.bool_]

    @classmethod
    def of(
        cls, split: Split, doses: Sequence[float], trained: Callable[[float], Sequence[nn.Module]]
    ) -> "DoseResponse":
        """Measured on the test images of a split.

        Args:
            split: the images, and the settings.
            doses: to try.
            trained: from a dose to the networks of the settings' seeds.
        """
        rows, right, (x, y) = [], [], split.images
        for dose in doses:
            for seed, net in zip(split.cfg.seeds, trained(dose), strict=True):
                hits, phi = experiments.robustness_and_flatness(net, x, y, split.cfg.eps, seed=seed)
                rows.append({"dose": dose, "seed": seed, "robust": float(hits.double().mean()), "phi": phi})
                right.append(hits)
        frame = pd.DataFrame(rows)
        whole = torch.stack(right).reshape(len(doses), -1, len(x)).numpy()
        return cls(frame.fillna({"phi": frame["phi"].max()}), whole)

    def slope(self, places: ArrayLike) -> stats.Estimate:
        """By how much log10 of `phi` rises with the dose, whose `places` (k,) are in rising order, over seeds."""
        return stats.trend(np.log10(self.frame.pivot(index="seed", columns="dose", values="phi")), places)


def by_weight(split: Split, known: Sequence[nn.Module]) -> DoseResponse:
    """Over the weights of flat_rand; `known` are its networks with the options of the settings."""
    (options,) = [method.options for method in split.cfg.methods if method.name == "flat_rand"]

    def trained(weight: float) -> Sequence[nn.Module]:
        same = options == {"weight": weight}
        return known if same else split.fit("flat_rand", {"weight": weight}, split.cfg.seeds)

    return DoseResponse.of(split, split.cfg.doses, trained)


def by_radius(split: Split, known: Sequence[nn.Module]) -> DoseResponse:
    """Over the radii of adversarial training by PGD, attacked at one; `known` are its networks at that one."""

    def trained(eps: float) -> Sequence[nn.Module]:
        return known if eps == split.cfg.eps else split.fit("pgd_at", {}, split.cfg.seeds, eps=eps)

    return DoseResponse.of(split, split.cfg.radii_trained, trained)
