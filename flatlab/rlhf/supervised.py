"""The first step of RLHF: supervised finetuning on demonstrations, with the loss on the completions alone."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flatlab.data import Windows
from flatlab.models.language import beginnings, codes, ending, written
from flatlab.train import History, Recipe, fit
from flatlab.train.objective import LossFunction

_IGNORED = -100  # what torch's cross-entropy leaves out


def completion_loss(pad: int | None = None) -> LossFunction:
    """An objective for `flatlab.train.fit`: mean cross-entropy over the targets that are not -100."""

    def completion(model: nn.Module, x: Tensor, y: Tensor, step_fraction: float = 1.0) -> Tensor:
        lm: Any = model
        logits = lm.head(lm.hidden(x, starts=beginnings(x, pad)))
        return F.cross_entropy(logits.float().flatten(0, 1), y.flatten(), ignore_index=_IGNORED)

    return completion


def train_sft(
    model: nn.Module,
    prompts: Tensor,
    responses: Tensor,
    recipe: Recipe,
    *,
    seed: int = 0,
    eos: int | None = None,
    pad: int | None = None,
    checkpoint: str | Path | None = None,
) -> History:
    """Train `model` in place to continue prompts as the responses do; see `flatlab.train.fit`.

    Args:
        model: a `flatlab.models.language.LanguageModel`.
        prompts: (N, P) int64, padded on the left.
        responses: (N, T) int64, padded behind the end of text.
        recipe: epochs, rates, optimizer.
        seed: of the order of the batches.
        eos, pad: as in `flatlab.models.sample`.
        checkpoint: a file that training continues from, exactly.

    Raises:
        ValueError: tokens outside the vocabulary, a text longer than the context, pad equal to eos.
    """
    ending(eos, pad)
    if len(prompts) != len(responses):
        raise ValueError(f"{len(prompts)} prompts need as many responses, got {len(responses)}")
    whole = codes("prompts and responses", torch.cat([prompts, responses], 1), model)
    targets = whole[:, 1:].clone()
    targets[:, : prompts.shape[1] - 1] = _IGNORED
    targets[:, prompts.shape[1] - 1 :][~written(responses, eos)] = _IGNORED
    return fit(model, Windows(whole[:, :-1], targets), completion_loss(pad), recipe, seeds=seed, checkpoint=checkpoint)
