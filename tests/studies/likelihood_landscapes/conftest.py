"""The study in small: three methods, few images, one epoch."""

import dataclasses

import pytest
import torch

from flatlab import studies
from flatlab.studies.likelihood_landscapes.learning import Split
from flatlab.studies.likelihood_landscapes.settings import LikelihoodLandscapes


@pytest.fixture(scope="session")
def small() -> LikelihoodLandscapes:
    quick = studies.resolve("likelihood_landscapes", "quick")
    return dataclasses.replace(
        quick,
        methods=tuple(method for method in quick.methods if method.name in ("std", "pgd_at", "flat_rand")),
        seeds=(20, 21),
        train_limit=120,
        test_limit=40,
        selection_images=30,
        second_limit=50,
        recipe=dataclasses.replace(quick.recipe, epochs=3),
        doses=(1.0, 100.0),
        radii_trained=(0.02, 0.1),
        energy_eps=(0.05, 0.3),
        directions=2,
        radii=2,
    )


@pytest.fixture(scope="session")
def split(small) -> Split:
    return Split.load(small, device=torch.device("cpu"))


@pytest.fixture(scope="session")
def networks(split) -> dict[str, list[torch.nn.Module]]:
    return split.fit_all(split.cfg.seeds)
