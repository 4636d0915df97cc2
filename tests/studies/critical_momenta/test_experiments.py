"""Tasks in sequence, and the agreement of a memory during training."""

import pytest
import torch
from torch import nn

from flatlab import data, models, train
from flatlab.optim import AdamCM
from flatlab.studies.critical_momenta import experiments

DIGITS = data.load_images("digits", "train", limit=120)


def network(seed: int) -> nn.Module:
    return models.build("mlp", (1, 8, 8), 10, seed=seed, options={"widths": (16,)})


def test_a_sequence_shows_every_image_once_and_permutes_pixels_by_task() -> None:
    sequence = experiments.permuted_tasks(DIGITS, 3, seed=0)
    assert sorted(sequence.y.tolist()) == sorted(DIGITS.y.tolist())
    torch.testing.assert_close(sequence.x.sum((1, 2, 3)).sort().values, DIGITS.float()[0].sum((1, 2, 3)).sort().values)
    x = DIGITS.float()[0]
    views = [sequence.seen_by(task, x) for task in range(3)]
    assert not torch.equal(views[0], views[1])
    for task, part in enumerate(sequence.x.split(40)):
        rows = [next(i for i in range(120) if torch.equal(views[task][i], image)) for image in part[:5]]
        assert DIGITS.y[rows].tolist() == sequence.y[40 * task : 40 * task + 5].tolist()
    assert torch.equal(sequence.x, experiments.permuted_tasks(DIGITS, 3, seed=0).x)
    assert not torch.equal(sequence.orders, experiments.permuted_tasks(DIGITS, 3, seed=1).orders)
    with pytest.raises(ValueError, match="121 tasks needs"):
        experiments.permuted_tasks(DIGITS, 121, seed=0)


def test_sequences_side_by_side_are_sequences_alone() -> None:
    options = {"lr": 0.1, "seeds": (3, 4)}
    hits, pairs = experiments.fit_task_sequences(network, DIGITS, 2, torch.optim.SGD, **options)
    for seed, hit, (sequence, net) in zip((3, 4), hits, pairs, strict=True):
        alone = experiments.permuted_tasks(DIGITS, 2, seed=seed)
        assert torch.equal(sequence.x, alone.x)
        other = network(seed)
        right = train.fit_continual(other, alone.x[None], alone.y[None], torch.optim.SGD, lr=0.1)
        assert hit == pytest.approx(float(right.double().mean()))
        assert train.distance(net, other) < 1e-4
        x, y = DIGITS.float()
        each = [train.accuracy(net, sequence.seen_by(task, x), y) for task in range(2)]
        shares = sequence.kept(net, x, y)
        assert shares.shape == (120,)
        assert float(shares.mean()) == pytest.approx(sum(each) / 2)


@pytest.mark.parametrize("strategy", ["stacked", "sequential"])
def test_the_agreement_of_a_memory_is_kept_by_seed(strategy: str) -> None:
    for optimizer, has in ((AdamCM, True), (torch.optim.Adam, False)):
        watch = train.Recorder(experiments.cancellation)
        recipe = train.Recipe(epochs=2, batch_size=30, lr=1e-3, optimizer=optimizer)
        options = {"seeds": (0, 1), "strategy": strategy, "callbacks": [watch]}
        train.fit_seeds(network, DIGITS, train.cross_entropy, recipe, **options)
        found = [value for values in watch.values for value in values.values()]
        assert {seed for values in watch.values for seed in values} == {0, 1}
        assert all(0 < value <= 1 if has else value != value for value in found)
