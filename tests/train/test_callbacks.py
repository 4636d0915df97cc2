"""Those who watch a training."""

import pytest
from torch import nn

from flatlab import data, models, train

DIGITS = data.load_images("digits", "train", limit=120)


def network(seed: int) -> nn.Module:
    return models.build("mlp", (1, 8, 8), 10, seed=seed, options={"widths": (16,)})


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
