"""Dose and response: a network a dose, measured like any other, and the slope over the doses."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch

from flatlab.studies.likelihood_landscapes import doses, experiments


def test_a_dose_is_a_weight(split) -> None:
    blank = [split.network(seed).eval() for seed in split.cfg.seeds]
    found = doses.by_weight(split, blank)  # the weight of the settings is 100: nothing is trained for it
    assert list(found.frame["dose"]) == [1.0, 1.0, 100.0, 100.0]
    assert list(found.frame["seed"]) == [20, 21, 20, 21]
    assert found.hits.shape == (2, 2, 40)
    trained = split.fit("flat_rand", {"weight": 1.0}, split.cfg.seeds)
    for row, seed, net in ((1, 21, trained[1]), (2, 20, blank[0])):
        hits, phi = experiments.robustness_and_flatness(net, *split.images, split.cfg.eps, seed=seed)
        assert found.frame.loc[row, "phi"] == phi
        assert found.frame.loc[row, "robust"] == float(hits.double().mean())
        assert np.array_equal(found.hits[row // 2, row % 2], hits)


def test_known_networks_are_those_of_the_options_in_the_settings(split) -> None:
    methods = tuple(dataclasses.replace(method, options={"weight": 1.0}) for method in split.cfg.methods)
    other = dataclasses.replace(split, cfg=dataclasses.replace(split.cfg, methods=methods, doses=(1.0, 3.0)))
    blank = [split.network(seed).eval() for seed in split.cfg.seeds]
    found = doses.by_weight(other, blank)
    assert found.frame.loc[0, "phi"] == experiments.robustness_and_flatness(blank[0], *split.images, 0.1, seed=20)[1]


def test_a_dose_is_a_radius(split) -> None:
    blank = [split.network(seed).eval() for seed in split.cfg.seeds]
    found = doses.by_radius(split, blank)  # nothing is trained for the radius of the attacks
    net = split.fit("pgd_at", {}, split.cfg.seeds, eps=0.02)[0]
    expected = [experiments.robustness_and_flatness(n, *split.images, 0.1, seed=20)[1] for n in (net, blank[0])]
    assert list(found.frame.loc[[0, 2], "phi"]) == expected


def test_a_network_that_diverged_counts_as_the_steepest(split) -> None:
    nets = [split.network(seed).eval() for seed in split.cfg.seeds]
    with torch.no_grad():
        next(nets[1].parameters()).fill_(math.nan)
    found = doses.DoseResponse.of(split, (1.0,), lambda dose: nets)
    assert found.frame.loc[1, "phi"] == found.frame.loc[0, "phi"]
    assert not found.hits[0, 1].any()


def test_the_slope_is_that_of_the_logarithm() -> None:
    rows = [(dose, seed, factor * dose**-2) for dose in (1.0, 10.0) for seed, factor in ((0, 1.0), (1, 5.0))]
    frame = pd.DataFrame(rows, columns=["dose", "seed", "phi"])
    found = doses.DoseResponse(frame, np.zeros((2, 2, 1), dtype=bool)).slope([0.0, 1.0])
    assert found.value == pytest.approx(-2)
    assert found.n == 2
