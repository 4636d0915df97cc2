"""Continual learning: each network along its own sequence of samples, predicted before they are learned from."""

import pytest
import torch
from torch import nn

from flatlab import data, models, train
from flatlab.optim import SAM, AdamCM

DIGITS = data.load_images("digits", "train", limit=120)


def network(seed: int) -> nn.Module:
    return models.build("mlp", (1, 8, 8), 10, seed=seed, options={"widths": (16,)})


def sequences(*seeds: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The digits in an order of its own for each seed."""
    x, y = DIGITS.float()
    orders = [torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack([x[order] for order in orders]), torch.stack([y[order] for order in orders])


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, AdamCM, SAM])
def test_networks_side_by_side_learn_as_each_alone(optimizer: type) -> None:
    x, y = sequences(1, 2)
    x = x.double()
    alone = [network(s).double() for s in (1, 2)]
    stacked = models.stack_models(alone)
    together = train.fit_continual(stacked, x, y, optimizer, lr=0.01)
    assert together.shape == (2, 120)
    for index, net in enumerate(alone):
        assert torch.equal(train.fit_continual(net, x[[index]], y[[index]], optimizer, lr=0.01)[0], together[index])
    for net, other in zip(alone, models.unstack(stacked, alone[0]), strict=True):
        for a, b in zip(net.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_a_sample_is_predicted_before_it_is_learned_from() -> None:
    images = DIGITS.subset(range(10))
    net = network(0)
    expected = net.eval()(images.float()[0]).argmax(1) == images.y
    hits = train.fit_continual(net, images.float()[0][None], images.y[None], torch.optim.SGD, lr=0.1)
    assert hits[0].tolist() == expected.tolist()


def test_sequences_must_match_the_networks() -> None:
    x, y = DIGITS.float()
    with pytest.raises(ValueError, match=r"x must have shape \(1, T, ...\)"):
        train.fit_continual(network(0), torch.stack([x, x]), torch.stack([y, y]), torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match="batch_size"):
        train.fit_continual(network(0), x[None], y[None], torch.optim.SGD, lr=0.1, batch_size=0)


def test_a_single_network_that_diverges_is_an_error() -> None:
    x, y = sequences(1)
    with pytest.raises(train.TrainingDiverged, match="lower lr"):
        train.fit_continual(network(0), x, y, torch.optim.SGD, lr=1e30)
