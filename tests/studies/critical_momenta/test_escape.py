"""Escape from sharp basins: the grid against single descents, and the rates read off it."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

from flatlab import studies, test_functions, train
from flatlab.optim import AdamCM, theory
from flatlab.studies.critical_momenta import escape
from flatlab.studies.critical_momenta.settings import METHODS

RATES, SHARPNESS = (0.01, 0.1, 1.0), (30.0, 1000.0)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, partial(AdamCM, init="corrected")])
def test_basins_side_by_side_are_basins_alone(optimizer) -> None:
    left = escape.escape_grid(optimizer, RATES, SHARPNESS, starts=6, steps=60, seed=3)
    assert left.shape == (6, 3, 2)
    assert left.dtype == torch.bool
    assert 0 < left.sum() < left.numel()
    for column, sharpness in enumerate(SHARPNESS):
        basin = test_functions.two_basins(1, sharpness)
        at = basin.sharp_starts(6, generator=torch.Generator().manual_seed(3))
        for row, lr in enumerate(RATES):
            run = train.descend(basin, at, optimizer, steps=60, lr=lr)
            assert torch.equal(left[:, row, column], basin.escaped(run.x))


def test_the_first_rate_lies_between_two_of_the_grid() -> None:
    left = torch.tensor([[[0, 1, 0], [1, 1, 0], [0, 1, 0]]]).bool()  # one start, three rates, three basins
    assert escape.first_rates(left, RATES).tolist() == [pytest.approx([-1.5, -2.5, 0.5])]
    for rates in ((0.1, 1.0), (1.0, 0.1, 0.01), (0.1, 0.1, 1.0)):
        with pytest.raises(ValueError, match="3 ascending"):
            escape.first_rates(left, rates)


def test_the_prediction_falls_with_the_root_of_the_sharpness() -> None:
    assert escape.predicted_rate(METHODS["c0"], 100.0) == pytest.approx(0.2)  # a cycle of half a learning rate
    assert escape.predicted_rate(METHODS["adam"], 100.0) == pytest.approx(3.8)
    for name, capacity in (("cm", 5), ("cm20_corrected", 20)):
        assert escape.predicted_rate(METHODS[name], 400.0) == pytest.approx(1 / (20 * theory.cycle_size(capacity)))
    assert [escape.predicted_rate(METHODS[name], 100.0) for name in ("sam", "cg", "cm99")] == [None] * 3
    with pytest.raises(ValueError, match="sharpness"):
        escape.predicted_rate(METHODS["cm"], 0.0)


def test_a_grid_of_methods_is_compared_start_by_start() -> None:
    cfg = dataclasses.replace(studies.resolve("critical_momenta", "quick"), starts=8, toy_steps=60)
    escapes = escape.Escapes.run(cfg, ("adam", "cm_corrected", "cg"))
    left = escapes.left["adam"]
    assert left.shape == (8, len(cfg.rates), len(cfg.sharpness))
    assert torch.equal(left, escape.leave(cfg, "adam", cfg.rates, 8, cfg.seeds[0]))
    more = escapes.more("cm_corrected", "adam")
    assert more.value == pytest.approx(float((escapes.left["cm_corrected"] - left).mean()))
    last = cfg.rates[-1]
    expected = float(escapes.left["cm_corrected"][:, -1].mean() - left[:, -2].mean())
    assert escapes.more_at("cm_corrected", last, "adam", cfg.rates[-2]).value == pytest.approx(expected)
    assert escapes.trend("cm_corrected").n == 8
    first = escape.first_rates(left.bool(), cfg.rates).mean()
    predicted = np.log10([escape.predicted_rate(cfg.method("adam"), s) for s in cfg.sharpness]).mean()
    assert escapes.off_by("adam").value == pytest.approx(float(first) - predicted)
    assert escapes.predicted("cg") is None
    with pytest.raises(ValueError, match="nothing predicts"):
        escapes.off_by("cg")
    (missed,) = escape.escape_score(cfg)("adam", {"lr": last}, (1,))
    assert missed == pytest.approx(1 - float(escape.leave(cfg, "adam", (last,), 128, 1).mean()))
