"""The images that networks learn and are tested on, every defense trained on them, and the choice of its weights."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from flatlab import attacks, data, defenses, models, train
from flatlab.studies.likelihood_landscapes.settings import LikelihoodLandscapes


@dataclass(frozen=True, eq=False)
class Split:
    """Images to train on and others to test on.

    Attributes:
        cfg: the settings.
        train_set, test_set: without an image in common.
        device: where networks are trained.
        passes: how many times the epochs of the settings are trained, for splits with fewer training images.
    """

    cfg: LikelihoodLandscapes
    train_set: data.ImageSet
    test_set: data.ImageSet
    device: torch.device
    passes: int = 1

    @classmethod
    def load(cls, cfg: LikelihoodLandscapes, *, root: str = "", device: torch.device) -> "Split":
        """The image set's own split.

        Args:
            cfg: the settings.
            root: as in `flatlab.data.load_images`, or empty.
            device: where networks are trained.
        """
        train_set = data.load_images(cfg.dataset, "train", root=root or None, limit=cfg.train_limit)
        test_set = data.load_images(cfg.dataset, "test", root=root or None, limit=cfg.test_limit)
        return cls(cfg, train_set, test_set, device)

    @property
    def images(self) -> tuple[Tensor, Tensor]:
        """The images tested on, (N, C, H, W) in [0, 1], and their labels (N,), on the device."""
        return self.test_set.float(self.device)

    def validation(self) -> "Split":
        """Training images alone: those that choose the weights are tested on, and the rest is trained on.

        Raises:
            ValueError: no more training images than choose the weights.
        """
        rest, held_out = data.holdout(self.train_set, self.cfg.selection_images, seed=0)
        return dataclasses.replace(self, train_set=rest, test_set=held_out)

    def turned(self) -> "Split":
        """The second split: trained on what is tested on here, for about as many updates, and tested on training images
        of which none chose weights."""
        rest = self.validation().train_set
        unseen = rest.subset(rest.stratified(min(self.cfg.second_limit, len(rest)), seed=0))
        passes = max(1, round(len(self.train_set) / len(self.test_set)))
        return dataclasses.replace(self, train_set=self.test_set, test_set=unseen, passes=passes)

    def network(self, seed: int) -> nn.Module:
        """The untrained network of a seed."""
        shape, classes = tuple(self.train_set.x.shape[1:]), len(self.test_set.classes)
        return models.build(self.cfg.model, shape, classes, seed=seed, options=self.cfg.model_options)

    def fit(
        self, defense: str, options: Mapping[str, Any], seeds: Sequence[int], *, eps: float | None = None
    ) -> list[nn.Module]:
        """A network a seed, trained with a defense for as many updates as with any other.

        Args:
            defense, options: as in `flatlab.defenses.make`.
            seeds: of networks and batches.
            eps: radius of the defense, in units of pixels in [0, 1]; None takes that of the attacks.
        """
        objective = defenses.make(defense, eps=self.cfg.eps if eps is None else eps, **options)
        epochs = -(-self.passes * self.cfg.recipe.epochs // objective.replays)
        recipe = dataclasses.replace(self.cfg.recipe, epochs=epochs)
        return train.fit_seeds(self.network, self.train_set, objective, recipe, seeds=seeds, device=self.device)

    def fit_all(self, seeds: Sequence[int]) -> dict[str, list[nn.Module]]:
        """Label of each method -> its networks, one a seed."""
        return {method.name: self.fit(method.defense, method.options, seeds) for method in self.cfg.methods}


def try_options(split: Split) -> pd.DataFrame:
    """Mean accuracies of the networks of the selection seeds: one row for each method and choice of its options.

    Returns:
        Columns `method`, the names of options, `clean`, and `robust` under the fast suite.
    """
    rows, (x, y) = [], split.images
    for method in split.cfg.methods:
        for options in split.cfg.choices(method.name):
            nets = split.fit(method.defense, options, split.cfg.selection_seeds)
            reports = [attacks.evaluate_robustness(net, x, y, split.cfg.eps, suite="fast") for net in nets]
            found = {value: np.mean([getattr(report, value) for report in reports]) for value in ("clean", "robust")}
            rows.append({"method": method.name, **options, **found})
    return pd.DataFrame(rows)


def best_options(tried: pd.DataFrame) -> pd.DataFrame:
    """The most robust row of each method, of those at most two points of clean accuracy below "std"."""
    bar = tried.loc[tried["method"] == "std", "clean"].item() - 0.02
    ranked = tried[tried["clean"] >= bar].sort_values("robust", ascending=False, kind="stable")
    return ranked.groupby("method").head(1)
