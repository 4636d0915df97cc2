"""Evaluation sample by sample against the evaluation of a whole set."""

import pytest
import torch

from flatlab import data, models, train


def test_samples_one_by_one_are_the_whole_and_a_diverged_network_hits_nothing() -> None:
    net = models.build("mlp", (1, 8, 8), 10, seed=0, options={"widths": (16,)})
    x, y = data.load_images("digits", "train", limit=120).float()
    losses, hits = train.evaluate_samples(net, x, y, batch_size=50)
    whole = train.evaluate_loss(net, x, y)
    assert (float(losses.mean()), float(hits.mean())) == pytest.approx(whole)
    codes = torch.randint(9, (7, 12), generator=torch.Generator().manual_seed(0))
    reader = models.build("char_lstm", (12,), 9, seed=0, options={"width": 8})
    losses, hits = train.evaluate_samples(reader, codes, codes)
    assert losses.shape == hits.shape == (7,)
    assert (float(losses.mean()), float(hits.mean())) == pytest.approx(train.evaluate_loss(reader, codes, codes))
    with torch.no_grad():
        next(net.parameters()).fill_(torch.nan)
    losses, hits = train.evaluate_samples(net, x, y)
    assert losses.isnan().all()
    assert not hits.any()
