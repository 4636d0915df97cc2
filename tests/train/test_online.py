"""Streams of tasks, learning online, and networks caught at a training loss."""

import pytest
import torch
from torch import nn

from flatlab import data, models, train
from flatlab.optim import SAM, AdamCM

DIGITS = data.load_images("digits", "train", limit=120)


def network(seed: int) -> nn.Module:
    return models.build("mlp", (1, 8, 8), 10, seed=seed, options={"widths": (16,)})


def test_a_stream_shows_every_image_once_and_permutes_pixels_by_task() -> None:
    stream = train.permuted_stream(DIGITS, 3, seed=0)
    assert sorted(stream.y.tolist()) == sorted(DIGITS.y.tolist())
    torch.testing.assert_close(stream.x.sum((1, 2, 3)).sort().values, DIGITS.float()[0].sum((1, 2, 3)).sort().values)
    x = DIGITS.float()[0]
    views = [stream.seen_by(task, x) for task in range(3)]
    assert not torch.equal(views[0], views[1])
    for task, part in enumerate(stream.x.split(40)):
        rows = [next(i for i in range(120) if torch.equal(views[task][i], image)) for image in part[:5]]
        assert DIGITS.y[rows].tolist() == stream.y[40 * task : 40 * task + 5].tolist()
    assert torch.equal(stream.x, train.permuted_stream(DIGITS, 3, seed=0).x)
    assert not torch.equal(stream.orders, train.permuted_stream(DIGITS, 3, seed=1).orders)
    with pytest.raises(ValueError, match="121 tasks needs"):
        train.permuted_stream(DIGITS, 121, seed=0)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, AdamCM, SAM])
def test_networks_side_by_side_learn_as_each_alone(optimizer: type) -> None:
    streams = [train.permuted_stream(DIGITS, 2, seed=s) for s in (1, 2)]
    x, y = torch.stack([s.x for s in streams]).double(), torch.stack([s.y for s in streams])
    alone = [network(s).double() for s in (1, 2)]
    stacked = models.stack_models(alone)
    together = train.fit_online(stacked, x, y, optimizer, lr=0.01)
    assert together.shape == (2, 120)
    for index, net in enumerate(alone):
        assert torch.equal(train.fit_online(net, x[[index]], y[[index]], optimizer, lr=0.01)[0], together[index])
    for net, other in zip(alone, models.unstack(stacked, alone[0]), strict=True):
        for a, b in zip(net.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_a_sample_is_predicted_before_it_is_learned_from() -> None:
    images = DIGITS.subset(range(10))
    net = network(0)
    expected = net.eval()(images.float()[0]).argmax(1) == images.y
    hits = train.fit_online(net, images.float()[0][None], images.y[None], torch.optim.SGD, lr=0.1)
    assert hits[0].tolist() == expected.tolist()


def test_streams_must_match_the_networks() -> None:
    x, y = DIGITS.float()
    with pytest.raises(ValueError, match=r"x must have shape \(1, T, ...\)"):
        train.fit_online(network(0), torch.stack([x, x]), torch.stack([y, y]), torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match="batch_size"):
        train.fit_online(network(0), x[None], y[None], torch.optim.SGD, lr=0.1, batch_size=0)


@pytest.mark.parametrize("strategy", ["stacked", "sequential"])
def test_networks_are_caught_at_the_first_epoch_below_a_level(strategy: str) -> None:
    x, y = DIGITS.float()
    losses: dict[int, list[float]] = {}

    def note(state: train.TrainingState) -> None:
        for seed, net in zip(state.seeds, models.unstack(state.model, network(0)), strict=True):
            losses.setdefault(seed, []).append(train.evaluate_loss(net, x, y).loss)

    caught = train.FirstBelow(network(0), x, y, 1.5, batch_size=32)
    recipe = train.Recipe(epochs=12, batch_size=30, lr=0.01)
    options = {"seeds": (3, 4), "callbacks": [caught, train.Recorder(note)], "strategy": strategy}
    train.fit_seeds(network, DIGITS, train.cross_entropy, recipe, **options)
    assert set(caught.models) == {3, 4}
    for seed, net in caught.models.items():
        epoch = caught.epochs[seed]
        assert losses[seed][epoch - 1] <= 1.5 < min(losses[seed][: epoch - 1])
        assert train.evaluate_loss(net, x, y).loss == pytest.approx(losses[seed][epoch - 1], rel=1e-5)
    never = train.FirstBelow(network(0), x, y, 0.0)
    train.fit_seeds(network, DIGITS, train.cross_entropy, recipe, seeds=(3,), callbacks=[never])
    assert never.models == {}


def test_label_noise() -> None:
    noisy = data.noisy_labels(DIGITS, 0.5, seed=0)
    changed = (noisy.y != DIGITS.y).sum().item()
    assert 40 < changed <= 60
    assert torch.equal(noisy.x, DIGITS.x)
    assert torch.equal(data.noisy_labels(DIGITS, 0.0, seed=0).y, DIGITS.y)
    with pytest.raises(ValueError, match=r"fraction must lie in \[0, 1\], got 1.5"):
        data.noisy_labels(DIGITS, 1.5, seed=0)


def test_streams_side_by_side_are_streams_alone() -> None:
    options = {"lr": 0.1, "seeds": (3, 4)}
    hits, pairs = train.fit_streams(network, DIGITS, 2, torch.optim.SGD, **options)
    for seed, hit, (stream, net) in zip((3, 4), hits, pairs, strict=True):
        alone = train.permuted_stream(DIGITS, 2, seed=seed)
        assert torch.equal(stream.x, alone.x)
        other = network(seed)
        right = train.fit_online(other, alone.x[None], alone.y[None], torch.optim.SGD, lr=0.1)
        assert hit == pytest.approx(float(right.double().mean()))
        assert train.distance(net, other) < 1e-4
        x, y = DIGITS.float()
        each = [train.accuracy(net, stream.seen_by(task, x), y) for task in range(2)]
        assert stream.kept(net, x, y) == pytest.approx(sum(each) / 2)


def test_a_distance_is_that_of_all_weights() -> None:
    a, b = network(0), network(1)
    flat = [torch.cat([p.flatten() for p in net.parameters()]) for net in (a, b)]
    assert train.distance(a, b) == pytest.approx(float((flat[0] - flat[1]).norm()), rel=1e-5)
    assert train.distance(a, a) == 0


@pytest.mark.parametrize("strategy", ["stacked", "sequential"])
def test_the_agreement_of_a_memory_is_kept_by_seed(strategy: str) -> None:
    for optimizer, has in ((AdamCM, True), (torch.optim.Adam, False)):
        watch = train.Recorder(train.cancellation)
        recipe = train.Recipe(epochs=2, batch_size=30, lr=1e-3, optimizer=optimizer)
        options = {"seeds": (0, 1), "strategy": strategy, "callbacks": [watch]}
        train.fit_seeds(network, DIGITS, train.cross_entropy, recipe, **options)
        found = [value for values in watch.values for value in values.values()]
        assert {seed for values in watch.values for seed in values} == {0, 1}
        assert all(0 < value <= 1 if has else value != value for value in found)
