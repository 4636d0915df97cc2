"""The summaries that a study asks for: each agrees with what it is made of, and proofs agree with the truth."""

import pytest
import torch
from torch import nn

from flatlab import bounds, data, models, train


def test_a_flatness_report_is_in_order() -> None:
    net = models.build("mlp", (1, 8, 8), 10, options={"widths": (16,)})
    x, y = data.load_images("digits", "test", limit=30).float()
    found = bounds.flatness_report(net, x, y, 0.1, generator=torch.Generator().manual_seed(0))
    assert found["random gap"] <= found["attack gap"] <= found["certified loss"] - found["train loss"]
    assert found["SAM step"] <= found["attack gap"]
    assert found["excess"] <= 0


def test_a_word_report_proves_nothing_that_is_false() -> None:
    task = data.synonym_task(20, seed=0)
    net = models.build("text_mlp", (8, 8), 2, options={"vocabulary": 60})
    net.embedding.weight.data.copy_(task.vectors)
    found = bounds.word_report(net, task, 1)
    assert found["false proofs"] == 0
    assert found["verified"] >= max(found["ibp"], found["crown-ibp"], found["crown"])
    assert found["verified"] <= found["truth"] <= found["clean"]
    untold = bounds.word_report(net, task, 1, truth=False)
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
    for region in bounds.every_set(x, 0.1, generator=g).values():
        assert bounds.attainment(region, torch.randn(9, 3, 4, 5, generator=g)) < 1e-5
    shrunk = bounds.LpBall(x, 0.1)
    object.__setattr__(shrunk, "eps", torch.tensor(0.05))
    assert bounds.attainment(shrunk, torch.randn(9, 3, 4, 5, generator=g)) > 0.01, "a point outside of its set shows"


def test_a_wrong_gradient_is_noticed_and_the_weights_come_back() -> None:
    w = torch.randn(3, dtype=torch.float64, requires_grad=True)
    before, g = w.detach().clone(), torch.Generator().manual_seed(0)
    assert bounds.gradient_error(lambda: (w**3).sum(), [w], generator=g) < 1e-7
    assert bounds.gradient_error(lambda: (w.detach() ** 3 + w).sum(), [w], generator=g) > 1e-3
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
