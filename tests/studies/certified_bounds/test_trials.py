"""Random trials: each with its own seed, clean where the code is right, and not where it is broken."""

import dataclasses
import operator
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor

from flatlab import bounds, studies
from flatlab.studies.certified_bounds import experiments, synonyms, trials

CPU = torch.device("cpu")
METHODS: dict[str, experiments.Method] = {
    name: operator.methodcaller("compute", name.lower()) for name in ("IBP", "CROWN-IBP", "CROWN")
}
QUICK = studies.resolve("certified_bounds", "quick")
CFG = dataclasses.replace(
    QUICK,
    networks=tuple(network for network in QUICK.networks if network.label in ("MLP", "Transformer")),
    draws=2,
    trials=9,
    audit_steps=2,
)


def made(method: Callable[[bounds.Bounds], tuple[Tensor, Tensor]] | None = None, shift: int = 0) -> trials.Trials:
    methods = METHODS if method is None else dict.fromkeys(METHODS, method)
    return trials.Trials(CFG, methods, shift=shift, device=CPU)


def test_every_network_and_draw_is_a_trial_of_its_own() -> None:
    found = made(shift=1000).of_networks()
    assert [row["network"] for row in found] == ["MLP", "MLP", "Transformer", "Transformer"]
    assert all(row["excess"] <= 1e-6 for row in found)
    for index, seed in enumerate((1000, 1010, 1001, 1011)):
        net = experiments.RandomNetwork(CFG.networks[index // 2], CFG.examples, device=CPU)
        assert found[index] == {"network": net.network.label} | net.trial(seed, METHODS, steps=2)


def test_sets_of_all_kinds_take_turns() -> None:
    found = made().of_sets()
    kinds = list(experiments.every_set(torch.zeros(1, 6, 8), 0.1, generator=torch.Generator()))
    assert [row["set"] for row in found] == [*kinds, kinds[0]]
    assert all(row["excess"] <= 1e-6 for row in found)
    assert found[0]["attacked"] != found[8]["attacked"]


def test_bounds_that_are_too_narrow_show() -> None:
    def false(found: bounds.Bounds) -> tuple[Tensor, Tensor]:
        low, high = found.compute("crown")
        return (low + high) / 2, (low + high) / 2

    never = made(false)
    assert all(row["excess"] > 1e-3 for row in never.of_networks() + never.of_sets())


def test_regions_lie_around_other_points_by_seed_and_shift() -> None:
    never, moved = made(), made(shift=1000)
    centres = [never.region(s)[1].center for s in never.numbers] + [moved.region(s)[1].center for s in moved.numbers]
    assert moved.numbers == list(range(1200, 1209))
    assert len({tuple(x.flatten().tolist()) for x in centres}) == 18


def test_enumeration_agrees_for_one_to_three_words() -> None:
    with mock.patch.object(synonyms, "enumeration_gap", wraps=synonyms.enumeration_gap) as gap:
        found = made().enumeration()
    assert max(found) < 1e-5
    assert {call.args[1] for call in gap.call_args_list} == {1, 2, 3}
    assert len({tuple(call.args[0].codes.flatten().tolist()) for call in gap.call_args_list}) == 9
    with mock.patch.object(bounds.Synonyms, "lower", lambda self, a: (a * self.x).flatten(2).sum(2)):
        assert min(made().enumeration()) > 0.01


def test_bounds_of_functions_are_attained_on_each_set() -> None:
    assert max(made().attainment()) < 1e-5
    with mock.patch.object(bounds.LpBall, "worst", lambda self, a: self.x.expand_as(a)):
        found = made().attainment()
    assert [value > 0.01 for value in found] == [True] * 5 + [False] * 3 + [True]  # five of the kinds are such balls


def test_gradients_agree_and_a_wrong_one_shows() -> None:
    assert max(made().gradients()) < 1e-7

    def flat(found: bounds.Bounds) -> tuple[Tensor, Tensor]:
        low, high = found.compute("crown")
        return low.detach() + 0 * low, high

    assert min(made(flat).gradients()) > 1e-3
    asked: list[str] = []
    never = made()
    with mock.patch.object(never, "_gradient_error", lambda seed, method: asked.append(method) or 0.0):
        never.gradients()
    assert set(asked) == set(METHODS)


def test_planar_networks_differ_by_seed() -> None:
    x = torch.rand(4, 1, 1, 2)
    assert trials.planar_net()(x).shape == (4, 2)
    assert not torch.equal(trials.planar_net(0)(x), trials.planar_net(1)(x))
    assert torch.equal(trials.planar_net()(x), trials.planar_net(0)(x))
