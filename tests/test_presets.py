"""Presets: resolved and shape-checked, the ones too large to run here included."""

import pytest
import torch

from flatlab import attacks, data, defenses, models, presets
from flatlab.presets import likelihood_landscapes


@pytest.mark.parametrize("preset", presets.NAMES)
def test_every_preset_is_complete_and_fits_its_data(preset: str) -> None:
    cfg = presets.resolve("likelihood_landscapes", preset)
    assert cfg.dataset in data.available()
    assert cfg.suite in attacks.SUITES
    assert {"std", "pgd_at", "flat_rand"} <= set(cfg.names)
    assert not set(cfg.seeds) & set(cfg.selection_seeds), "reported seeds must not be those of the selection"
    for method in cfg.methods:
        defenses.make(method.defense, eps=cfg.eps, **method.options)
        for options in cfg.choices(method.name):
            defenses.make(method.defense, eps=cfg.eps, **options)
    shape, classes = {"digits": ((1, 8, 8), 10), "cifar10": ((3, 32, 32), 10)}[cfg.dataset]
    with torch.device("meta"):
        network = models.build(cfg.model, shape, classes, options=cfg.model_options).eval()
        assert network(torch.rand(2, *shape)).shape == (2, classes)


def test_the_weights_in_use_are_among_those_that_were_tried() -> None:
    for name, options in likelihood_landscapes.WEIGHTS.items():
        assert options in presets.resolve("likelihood_landscapes", "cpu").choices(name)


def test_overrides_are_checked_by_name_and_type() -> None:
    cfg = presets.resolve("likelihood_landscapes", "quick", eps=0.2, seeds=2, test_limit=None)
    assert (cfg.eps, cfg.seeds, cfg.test_limit) == (0.2, (0, 1), None)
    assert presets.resolve("likelihood_landscapes", "quick", seeds=[4, 5]).seeds == (4, 5)
    assert presets.resolve("likelihood_landscapes", "quick", eps=1).eps == 1.0
    with pytest.raises(ValueError, match="no setting 'seds'; did you mean 'seeds'"):
        presets.resolve("likelihood_landscapes", "quick", seds=3)
    with pytest.raises(TypeError, match="'eps' must be float, got '0.1'"):
        presets.resolve("likelihood_landscapes", "quick", eps="0.1")
    with pytest.raises(TypeError, match="'test_limit' must be int or NoneType"):
        presets.resolve("likelihood_landscapes", "quick", test_limit=True)
    with pytest.raises(ValueError, match="seeds must be an integer >= 1, got 0"):
        presets.resolve("likelihood_landscapes", "quick", seeds=0)
    with pytest.raises(ValueError, match="unknown preset 'qick'.*did you mean 'quick'"):
        presets.resolve("likelihood_landscapes", "qick")
    with pytest.raises(ValueError, match="unknown study"):
        presets.resolve("landscapes", "quick")


def test_the_grid_is_a_product() -> None:
    assert presets.resolve("likelihood_landscapes", "cpu").choices("std") == [{}]
    assert {"weight": 10.0} in presets.resolve("likelihood_landscapes", "cpu").choices("flat_rand")
