"""Square attack: bounds on any shape, strength, independence of scale and batch, determinism."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flatlab import attacks
from flatlab.attacks.square import image_shape, window

EPS = 0.1


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=20)
@given(
    shape=st.sampled_from([(2,), (64,), (8, 8), (1, 8, 8), (3, 8, 11), (3, 12, 9), (2, 1, 7), (1, 7, 1)]),
    n=st.integers(1, 4),
    eps=st.sampled_from([0.01, 0.3, 1.0]),
    p_init=st.sampled_from([0.05, 0.8, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_results_stay_in_ball_and_box(shape, n, eps, p_init, seed):
    random = seeded(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 3))
    x = torch.rand(n, *shape, generator=random)
    with torch.no_grad():
        y = model(x).argmax(1)
    adv = attacks.square(model, x, y, eps, queries=12, p_init=p_init, generator=random)
    assert adv.shape == x.shape
    assert (adv - x).abs().max() <= eps + 1e-7
    assert adv.min() >= 0
    assert adv.max() <= 1


@settings(deadline=None, max_examples=50)
@given(share=st.floats(1e-4, 1.0), height=st.integers(1, 40), width=st.integers(1, 40))
def test_window_fits_and_covers_about_its_share(share, height, width):
    rows, columns = window(share, height, width)
    assert 1 <= rows <= height
    assert 1 <= columns <= width
    area = share * height * width
    side = max(1.0, area**0.5)
    assert abs(rows * columns - area) <= side + max(rows, columns) / 2 + 1
    if share == 1 and height == width:
        assert (rows, columns) == (height, width)


def test_window_shrinks_to_one_pixel():
    assert window(0.8, 8, 8) == (7, 7)
    assert window(0.8 / 512, 8, 8) == (1, 1)
    assert window(0.8, 1, 64) == (1, 51)
    assert image_shape(torch.zeros(5, 64)) == (1, 1, 64)


def test_finds_the_corner_of_a_linear_model():
    # On a flat linear model every accepted window raises the margin, so a long search reaches the best corner.
    weight = torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0])
    model = nn.Sequential(nn.Linear(5, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.stack([weight, -weight]))
        model[0].bias.copy_(torch.tensor([100.0, 0.0]))
    x, y = torch.full((3, 5), 0.5), torch.zeros(3, dtype=torch.int64)
    adv = attacks.square(model, x, y, EPS, queries=400, generator=seeded())
    assert torch.allclose(adv, (x - EPS * weight.sign()).expand_as(x))


def test_lowers_accuracy_and_more_queries_lower_it_more(std, digits, accuracy):
    x, y = digits
    values = [accuracy(std, attacks.square(std, x, y, EPS, queries=q, generator=seeded()), y) for q in (1, 50, 500)]
    assert accuracy(std, x, y) > values[0] > values[1] > values[2]
    assert values[2] < 0.5


def test_scale_of_logits_changes_nothing(std, digits, accuracy, scaled):
    x, y = digits
    plain = attacks.square(std, x, y, EPS, queries=100, generator=seeded())
    assert torch.equal(plain, attacks.square(scaled(std, 32.0), x, y, EPS, queries=100, generator=seeded()))
    for scale in (0.1, 30.0):
        adv = attacks.square(scaled(std, scale), x, y, EPS, queries=100, generator=seeded())
        assert accuracy(std, adv, y) == accuracy(std, plain, y)


def test_each_sample_is_searched_on_its_own(std, digits):
    x, y = digits
    full = attacks.square(std, x, y, EPS, queries=60, generator=seeded())
    assert torch.equal(full, attacks.square(std, x, y, EPS, queries=60, generator=seeded()))
    assert not torch.equal(full, attacks.square(std, x, y, EPS, queries=60, generator=seeded(1)))
    chunked = attacks.square(std, x, y, EPS, queries=60, generator=seeded(), batch_size=37)
    assert (full != chunked).flatten(1).any(1).float().mean() < 0.02  # only where rounding decides
    # A harder neighbour does not change what a sample draws.
    other = y.clone()
    other[0] = (y[0] + 1) % 10
    assert torch.equal(full[1:], attacks.square(std, x, other, EPS, queries=60, generator=seeded())[1:])


def test_misclassified_samples_are_returned_unchanged(std, digits):
    x, y = digits
    adv = attacks.square(std, x, (y + 1) % 10, EPS, queries=5, generator=seeded())
    with torch.no_grad():
        wrong = std(x).argmax(1) != (y + 1) % 10
    assert torch.equal(adv[wrong], x[wrong])


def test_spares_the_global_generator(std, digits):
    x, y = digits
    state = torch.get_rng_state()
    attacks.square(std, x, y, EPS, queries=3, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)
    attacks.square(std, x, y, EPS, queries=3)
    assert not torch.equal(torch.get_rng_state(), state)


def test_refusals(std, digits):
    x, y = digits
    with pytest.raises(ValueError, match=r"p_init must be in \(0, 1\]"):
        attacks.square(std, x, y, EPS, p_init=0)
    with pytest.raises(ValueError, match="queries must be an integer >= 1"):
        attacks.square(std, x, y, EPS, queries=0)
    with pytest.raises(ValueError, match="square needs inputs"):
        attacks.square(std, x[:, None], y, EPS)
