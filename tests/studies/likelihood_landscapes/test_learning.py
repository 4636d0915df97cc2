"""Which images are trained on and tested on, for how long, and which options the validation images choose."""

import dataclasses

import pandas as pd
import pytest
import torch

from flatlab import attacks, defenses, train
from flatlab.studies.likelihood_landscapes import learning


def rows(images) -> set[tuple[int, ...]]:
    return set(map(tuple, images.x.flatten(1).tolist()))


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return train.distance(a, b) == 0


def test_no_image_is_trained_on_and_tested_on(split) -> None:
    inner, turned = split.validation(), split.turned()
    assert (len(split.train_set), len(split.test_set)) == (120, 40)
    assert (len(inner.train_set), len(inner.test_set)) == (90, 30)
    assert rows(inner.train_set) | rows(inner.test_set) == rows(split.train_set)
    assert rows(turned.train_set) == rows(split.test_set)
    assert len(turned.test_set) == 50
    assert rows(turned.test_set) <= rows(inner.train_set)  # none that chose weights
    for one in (split, inner, turned):
        assert not rows(one.train_set) & rows(one.test_set)
    few = dataclasses.replace(split, cfg=dataclasses.replace(split.cfg, second_limit=1000))
    assert rows(few.turned().test_set) == rows(inner.train_set)


def test_the_second_split_trains_for_as_many_updates(split) -> None:
    assert (split.passes, split.turned().passes) == (1, 3)
    assert dataclasses.replace(split, train_set=split.test_set, test_set=split.train_set).turned().passes == 1
    recipe = dataclasses.replace(split.cfg.recipe, epochs=9)
    (net,) = split.turned().fit("std", {}, (3,))
    (expected,) = train.fit_seeds(split.network, split.test_set, train.cross_entropy, recipe, seeds=(3,))
    assert same(net, expected)


def test_a_network_has_its_seed_its_defense_and_its_radius(split, networks) -> None:
    assert set(networks) == {"std", "pgd_at", "flat_rand"}
    assert all(len(nets) == 2 for nets in networks.values())
    weight = {"weight": 100.0}
    assert same(split.fit("flat_rand", weight, split.cfg.seeds)[1], networks["flat_rand"][1])
    assert same(split.fit("pgd_at", {}, split.cfg.seeds, eps=split.cfg.eps)[0], networks["pgd_at"][0])
    assert not same(split.fit("pgd_at", {}, split.cfg.seeds, eps=0.02)[0], networks["pgd_at"][0])
    assert not same(networks["std"][0], networks["std"][1])
    assert same(split.network(4), split.network(4))


def test_replays_take_the_place_of_epochs(split) -> None:
    replays = defenses.make("free", eps=0.1).replays
    short = dataclasses.replace(split, passes=3)  # nine epochs
    recipe = dataclasses.replace(split.cfg.recipe, epochs=-(-9 // replays))
    goal = defenses.make("free", eps=split.cfg.eps)
    (expected,) = train.fit_seeds(split.network, split.train_set, goal, recipe, seeds=(3,))
    assert same(short.fit("free", {}, (3,))[0], expected)


def test_every_choice_of_options_is_scored_on_the_held_out_images(split) -> None:
    few = dataclasses.replace(split.cfg, methods=split.cfg.methods[:1] + split.cfg.methods[2:], selection_seeds=(7, 8))
    inner = dataclasses.replace(split, cfg=few).validation()
    tried = learning.try_options(inner)
    assert list(tried["method"]) == ["std"] + ["flat_rand"] * 4
    assert list(tried["weight"][1:]) == [1.0, 10.0, 100.0, 1000.0]
    nets = inner.fit("flat_rand", {"weight": 10.0}, (7, 8))
    reports = [attacks.evaluate_robustness(net, *inner.images, few.eps, suite="fast") for net in nets]
    assert tried["robust"][2] == pytest.approx(sum(report.robust for report in reports) / 2)
    assert tried["clean"][2] == pytest.approx(sum(report.clean for report in reports) / 2)


def test_the_best_options_are_the_most_robust_that_cost_two_points_at_most() -> None:
    columns = ["method", "weight", "clean", "robust"]
    tried = pd.DataFrame(
        [
            ("std", None, 0.90, 0.1),
            ("a", 1.0, 0.89, 0.3),
            ("a", 2.0, 0.885, 0.4),
            ("a", 3.0, 0.87, 0.9),  # costs three points
            ("b", 1.0, 0.95, 0.2),
            ("b", 2.0, 0.95, 0.2),  # of equal ones the first
            ("c", 1.0, 0.5, 0.9),
        ],
        columns=columns,
    )
    best = learning.best_options(tried).set_index("method")["weight"].to_dict()
    assert best.pop("std") != best["a"]
    assert best == {"a": 2.0, "b": 1.0}
