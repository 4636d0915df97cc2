"""The summaries that a study asks for: each agrees with what it is made of, and proofs agree with the truth."""

import dataclasses
from functools import partial
from unittest import mock

import pytest
import torch
from torch import nn

from flatlab import bounds, data, models, train
from flatlab.studies import resolve
from flatlab.studies.certified_bounds import balls, experiments, synonyms, tasks, weight_balls


def test_a_flatness_report_is_in_order() -> None:
    net = models.build("mlp", (1, 8, 8), 10, options={"widths": (16,)})
    x, y = data.load_images("digits", "test", limit=30).float()
    found = weight_balls.flatness_report(net, x, y, 0.1, generator=torch.Generator().manual_seed(0))
    assert found["random gap"] <= found["attack gap"] <= found["certified loss"] - found["train loss"]
    assert found["SAM step"] <= found["attack gap"]
    assert found["excess"] <= 0


def test_a_word_report_proves_nothing_that_is_false() -> None:
    task = data.synonym_task(20, seed=0)
    net = models.build("text_mlp", (8, 8), 2, options={"vocabulary": 60})
    net.embedding.weight.data.copy_(task.vectors)
    found = synonyms.word_report(net, task, 1)
    assert found["false proofs"] == 0
    assert found["cheap"] >= max(found["ibp"], found["crown-ibp"])
    assert found["verified"] >= max(found["cheap"], found["crown"])
    assert found["verified"] <= found["truth"] <= found["clean"]
    untold = synonyms.word_report(net, task, 1, truth=False)
    assert untold["truth"] != untold["truth"], "what is not counted out is NaN"


def test_images_are_verified_alike_in_any_batches() -> None:
    net = models.build("mlp", (1, 8, 8), 10, options={"widths": (16,)})
    x, y = data.load_images("digits", "test", limit=30).float()
    y = net(x).argmax(1)
    program = bounds.Program(net, x[:2])
    whole, parts = (bounds.verified_in_ball(program, x, y, 0.001, batch_size=n) for n in (30, 7))
    assert torch.equal(whole, parts)
    assert whole.any()
    with pytest.raises(ValueError, match="unknown method"):
        bounds.verified_in_ball(program, x, y, 0.001, method="crwn")


def test_worst_points_reach_their_bounds_on_every_set() -> None:
    x, g = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1)
    for region in experiments.every_set(x, 0.1, generator=g).values():
        assert experiments.attainment(region, torch.randn(9, 3, 4, 5, generator=g)) < 1e-5
    shrunk = bounds.LpBall(x, 0.1)
    shrunk.eps = torch.tensor(0.05)
    assert experiments.attainment(shrunk, torch.randn(9, 3, 4, 5, generator=g)) > 0.01, (
        "a point outside of its set shows"
    )


def test_a_wrong_gradient_is_noticed_and_the_weights_come_back() -> None:
    w = torch.randn(3, dtype=torch.float64, requires_grad=True)
    before, g = w.detach().clone(), torch.Generator().manual_seed(0)
    assert experiments.gradient_error(lambda: (w**3).sum(), [w], generator=g) < 1e-7
    assert experiments.gradient_error(lambda: (w.detach() ** 3 + w).sum(), [w], generator=g) > 1e-3
    assert torch.equal(w, before)


def test_rounding_keeps_the_grid_and_the_original() -> None:
    net = nn.Linear(6, 4)
    before = net.weight.detach().clone()
    for bits in (2, 4):
        found = models.round_weights(net, bits)
        steps = found.weight / (before.abs().max() / (2 ** (bits - 1) - 1))
        assert torch.allclose(steps, steps.round(), atol=1e-4)
        assert (found.weight - before).abs().max() <= before.abs().max() / (2 ** (bits - 1) - 1) / 2 + 1e-6
        assert torch.equal(found.bias, net.bias)
    assert torch.equal(net.weight, before)
    with pytest.raises(ValueError, match="bits must be an integer >= 2, got 1"):
        models.round_weights(net, 1)


def test_calls_are_timed_after_one_that_does_not_count() -> None:
    calls: list[int] = []
    assert len(train.seconds(lambda: calls.append(0), torch.device("cpu"), repeats=3)) == 3
    assert len(calls) == 4


def test_operations_of_a_product_and_of_its_gradient_are_counted() -> None:
    w, x = torch.randn(4, 5, requires_grad=True), torch.randn(6, 5)
    assert train.operations(lambda: x @ w.T) == 2 * 6 * 5 * 4
    assert train.operations(lambda: torch.autograd.grad((x @ w.T).sum(), w)) == 2 * 2 * 6 * 5 * 4


def small_net() -> tuple[balls.Trained, torch.Tensor, torch.Tensor]:
    """An untrained perceptron, and labels of which three in four are what it says."""
    x, y = data.load_images("digits", "test", limit=40).float()
    net = models.build("mlp", (1, 8, 8), 10, options={"widths": (16,)}).eval()
    y[:30] = net(x[:30]).argmax(1)
    return balls.Trained(net, 0, bounds.Program(net, x[:2])), x, y


def test_a_ball_report_agrees_with_what_it_is_made_of() -> None:
    net, x, y = small_net()
    found = net.report(x, y, 0.004, costly=25)
    for method in ("ibp", "crown-ibp", "crown"):
        n = len(found[method])
        assert torch.equal(found[method], ~bounds.verified_in_ball(net.program, x[:n], y[:n], 0.004, method=method))
    costly = {name for name, flags in found.items() if len(flags) == 25}
    assert costly == {"crown", "alpha-crown", "verified"}
    assert torch.equal(found["cheap"], found["ibp"] & found["crown-ibp"])
    assert not (found["verified"] & ~found["cheap"][:25]).any()
    assert not (found["attacked"] & ~found["cheap"]).any()
    assert 0 < found["cheap"].sum() < 40
    assert balls.contradictions(found) == {
        "broken": 0,
        "looser": int((found["crown"] & ~found["crown-ibp"][:25]).sum()),
    }


def test_alpha_crown_is_asked_about_what_is_left_and_proves_more() -> None:
    net, x, y = small_net()
    found = net.report(x, y, 0.02, costly=40, steps=20)
    low = bounds.Bounds(net.program, x, bounds.LpBall(x, 0.02, clip=(0, 1))).lower(
        "alpha-crown", bounds.Margins(y, 10), ascent=bounds.Ascent(20)
    )
    assert torch.equal(found["alpha-crown"], ~(low > 0).all(1))


def test_what_no_method_proves_is_what_all_leave() -> None:
    net, x, y = small_net()
    left = net.unproven(x, y, 0.01, balls.PLAIN)
    assert torch.equal(left, torch.stack([~net.proven(x, y, 0.01, method) for method in balls.PLAIN]).all(0))
    assert torch.equal(net.unproven(x, y, 0.01, ()), torch.ones(40, dtype=torch.bool))


def test_a_proof_that_an_attack_breaks_is_counted() -> None:
    net, x, _ = small_net()
    with mock.patch("flatlab.bounds.verified_in_ball", return_value=torch.ones(40, dtype=torch.bool)):
        found = net.report(x, (net.model(x).argmax(1) + 1) % 10, 0.1)
    assert balls.contradictions(found) == {"broken": 80, "looser": 0}


def test_tuning_scores_are_shares_and_losses_of_held_out_data() -> None:
    cfg = resolve("certified_bounds", "quick")
    short = dataclasses.replace(cfg.flat_recipe, epochs=3)
    words = dataclasses.replace(cfg.word_recipe, epochs=1)
    cfg = dataclasses.replace(
        cfg, proven=20, word_tests=5, words=40, word_epochs={}, word_recipe=words, flat_recipe=short
    )
    task = dataclasses.replace(cfg.tasks[0], recipe=dataclasses.replace(cfg.tasks[0].recipe, epochs=1))
    cpu, digits = torch.device("cpu"), data.load_images("digits", "train")
    for score, kind, options in (
        (partial(tasks.ImageTasks(cfg, device=cpu).score, task), "natural", {"lr": 0.01}),
        (partial(synonyms.word_score, cfg, device=cpu), "ibp", {"lr": 0.01}),
        (partial(weight_balls.decay_score, cfg, digits, device=cpu), "sam", {"decay": 0.01}),
    ):
        found = list(score(kind, options, (3, 4)))
        assert len(found) == 2
        assert all(0 <= value <= 1 or kind == "sam" for value in found)


def test_networks_are_kept_at_the_level() -> None:
    cfg = resolve("certified_bounds", "quick")
    short, cpu = dataclasses.replace(cfg.flat_recipe, epochs=3), torch.device("cpu")
    shown = weight_balls.few(cfg, data.load_images("digits", "train"), 0)
    for level in (9.0, 0.0):
        cfg = dataclasses.replace(cfg, flat_recipe=short, level=level)
        found = [weight_balls.fit_flat(cfg, way, shown, 0, decay=0.0, device=cpu) for way in cfg.flat]
        assert all((nets["level"] is None) == (level == 0) for nets in found)
    tested = data.load_images("digits", "test", limit=20).float()
    row = weight_balls.flat_row(found[0]["end"], shown.float(), tested, 0.1, seed=0)
    assert set(row["lost"]) <= {-1, 0, 1}
    assert list(weight_balls.flat_row(None, shown.float(), tested, 0.1, seed=0)) == ["right"]


def test_a_trial_takes_other_weights_and_finds_no_violation() -> None:
    cfg = resolve("certified_bounds", "quick")
    net = experiments.RandomNetwork(cfg.networks[0], 2, device=torch.device("cpu"))
    methods = {name: lambda made, name=name: made.compute(name) for name in ("ibp", "crown-ibp", "crown")}
    rows = [net.trial(seed, methods, steps=3) for seed in (0, 1)]
    assert all(row["excess"] <= 1e-6 and row["crown-ibp out of ibp"] <= 1e-6 for row in rows)
    assert all(row["attacked"] <= row["crown"] < row["crown-ibp"] < row["ibp"] for row in rows)
    assert rows[0]["ibp"] != rows[1]["ibp"]
    assert net.trial(0, methods, steps=3) == rows[0]


def test_a_refutation_is_the_worst_of_all_bounds() -> None:
    net = models.build("mlp", (1, 1, 2), 3, options={"widths": (8,)}).eval()
    region = bounds.LpBall(torch.rand(4, 1, 1, 2, generator=torch.Generator().manual_seed(0)), 0.2)
    low, high = bounds.compute_bounds(net, region.center, region)
    false = net(region.center).detach()
    worst, (smallest, largest) = experiments.refute(net, region, [(false, false), (low, high)], steps=5, starts=1)
    assert worst == bounds.violation(false, false, smallest, largest) > 0
    assert experiments.refute(net, region, [(low, high)], steps=5, starts=1)[0] <= 1e-6


def test_the_cost_of_a_step_counts_rows() -> None:
    x, y = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    found = {}
    for classes in (10, 100):
        net = models.build("mlp", (1, 8, 8), classes, options={"widths": (16, 16)})
        for kind in experiments.STEP_KINDS:
            seconds, found[kind, classes] = experiments.step_cost(kind, net, x, y, 0.01, repeats=2)
            assert seconds > 0
    assert found["natural", 10] < found["IBP", 10] < found["fused", 10] < found["plain", 10]
    assert found["plain", 100] / found["plain", 10] > 3 * found["fused", 100] / found["fused", 10]
    with pytest.raises(ValueError, match="kind"):
        experiments.step_cost("cheap", net, x, y, 0.01)


def test_the_gap_to_enumeration_is_rounding_and_shows_a_wrong_bound() -> None:
    task, g = data.synonym_task(3, seed=0, length=4), torch.Generator()
    assert synonyms.enumeration_gap(task, 2, generator=g.manual_seed(0)) < 1e-5
    with mock.patch.object(bounds.Synonyms, "lower", lambda self, a: (a * self.x).flatten(2).sum(2)):
        assert synonyms.enumeration_gap(task, 2, generator=g.manual_seed(0)) > 0.1
