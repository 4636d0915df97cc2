"""Cached and padded reading, samples and their log-probabilities, and what they refuse."""

from collections.abc import Callable

import pytest
import scipy.stats
import torch
from torch import Tensor

from flatlab.models import CharGPT, response_logps, sample
from flatlab.models.language import beginnings, codes, ending, written

SYMBOLS, CONTEXT, PAD, EOS = 6, 12, 5, 3


def language(symbols: int = SYMBOLS, *, layers: int = 2, context: int = CONTEXT, spread: float = 0.5) -> CharGPT:
    """A model in float64 whose predictions are far from even."""
    model, g = CharGPT(symbols, width=8, layers=layers, heads=2, context=context).double(), seeded(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=g, dtype=torch.float64), alpha=spread)
    return model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


PADDED = torch.tensor([[0, 1, 2, 3], [PAD, 1, 0, 2], [PAD, PAD, PAD, 3], [2, 2, PAD, 1], [PAD, PAD, 0, 0]])


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [[10], [1] * 10, [4, 6], [4, 1, 5], [1, 7, 2], [9, 1]])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("padded", [False, True])
def test_what_is_read_in_pieces_is_read_as_a_whole(pieces: list[int], layers: int, padded: bool) -> None:
    model = language(layers=layers)
    x = torch.randint(SYMBOLS, (3, 10), generator=seeded())
    starts = torch.tensor([0, 2, 6]) if padded else None
    cache, found = model.cache(), []
    for piece in x.split(pieces, 1):
        found.append(model.hidden(piece, starts=starts, cache=cache))
    assert cache.length == 10
    close(torch.cat(found, 1), model.hidden(x, starts=starts))


def test_logits_are_the_head_of_the_hidden_states() -> None:
    model, x = language(), torch.randint(SYMBOLS, (3, 7), generator=seeded())
    assert model.hidden(x).shape == (3, 7, model.width)
    close(model(x), model.head(model.hidden(x)))
    close(model.hidden(x, starts=torch.zeros(3, dtype=torch.long)), model.hidden(x))


def test_padding_on_the_left_changes_nothing() -> None:
    model, starts = language(), torch.tensor([0, 3, 6])
    x = torch.randint(SYMBOLS, (3, 9), generator=seeded())
    found = model.hidden(x, starts=starts)
    other = torch.where(torch.arange(9) < starts[:, None], (x + 1) % SYMBOLS, x)
    again = model.hidden(other, starts=starts)
    for row, start in enumerate(starts.tolist()):
        close(found[row, start:], model.hidden(x[row : row + 1, start:])[0])
        close(again[row, start:], found[row, start:])
    assert found.isfinite().all()
    assert not torch.allclose(model.hidden(x)[1:, 6:], found[1:, 6:], atol=1e-3)


def test_a_full_cache_is_refused() -> None:
    model, cache = language(), language().cache()
    model.hidden(torch.zeros(1, 10, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match="13 characters is longer than context=12"):
        model.hidden(torch.zeros(1, 3, dtype=torch.long), cache=cache)


def test_where_texts_begin_and_end() -> None:
    starts = beginnings(PADDED, PAD)
    assert starts is not None
    assert starts.tolist() == [0, 1, 3, 0, 2]
    assert beginnings(PADDED[:1], PAD) is None
    assert beginnings(PADDED, None) is None
    y = torch.tensor([[0, EOS, PAD], [EOS, EOS, 1], [0, 1, 2], [1, 2, EOS]])
    assert written(y, EOS).int().tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 1]]
    assert written(y, None).all()


# --- samples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.5])
@pytest.mark.parametrize(
    "text", [{}, {"pad": PAD}, {"eos": EOS, "pad": PAD}], ids=["to the end", "left padding", "end of text"]
)
def test_samples_come_with_their_log_probabilities(temperature: float, text: dict[str, int]) -> None:
    model, prompts = language(), PADDED.repeat(8, 1)
    y, logps = sample(model, prompts, 7, temperature=temperature, generator=seeded(), **text)
    assert y.shape == logps.shape == (40, 7)
    assert y.dtype == torch.int64
    assert not logps.requires_grad
    close(response_logps(model, prompts, y, temperature=temperature, **text), logps)
    for row in range(5):  # written out: each text alone, without its padding
        start = int((PADDED[row] == PAD).long().cumprod(0).sum()) if text else 0
        whole = torch.cat([PADDED[row, start:], y[row]])
        logs = (model(whole[None, :-1])[0] / temperature).log_softmax(1)[3 - start :]
        wanted = logs.gather(1, y[row, :, None])[:, 0]
        close(logps[row], torch.where(written(y[row : row + 1], text.get("eos"))[0], wanted, 0.0))
        assert len(logs) == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_log_probabilities_are_as_precise_as_the_model_and_float32_at_least(dtype: torch.dtype) -> None:
    model, wanted = language().to(dtype), torch.promote_types(dtype, torch.float32)
    y, logps = sample(model, PADDED[:1], 2, generator=seeded())
    assert logps.dtype == response_logps(model, PADDED[:1], y).dtype == wanted


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_texts_are_as_frequent_as_they_are_probable(temperature: float) -> None:
    model, n = language(4, layers=1, context=4, spread=0.3), 20_000
    prompt, every = torch.tensor([[1, 3]]), torch.cartesian_prod(torch.arange(4), torch.arange(4))
    y, _ = sample(model, prompt.expand(n, 2), 2, temperature=temperature, generator=seeded())
    p = response_logps(model, prompt.expand(16, 2), every, temperature=temperature).sum(1).exp().detach()
    assert float(p.sum()) == pytest.approx(1)
    assert float(p.min()) * n > 5
    found = torch.bincount(4 * y[:, 0] + y[:, 1], minlength=16)
    assert scipy.stats.chisquare(found, n * p).pvalue > 0.01
    hotter = response_logps(model, prompt.expand(16, 2), every, temperature=1.3 * temperature).sum(1).exp().detach()
    assert scipy.stats.chisquare(found, n * hotter).pvalue < 1e-6  # the test can tell


def test_samples_come_from_the_generator_alone() -> None:
    model, before = language(), torch.get_rng_state()
    y, logps = sample(model, PADDED, 6, generator=seeded(7), pad=PAD)
    again, same = sample(model, PADDED, 6, generator=seeded(7), pad=PAD)
    assert torch.equal(y, again)
    assert torch.equal(logps, same)
    assert not torch.equal(y, sample(model, PADDED, 6, generator=seeded(8), pad=PAD)[0])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    y, _ = sample(model, PADDED, 6)
    torch.manual_seed(3)
    assert torch.equal(y, sample(model, PADDED, 6)[0])


def test_a_row_does_not_see_the_others() -> None:
    model, text = language(), {"eos": EOS, "pad": PAD}
    others = torch.tensor([[3, 3, 3, 3], [0, 1, 1, 1], [PAD, PAD, PAD, 0], [PAD, PAD, PAD, 1], [1, 2, 3, 0]])
    y, logps = sample(model, PADDED, 6, generator=seeded(), **text)
    for row in range(5):
        mixed = others.clone()
        mixed[row] = PADDED[row]
        found, logs = sample(model, mixed, 6, generator=seeded(), **text)
        assert torch.equal(found[row], y[row])
        close(logs[row], logps[row])


def test_behind_the_end_is_padding() -> None:
    model = language()
    y, logps = sample(model, PADDED.repeat(20, 1), 8, generator=seeded(), eos=EOS, pad=PAD)
    counts = written(y, EOS)
    assert 20 < int((~counts).any(1).sum()) < 100
    assert (y[~counts] == PAD).all()
    assert (logps[~counts] == 0).all()
    assert (logps[counts] < 0).all()
    with torch.no_grad():
        model.head.bias[EOS] = 1e4
    y, logps = sample(model, PADDED, 8, generator=seeded(), eos=EOS, pad=PAD)
    assert y.tolist() == [[EOS, *[PAD] * 7]] * 5
    assert (logps == 0).all()


def test_every_way_to_the_weights_has_a_gradient() -> None:
    model, prompts = language(), PADDED[:1].repeat(3, 1)
    y = torch.tensor([[0, 1, 2], [1, EOS, PAD], [3, 3, 3]])
    response_logps(model, prompts, y, temperature=0.7).sum().backward()
    found = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    logs = (model(torch.cat([prompts, y], 1)[:, :-1]) / 0.7).log_softmax(2)[:, 3:]
    logs.gather(2, y[:, :, None]).sum().backward()
    for mine, weight in zip(found, model.parameters(), strict=True):
        close(mine, weight.grad)
    model.zero_grad()
    response_logps(model, prompts[1:2], y[1:2], eos=EOS, pad=PAD).sum().backward()
    short = model.embedding.weight.grad.clone()
    model.zero_grad()
    response_logps(model, prompts[1:2], y[1:2, :2]).sum().backward()
    close(short, model.embedding.weight.grad)  # what stands behind the end has none


@pytest.mark.parametrize("fails", [False, True])
def test_samples_are_taken_in_eval_mode_and_the_flags_come_back(fails: bool) -> None:
    model, seen = language(), []
    model.train()
    model.blocks[1].eval()
    flags = [module.training for module in model.modules()]

    def look(*_: object) -> None:
        seen.append([module.training for module in model.modules()])
        if fails:
            raise KeyError

    model.norm.register_forward_pre_hook(look)
    if fails:
        with pytest.raises(KeyError):
            sample(model, PADDED, 3)
    else:
        y, _ = sample(model, PADDED, 3)
        assert len(seen) == 3
    assert not any(map(any, seen))
    assert [module.training for module in model.modules()] == flags
    if not fails:
        seen.clear()
        response_logps(model, PADDED, y)
        assert seen == [flags]  # in the mode that it is in


# --- bad input --------------------------------------------------------------------------------------------------------

MODEL, Y = language(), torch.zeros(5, 3, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sample(MODEL, PADDED, 3, temperature=0.0), ValueError, "temperature must be a finite number > 0"),
        (lambda: sample(MODEL, PADDED, 3, temperature=-1.0), ValueError, "temperature"),
        (lambda: response_logps(MODEL, PADDED, Y, temperature=0.0), ValueError, "temperature"),
        (lambda: sample(MODEL, PADDED, 0), ValueError, "max_new_tokens must be an integer >= 1"),
        (lambda: sample(MODEL, PADDED + 1, 3), ValueError, r"tokens 0\.\.5 of the vocabulary, got 1\.\.6"),
        (lambda: sample(MODEL, PADDED - 1, 3), ValueError, r"of the vocabulary, got -1\.\.4"),
        (lambda: response_logps(MODEL, PADDED, Y + SYMBOLS), ValueError, "of the vocabulary"),
        (lambda: response_logps(MODEL, PADDED, Y - 1), ValueError, "of the vocabulary"),
        (lambda: sample(MODEL, PADDED.float(), 3), TypeError, "prompts must be int64 tokens, got torch.float32"),
        (lambda: sample(MODEL, PADDED.int(), 3), TypeError, "int64"),
        (lambda: response_logps(MODEL, PADDED, Y.float()), TypeError, "int64"),
        (lambda: sample(MODEL, PADDED[0], 3), ValueError, r"shape \(N, T\) with N, T >= 1, got \(4,\)"),
        (lambda: sample(MODEL, PADDED[:0], 3), ValueError, r"got \(0, 4\)"),
        (lambda: sample(MODEL, PADDED[:, :0], 3), ValueError, r"got \(5, 0\)"),
        (lambda: sample(MODEL, PADDED, 9), ValueError, "prompts of 4 tokens and 9 new ones do not fit into context=12"),
        (lambda: response_logps(MODEL, PADDED, Y.repeat(1, 3)), ValueError, "13 tokens do not fit into context=12"),
        (lambda: response_logps(MODEL, PADDED, Y[:2]), ValueError, "5 prompts need as many responses, got 2"),
        (lambda: sample(MODEL, PADDED, 3, eos=4), ValueError, "eos=4 needs a pad of another value, got pad=None"),
        (lambda: sample(MODEL, PADDED, 3, eos=5, pad=5), ValueError, "eos=5 needs a pad"),
        (lambda: sample(MODEL, PADDED[:, :2], 3, pad=PAD), ValueError, r"row 2 holds nothing but padding \(5\)"),
        (lambda: response_logps(MODEL, PADDED[:, :2], Y, pad=PAD), ValueError, "row 2 holds nothing but padding"),
        (lambda: codes("x", PADDED, MODEL, new=9), ValueError, "x of 4 tokens and 9 new ones"),
        (lambda: ending(3, None), ValueError, "eos=3"),
    ],
)
def test_bad_input(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_what_just_fits_is_taken() -> None:
    assert sample(MODEL, PADDED, 8)[0].shape == (5, 8)
    assert response_logps(MODEL, PADDED, torch.zeros(5, 8, dtype=torch.long)).shape == (5, 8)
    assert codes("x", PADDED, MODEL, new=8) is PADDED
    ending(None, None)
    ending(4, 5)
