"""Measurements of all methods and seeds: the tables of the notebook, and what its claims compare in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from flatlab import flatness, stats
from flatlab.studies.likelihood_landscapes import experiments
from flatlab.studies.likelihood_landscapes.learning import Split

Networks = Mapping[str, Sequence[nn.Module]]
"""Label of a method -> its networks, in the order of seeds."""


@dataclass(frozen=True, eq=False)
class Results:
    """What `experiments.measure_network` says of each network of each method.

    Attributes:
        frame: one row a method and seed: `method`, `kind`, `seed`, the numbers of that function, and `gap`, by how much
            the worst case lies below PGD-20. Of a network that diverged, flatness is the largest of all networks'.
        right: method -> what it was attacked with -> which images are classified rightly, (seeds, N).
    """

    frame: pd.DataFrame
    right: dict[str, dict[str, NDArray[np.bool_]]]

    @classmethod
    def of(cls, split: Split, networks: Networks, seeds: Sequence[int], *, curvature_points: int = 0) -> "Results":
        """Measured on the test images of a split.

        Args:
            split: the images, and the settings.
            networks: of all methods of the settings.
            seeds: of the networks, and of the attacks on them.
            curvature_points: training images at which the loss over the weights is studied; 0 leaves it out.
        """
        cfg, (x, y) = split.cfg, split.images
        options: dict[str, Any] = {"suite": cfg.suite, "directions": cfg.directions, "radii": cfg.radii}
        if curvature_points:
            options["weights_at"] = split.train_set.subset(range(curvature_points)).float(split.device)
        rows, right = [], {}
        for method in cfg.methods:
            found = []
            for seed, net in zip(seeds, networks[method.name], strict=True):
                row, hits = experiments.measure_network(net, x, y, cfg.eps, seed=seed, **options)
                found.append(hits)
                gap = row["pgd20"] - row["robust"]
                rows.append({"method": method.name, "kind": method.kind, "seed": seed, **row, "gap": gap})
            right[method.name] = experiments.stacked(found)
        frame = pd.DataFrame(rows)
        kinds = dict.fromkeys(method.kind for method in cfg.methods)
        frame["kind"] = pd.Categorical(frame["kind"], list(kinds))  # keeps colours
        return cls(frame.fillna(frame.max(numeric_only=True)), right)

    def hits(self, under: str = "robust") -> dict[str, NDArray[np.bool_]]:
        """Method -> which images are classified rightly, (seeds, N): "clean", "pgd20" or "robust"."""
        return {name: found[under] for name, found in self.right.items()}

    def per_seed(self, value: str) -> pd.DataFrame:
        """A column of the frame as (seeds, methods)."""
        return self.frame.pivot(index="seed", columns="method", values=value)[list(self.right)]

    def above_std(self, value: str, names: Sequence[str]) -> stats.Estimate:
        """By how much a column exceeds that of "std" for the method of `names` where it does most, over seeds."""
        columns = self.per_seed(value)
        return stats.largest([stats.paired_difference(columns[name], columns["std"]) for name in names])

    def gain(self, names: Sequence[str], under: str = "robust") -> stats.Estimate:
        """The accuracy that the method of `names` with least of it has more than "std", over seeds and images."""
        hits = self.hits(under)
        return stats.smallest([stats.crossed_difference(hits[name], hits["std"]) for name in names])

    def gap(self, names: Sequence[str]) -> stats.Estimate:
        """The largest accuracy by which PGD-20 flatters a method of `names`, over seeds and images."""
        pgd20, robust = self.hits("pgd20"), self.hits()
        return stats.largest([stats.crossed_difference(pgd20[name], robust[name]) for name in names])

    def rank_correlation(self, value: str, names: Sequence[str] = ()) -> stats.Estimate | None:
        """Spearman's of methods' means of a column with their robust accuracy, over kinds of methods.

        Args:
            value: the column.
            names: of methods, absent ones left out; all methods if empty.

        Returns:
            The estimate, or None if nothing of that name was measured.
        """
        if value not in self.frame:
            return None
        means = self.frame.groupby("method").mean(numeric_only=True).loc[self._present(names)]
        kinds = dict(zip(self.frame["method"], self.frame["kind"], strict=True))
        return stats.spearman(means[value], means["robust"], groups=[kinds[name] for name in means.index])

    def correlation_per_seed(
        self, value: str, names: Sequence[str] = (), *, method: Literal["spearman", "pearson"] = "spearman"
    ) -> stats.Estimate:
        """The correlation over methods of the logarithm of a column with robust accuracy, as the mean over seeds.

        Args:
            value, names: as in `rank_correlation`.
            method: "spearman" or "pearson".
        """
        present = self._present(names)
        logs, robust = pd.DataFrame(np.log(self.per_seed(value)[present])), self.per_seed("robust")[present]
        return stats.mean(logs.corrwith(robust, axis=1, method=method), support=(-1, 1))

    def _present(self, names: Sequence[str]) -> list[str]:
        return [name for name in names or self.right if name in self.right]


def plane_agreements(planes: Mapping[str, Sequence[flatness.Plane]]) -> pd.DataFrame:
    """`experiments.plane_agreement` of each further seed with the first one: a row each, so none for one seed.

    Args:
        planes: method -> one plane a seed.
    """
    values = torch.stack([torch.stack([plane.values for plane in found]) for found in planes.values()], dim=1)
    return pd.DataFrame([experiments.plane_agreement(of_seed, values[0]) for of_seed in values[1:]])


def energies(split: Split, networks: Networks, names: Sequence[str]) -> pd.DataFrame:
    """The mean change of log p at PGD-40 points, for attacks of each radius of the settings.

    Args:
        split: the images, and the settings.
        networks: of the seeds of the settings.
        names: of the methods that are followed.

    Returns:
        One row a method, radius and seed: `method`, `seed`, `eps`, `delta`.
    """
    rows, cfg, (x, y) = [], split.cfg, split.images
    for name in names:
        for eps in cfg.energy_eps:
            for seed, net in zip(cfg.seeds, networks[name], strict=True):
                delta = experiments.log_likelihood_shift(net, x, y, eps, steps=40, seed=seed).mean()
                rows.append({"method": name, "seed": seed, "eps": eps, "delta": float(delta)})
    return pd.DataFrame(rows)
