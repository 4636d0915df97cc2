"""Classifiers of sentences: shapes, embedding, order of the words, and what their parts compute."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.models import CentreNorm, SentenceModel, available, build, text_lstm, text_mlp, text_transformer

SENTENCE = available("sentence")


def make(name: str, seed: int = 0, **options: object) -> SentenceModel:
    model = build(name, (6, 8), 3, seed=seed, options={"vocabulary": 20} | options)
    assert isinstance(model, SentenceModel)
    return model.double().eval()


@pytest.mark.parametrize("name", SENTENCE)
def test_embedded_words_become_logits_and_a_seed_its_weights(name: str) -> None:
    before = torch.get_rng_state()
    one, two, other = make(name, 4), make(name, 4), make(name, 5)
    assert torch.equal(torch.get_rng_state(), before)
    codes = torch.randint(20, (5, 6))
    e = one.embed(codes)
    assert e.shape == (5, 6, 8)
    assert torch.equal(e, one.embedding.weight[codes])
    assert one(e).shape == (5, 3)
    assert torch.equal(one(e), two(e))
    assert not torch.equal(one(e), other(e))
    torch.testing.assert_close(one(e[2:3]), one(e)[2:3])
    assert one(e[:, :4]).shape == (5, 3)


@pytest.mark.parametrize("name", SENTENCE)
def test_every_word_and_weight_has_a_gradient_in_eval_mode(name: str) -> None:
    model = make(name)
    codes = torch.randint(20, (2, 6))
    e = model.embed(codes).requires_grad_()
    (by_word,) = torch.autograd.grad(model(e)[:, 0].sum(), e)
    assert (by_word.abs().amax(2) > 0).all()
    model(model.embed(codes)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", SENTENCE)
def test_only_the_mean_is_blind_to_the_order_of_words(name: str) -> None:
    model = make(name)
    e = torch.randn(2, 6, 8, dtype=torch.double)
    blind = torch.allclose(model(e), model(e.flip(1)), rtol=0, atol=1e-9)
    assert blind == (name == "text_mlp")


def test_poolings() -> None:
    e = torch.randn(2, 6, 8, dtype=torch.double)
    last, mean = make("text_lstm", pooling="last"), make("text_lstm")
    assert isinstance(last.lstm, nn.LSTM)
    states, (final, _) = last.lstm(e)
    torch.testing.assert_close(last(e), last.head(final[0]))
    torch.testing.assert_close(mean(e), mean.head(states.mean(1)))
    first, mean = make("text_transformer", pooling="first"), make("text_transformer")
    hidden = first.blocks(e + first.position)
    torch.testing.assert_close(first(e), first.head(hidden[:, 0]))
    torch.testing.assert_close(mean(e), mean.head(hidden.mean(1)))
    linear = make("text_mlp", widths=())
    torch.testing.assert_close(linear(e), torch.stack([linear(word) for word in e.split(1, 1)]).mean(0))


def test_the_encoder_with_full_normalisation_is_the_one_of_torch() -> None:
    model = make("text_transformer", norm="full", heads=2, ff=12)
    block = model.blocks[0]
    peer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, dtype=torch.double)
    with torch.no_grad():
        for p in (block.query, block.key, block.value, block.out):
            p.bias.normal_()
        peer.self_attn.in_proj_weight.copy_(torch.cat([p.weight for p in (block.query, block.key, block.value)]))
        peer.self_attn.in_proj_bias.copy_(torch.cat([p.bias for p in (block.query, block.key, block.value)]))
    peer.self_attn.out_proj.load_state_dict(block.out.state_dict())
    peer.linear1.load_state_dict(block.up.state_dict())
    peer.linear2.load_state_dict(block.down.state_dict())
    hidden = torch.randn(3, 6, 8, dtype=torch.double)
    torch.testing.assert_close(block(hidden), peer(hidden))


def test_centre_norm_is_layer_norm_without_the_division() -> None:
    norm = CentreNorm(8).double()
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    x, y = torch.randn(2, 5, 8, dtype=torch.double)
    std = x.var(-1, correction=0, keepdim=True).sqrt()
    torch.testing.assert_close(norm(x / std), F.layer_norm(x, (8,), norm.weight, norm.bias, eps=0.0))
    torch.testing.assert_close(norm(0.3 * x + 0.7 * y), 0.3 * norm(x) + 0.7 * norm(y))  # affine


def test_sizes_by_hand() -> None:
    def size(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    words = 100 * 64
    assert size(text_mlp((30, 64), 2, vocabulary=100)) == words + 65 * 64 + 65 * 2
    assert size(text_lstm((30, 64), 2, vocabulary=100)) == words + 4 * 64 * (64 + 64 + 2) + 65 * 2
    attention, perceptron, norms = 4 * 65 * 64, 65 * 128 + 129 * 64, 4 * 64
    head = 30 * 64 + 65 * 2  # positions too
    block = attention + perceptron + norms
    assert size(text_transformer((30, 64), 2, vocabulary=100)) == words + block + head
    assert size(text_transformer((30, 64), 2, vocabulary=100, layers=3)) == words + 3 * block + head


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="did you mean 'text_lstm'"):
        build("text_lsmt", (8, 4), 2, options={"vocabulary": 5})
    with pytest.raises(ValueError, match=r"of shape \(T, D\), got shape \(8,\)"):
        build("text_mlp", (8,), 2, options={"vocabulary": 5})
    with pytest.raises(ValueError, match="choose one of image, text, sentence"):
        available("sound")
    with pytest.raises(TypeError, match="vocabulary"):
        build("text_mlp", (8, 4), 2)
    with pytest.raises(ValueError, match="vocabulary must be an integer >= 1, got 0"):
        text_mlp((8, 4), 2, vocabulary=0)
    with pytest.raises(ValueError, match="numbers per word must be an integer >= 1, got 0"):
        text_mlp((8, 0), 2, vocabulary=5)
    with pytest.raises(ValueError, match="widths must be an integer >= 1, got 0"):
        text_mlp((8, 4), 2, vocabulary=5, widths=(0,))
    with pytest.raises(ValueError, match="hidden must be an integer >= 1, got 2.5"):
        text_lstm((8, 4), 2, vocabulary=5, hidden=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown pooling 'first': choose one of mean, last"):
        text_lstm((8, 4), 2, vocabulary=5, pooling="first")
    with pytest.raises(ValueError, match=r"shape=\(8, 6\) and heads=4"):
        text_transformer((8, 6), 2, vocabulary=5)
    with pytest.raises(ValueError, match="unknown norm 'no-var'.*did you mean 'no_var'"):
        text_transformer((8, 4), 2, vocabulary=5, norm="no-var")
    with pytest.raises(ValueError, match="layers must be an integer >= 1, got 0"):
        text_transformer((8, 4), 2, vocabulary=5, layers=0)
    with pytest.raises(ValueError, match="9 words is longer than T=8"):
        text_transformer((8, 4), 2, vocabulary=5)(torch.zeros(1, 9, 4))


def test_a_sentence_model_learns_a_rule_about_words() -> None:
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(20, generator=generator)
    codes = torch.randint(20, (256, 6), generator=generator)
    y = (score[codes].sum(1) > 0).long()

    def error(name: str) -> float:
        model = build(name, (6, 8), 2, seed=1, options={"vocabulary": 20})
        assert isinstance(model, SentenceModel)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        logits = Tensor()
        for _ in range(60):
            logits = model(model.embed(codes))
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
        return float((logits.argmax(1) != y).float().mean())

    errors = {name: error(name) for name in SENTENCE}
    assert max(errors.values()) < 0.1, errors
