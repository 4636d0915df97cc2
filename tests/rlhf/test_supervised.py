"""Supervised finetuning: whose loss it is, that it learns, and that it continues where it was."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flatlab.models.language import written
from flatlab.rlhf import TinyGPT, response_logps, train_sft
from flatlab.rlhf.supervised import completion_loss
from flatlab.train import History, Recipe

SYMBOLS, EOS, PAD = 7, 5, 6
ONE_STEP = Recipe(epochs=1, batch_size=64, lr=1e-3, optimizer=torch.optim.SGD, schedule="constant", grad_clip=None)
RECIPE = Recipe(epochs=6, batch_size=16, lr=1e-2, schedule="constant")


def model(seed: int = 0) -> TinyGPT:
    torch.manual_seed(seed)
    return TinyGPT(SYMBOLS, width=16, layers=1, heads=2, context=12)


def demonstrations(count: int = 64) -> tuple[Tensor, Tensor]:
    """Prompts padded on the left, and responses that repeat the prompt's last token twice and end or say one more."""
    g = torch.Generator().manual_seed(0)
    prompts, responses = (torch.randint(EOS, (count, length), generator=g) for length in (4, 4))
    for row in range(count):
        prompts[row, : row % 3] = PAD
        responses[row, :2] = prompts[row, -1]
        if row % 2:
            responses[row, 2:] = torch.tensor([EOS, PAD])
    return prompts, responses


PROMPTS, RESPONSES = demonstrations()


def mean_loss(net: TinyGPT, prompts: Tensor = PROMPTS, responses: Tensor = RESPONSES) -> float:
    """Of a token that counts."""
    with torch.no_grad():
        logps = response_logps(net, prompts, responses, eos=EOS, pad=PAD)
    return -float(logps.sum()) / int(written(responses, EOS).sum())


def by_hand(net: TinyGPT) -> Tensor:
    """Each text alone, without its padding, token by token."""
    losses = []
    for prompt, response in zip(PROMPTS.tolist(), RESPONSES.tolist(), strict=True):
        text = [token for token in prompt if token != PAD]
        for token in response[: response.index(EOS) + 1] if EOS in response else response:
            losses.append(F.cross_entropy(net(torch.tensor([text]))[:, -1], torch.tensor([token])))
            text.append(token)
    return torch.stack(losses).mean()


def test_only_the_completion_counts() -> None:
    net, reference = model(), model()
    wanted = by_hand(reference)
    wanted.backward()
    history = train_sft(net, PROMPTS, RESPONSES, ONE_STEP, eos=EOS, pad=PAD)
    assert history.losses[0] == pytest.approx(wanted.item(), rel=1e-5)
    assert mean_loss(reference) == pytest.approx(wanted.item(), rel=1e-5)
    assert history.steps == 1
    for mine, start in zip(net.parameters(), reference.parameters(), strict=True):
        assert start.grad is not None
        torch.testing.assert_close(mine, start - 1e-3 * start.grad, rtol=0, atol=1e-8)


def test_padding_does_not_matter() -> None:
    def loss(prompts: Tensor, responses: Tensor) -> float:
        return train_sft(model(), prompts, responses, ONE_STEP, eos=EOS, pad=PAD).losses[0]

    usual = loss(PROMPTS, RESPONSES)
    further = torch.cat([torch.full((64, 2), PAD), PROMPTS], 1)
    assert loss(further, RESPONSES) == pytest.approx(usual, rel=1e-5)
    behind = torch.cat([RESPONSES, torch.full((64, 2), PAD)], 1)[1::2]  # those that end
    assert loss(PROMPTS[1::2], behind) == pytest.approx(loss(PROMPTS[1::2], RESPONSES[1::2]), rel=1e-5)
    noise = torch.where(written(RESPONSES, EOS), RESPONSES, 0)
    assert loss(PROMPTS, noise) == pytest.approx(usual, rel=1e-6)


def test_the_objective_leaves_out_what_has_no_target() -> None:
    net, x = model(), torch.tensor([[1, 2, 3]])
    logs = net(x)[0].log_softmax(1)
    found = completion_loss()(net, x, torch.tensor([[-100, 4, 0]]), 0.0)
    torch.testing.assert_close(found, -(logs[1, 4] + logs[2, 0]) / 2)


def test_finetuning_learns_to_continue() -> None:
    net = model()
    before = mean_loss(net)
    history = train_sft(net, PROMPTS, RESPONSES, RECIPE, eos=EOS, pad=PAD)
    assert len(history.losses) == 6
    assert history.steps == 24
    assert history.losses[-1] < 0.7 * history.losses[0]
    assert mean_loss(net) < 0.7 * before


def test_a_seed_is_an_order() -> None:
    def run(seed: int) -> tuple[float, ...]:
        return train_sft(model(), PROMPTS, RESPONSES, RECIPE, seed=seed, eos=EOS, pad=PAD).losses

    assert run(0) == run(0)
    assert run(0) != run(1)


def test_a_checkpoint_continues_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(net: TinyGPT, file: Path | None = None) -> History:
        return train_sft(net, PROMPTS, RESPONSES, RECIPE, eos=EOS, pad=PAD, checkpoint=file)

    straight, interrupted, resumed, file = model(), model(), model(3), tmp_path / "sft.safetensors"
    history = run(straight)
    calls, hidden = iter(range(1, 100)), TinyGPT.hidden

    def failing(self: TinyGPT, *args: Tensor, **options: Tensor) -> Tensor:
        if next(calls) > 14:  # in the fourth of six epochs
            raise KeyboardInterrupt
        return hidden(self, *args, **options)

    monkeypatch.setattr(TinyGPT, "hidden", failing)
    with pytest.raises(KeyboardInterrupt):
        run(interrupted, file)
    monkeypatch.undo()
    assert file.is_file()
    again = run(resumed, file)
    assert again == history
    for mine, wanted in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(mine, wanted)
    with pytest.raises(ValueError, match="other settings"):
        train_sft(model(), PROMPTS, RESPONSES, RECIPE, seed=1, eos=EOS, pad=PAD, checkpoint=file)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: train_sft(model(), PROMPTS, RESPONSES[1:], RECIPE), ValueError, "64 prompts need .* got 63"),
        (lambda: train_sft(model(), PROMPTS, RESPONSES, RECIPE, eos=EOS), ValueError, "eos=5 needs a pad"),
        (lambda: train_sft(model(), PROMPTS, RESPONSES, RECIPE, eos=5, pad=5), ValueError, "eos=5 needs a pad"),
        (lambda: train_sft(model(), PROMPTS, RESPONSES + 1, RECIPE), ValueError, r"tokens 0\.\.6 of the vocabulary"),
        (lambda: train_sft(model(), PROMPTS - 1, RESPONSES, RECIPE), ValueError, "of the vocabulary"),
        (lambda: train_sft(model(), PROMPTS.float(), RESPONSES, RECIPE), TypeError, "int64"),
        (lambda: train_sft(model(), PROMPTS.repeat(1, 3), RESPONSES, RECIPE), ValueError, "16 tokens do not fit"),
        (lambda: train_sft(model(), PROMPTS[:0], RESPONSES[:0], RECIPE), ValueError, r"got \(0, 8\)"),
    ],
)
def test_bad_input(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
