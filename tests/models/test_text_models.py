"""Language models: shapes, causality, derivatives, and that the training loop trains them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab.data import load_text
from flatlab.models import available, build, char_gpt, char_lstm, stackable
from flatlab.models.layers import without_cudnn
from flatlab.train import Recipe, evaluate_loss, fit_seeds, next_token

TEXT = available("text")


@pytest.fixture(scope="module")
def text():
    return load_text("python_topics", "train", limit=20_000)


@pytest.mark.parametrize("name", TEXT)
def test_codes_become_logits_and_a_seed_its_weights(name: str) -> None:
    before = torch.get_rng_state()
    one, two, other = (build(name, (12,), 7, seed=seed, options={"width": 8}) for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.randint(7, (3, 12))
    assert one(x).shape == (3, 12, 7)
    assert torch.equal(one(x), two(x))
    assert not torch.equal(one(x), other(x))
    assert one(x[:, :5]).shape == (3, 5, 7)


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("layers", [1, 2])
def test_no_prediction_sees_the_future(name: str, layers: int) -> None:
    model = build(name, (10,), 7, seed=1, options={"layers": layers}).double()
    x = torch.randint(7, (2, 10))
    changed = x.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 7
    before, after = model(x), model(changed)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.isclose(before[:, 6:], after[:, 6:], rtol=0, atol=1e-9).all(-1).any()  # and all of the past


def test_the_transformer_knows_the_order_of_characters() -> None:
    model = char_gpt(7, width=8, context=4).double()
    one, other = model(torch.tensor([[1, 2, 3], [2, 1, 3]]))[:, -1]
    assert not torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", TEXT)
def test_curvature_can_be_measured_in_eval_mode(name: str) -> None:
    model = build(name, (5,), 4, seed=2, options={"width": 4}).double().eval()
    x, y = torch.randint(4, (2, 3, 5))
    weights = list(model.parameters())
    vector = [torch.randn_like(w) for w in weights]

    def gradient(shift: float) -> list[Tensor]:
        with torch.no_grad():
            for w, v in zip(weights, vector, strict=True):
                w.add_(v, alpha=shift)
        return list(torch.autograd.grad(next_token(model, x, y), weights, create_graph=True))

    here = gradient(0.0)
    product = torch.autograd.grad(here, weights, vector)
    ahead, behind = gradient(1e-5), gradient(-2e-5)
    for exact, right, left in zip(product, ahead, behind, strict=True):
        torch.testing.assert_close(exact, (right - left) / 2e-5, rtol=1e-3, atol=1e-5)


def test_cudnn_is_left_as_it_was() -> None:
    before = torch.backends.cudnn.enabled
    with without_cudnn(True):
        assert not torch.backends.cudnn.enabled
    assert torch.backends.cudnn.enabled == before
    with pytest.raises(KeyError), without_cudnn(True):
        raise KeyError
    assert torch.backends.cudnn.enabled == before
    with without_cudnn(False):
        assert torch.backends.cudnn.enabled == before


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="did you mean 'char_lstm'"):
        build("char_lsmt", (8,), 5)
    with pytest.raises(ValueError, match=r"of shape \(T,\), got shape \(1, 8, 8\)"):
        build("char_lstm", (1, 8, 8), 5)
    with pytest.raises(ValueError, match="choose one of image, text"):
        available("sound")
    with pytest.raises(ValueError, match="symbols must be an integer >= 2, got 1"):
        char_lstm(1)
    with pytest.raises(ValueError, match="width=10 and heads=4"):
        char_gpt(5, width=10)
    with pytest.raises(ValueError, match="9 characters is longer than context=8"):
        build("char_gpt", (8,), 5)(torch.zeros(1, 9, dtype=torch.long))


def test_next_token_is_the_mean_over_positions() -> None:
    model = char_lstm(5, width=4)
    x, y = torch.randint(5, (2, 3, 6))
    logs = model(x).log_softmax(-1)
    expected = -torch.stack([logs[n, t, y[n, t]] for n in range(3) for t in range(6)]).mean()
    torch.testing.assert_close(next_token(model, x, y, 0.5), expected)
    found = evaluate_loss(model, x, y, batch_size=2)
    assert found.loss == pytest.approx(expected.item(), abs=1e-6)
    assert found.accuracy == pytest.approx(float((logs.argmax(-1) == y).float().mean()))
    assert model.training


def test_evaluate_loss_of_images(digits) -> None:
    model = build("mlp", (1, 8, 8), 10, seed=3)
    found = evaluate_loss(model, digits.x, digits.y, batch_size=500)
    assert found.loss == pytest.approx(F.cross_entropy(model(digits.x), digits.y).item(), abs=1e-5)
    bytes_ = (digits.x * 255).round().byte()
    assert evaluate_loss(model, bytes_, digits.y).loss == pytest.approx(found.loss, abs=1e-5)
    with pytest.raises(ValueError, match=r"labels must have shape \(1200,\)"):
        evaluate_loss(model, digits.x, digits.y[:5])
    with pytest.raises(ValueError, match=r"logits of shape \(1024, 1, 'classes'\), got \(1024, 10\)"):
        evaluate_loss(model, digits.x, digits.y[:, None])
    with pytest.raises(ValueError, match="x is empty"):
        evaluate_loss(model, digits.x[:0], digits.y[:0])


@pytest.mark.parametrize("name", TEXT)
def test_the_loop_trains_on_text_one_seed_after_another(name: str, text) -> None:
    windows = text.windows(32)

    def network(seed: int) -> torch.nn.Module:
        return build(name, (32,), len(text.alphabet), seed=seed, options={"width": 32})

    assert not stackable(network(0))
    recipe = Recipe(epochs=4, batch_size=16, lr=1e-2)
    models = fit_seeds(network, windows, next_token, recipe, seeds=[0, 1])
    losses = [evaluate_loss(model, windows.x, windows.y).loss for model in models]
    frequency = torch.bincount(text.codes, minlength=len(text.alphabet)) / len(text)
    entropy = -frequency.xlogy(frequency).sum().item()  # what is reached without looking at the characters before
    assert max(losses) < entropy - 0.1
    assert losses[0] != losses[1]
    with pytest.raises(ValueError, match="cannot be stacked"):
        fit_seeds(network, windows, next_token, recipe, seeds=[0, 1], strategy="stacked")


def test_wrong_targets_are_still_refused(digits, text) -> None:
    class Set:
        def __init__(self, x: Tensor, y: Tensor) -> None:
            self.x, self.y = x, y

    windows, recipe = text.windows(32), Recipe(epochs=1)

    def network(seed: int) -> torch.nn.Module:
        return char_lstm(len(text.alphabet), width=4)

    for y in (windows.y[:-1], windows.y[0], windows.y[:, :0], windows.y[0, 0]):
        with pytest.raises(ValueError, match=rf"labels must have shape \({len(windows)},\)"):
            fit_seeds(network, Set(windows.x, y), next_token, recipe, seeds=[0])
    with pytest.raises(TypeError, match="labels must be int64, got torch.float32"):
        fit_seeds(network, Set(windows.x, windows.y.float()), next_token, recipe, seeds=[0])
