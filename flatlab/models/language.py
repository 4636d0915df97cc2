"""What is asked of a causal language model, small or large: samples, and log-probabilities of given continuations.

tokens, logps = sample(model, prompts, 16, generator=torch.Generator().manual_seed(0))
response_logps(model, prompts, tokens)                     # the same numbers, with a gradient

Prompts of different lengths are padded on their left; what follows the first end of text is padding as well.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.modes import evaluating


class LanguageModel(Protocol):
    """What `CharGPT` and `flatlab.rlhf.HuggingFaceLM` have; all of them are modules as well.

    Attributes:
        symbols: of the vocabulary.
        width: of a hidden state.
        context: longest window.
        head: hidden states (..., width) -> logits (..., symbols).
    """

    symbols: int
    width: int
    context: int
    head: nn.Module

    def hidden(self, x: Tensor, *, starts: Tensor | None = None, cache: Any = None) -> Tensor:
        """See `CharGPT.hidden`."""
        ...

    def cache(self) -> Any:
        """An empty cache."""
        ...


def codes(name: str, tokens: Tensor, model: Any, *, new: int = 0) -> Tensor:
    """Return tokens (N, T) that `model` can read, with room for `new` more; TypeError or ValueError otherwise."""
    if tokens.dtype != torch.int64:
        raise TypeError(f"{name} must be int64 tokens, got {tokens.dtype}")
    if tokens.ndim != 2 or not tokens.numel():
        raise ValueError(f"{name} must have shape (N, T) with N, T >= 1, got {tuple(tokens.shape)}")
    low, high = (int(end) for end in tokens.aminmax())
    if low < 0 or high >= model.symbols:
        raise ValueError(f"{name} must hold tokens 0..{model.symbols - 1} of the vocabulary, got {low}..{high}")
    if tokens.shape[1] + new > model.context:
        raise ValueError(
            f"{name} of {tokens.shape[1]} tokens{f' and {new} new ones' * bool(new)} do not fit into "
            f"context={model.context}; shorten them, or build the model with a larger context"
        )
    return tokens


def beginnings(tokens: Tensor, pad: int | None) -> Tensor | None:
    """Where each row (N, T) begins after the padding on its left, (N,); None without padding.

    Raises:
        ValueError: a row of padding alone.
    """
    if pad is None:
        return None
    starts = (tokens == pad).long().cumprod(1).sum(1)
    if int(starts.max()) == tokens.shape[1]:
        raise ValueError(f"row {int(starts.argmax())} holds nothing but padding ({pad}); leave it out")
    return starts if int(starts.max()) else None


def written(tokens: Tensor, eos: int | None) -> Tensor:
    """Which tokens (N, T) of responses count: all up to the first `eos`, that one included; (N, T) bool."""
    if eos is None:
        return torch.ones_like(tokens, dtype=torch.bool)
    ends = tokens == eos
    return (ends.cumsum(1) - ends.long()) == 0


def ending(eos: int | None, pad: int | None) -> None:
    """Raise ValueError for an end of text that padding cannot be told from."""
    if eos is not None and (pad is None or pad == eos):
        raise ValueError(f"eos={eos} needs a pad of another value, got pad={pad}: responses end at different places")


def _full(values: Tensor) -> Tensor:
    """In float32 at least: half precision is for products, not for probabilities."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    eos: int | None = None,
    pad: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Continue each prompt by ancestral sampling, with a cache of what has been read.

    Args:
        model: a `LanguageModel`; used in eval mode.
        prompts: (N, P) int64.
        max_new_tokens: T, of each response.
        temperature: divides the logits.
        generator: one uniform number a token is drawn from it, on its own device; None is torch's global one.
        eos: token that ends a response, or None if all run to T.
        pad: token on the left of shorter prompts and behind an `eos`, or None.

    Returns:
        Tokens (N, T) int64, and their log-probabilities (N, T) at this temperature, 0 behind an `eos`.

    Raises:
        ValueError: a temperature <= 0, tokens outside the vocabulary, no room in the context, pad equal to eos.
    """
    lm: Any = model
    count = checks.at_least("max_new_tokens", max_new_tokens, 1)
    heat = checks.positive("temperature", temperature)
    ending(eos, pad)
    codes("prompts", prompts, lm, new=count)
    starts, cache, device = beginnings(prompts, pad), lm.cache(), prompts.device
    where = device if generator is None else generator.device
    draws = torch.rand(len(prompts), count, generator=generator, dtype=torch.float64, device=where).to(device)
    tokens = torch.full((len(prompts), count), 0 if pad is None else pad, device=device)
    logps = torch.zeros(len(prompts), count, device=device, dtype=_full(next(model.parameters())).dtype)
    open_ = torch.ones(len(prompts), dtype=torch.bool, device=device)
    with evaluating(model):
        hidden = lm.hidden(prompts, starts=starts, cache=cache)
        for step in range(count):
            logp = (_full(lm.head(hidden[:, -1])) / heat).log_softmax(1)
            mass = logp.double().exp().cumsum(1)
            token = (mass <= draws[:, step, None] * mass[:, -1:]).sum(1).clamp(max=lm.symbols - 1)
            tokens[:, step] = torch.where(open_, token, tokens[:, step])
            logps[:, step] = torch.where(open_, logp.gather(1, token[:, None])[:, 0], 0.0)
            if eos is not None:
                open_ = open_ & (token != eos)
                if not open_.any():
                    break
            if step + 1 < count:
                hidden = lm.hidden(tokens[:, step : step + 1], starts=starts, cache=cache)
    return tokens, logps


def response_logps(
    model: nn.Module,
    prompts: Tensor,
    responses: Tensor,
    *,
    temperature: float = 1.0,
    eos: int | None = None,
    pad: int | None = None,
) -> Tensor:
    """Log-probability of each token of given responses, with a gradient; 0 behind the first `eos`.

    Args:
        model: a `LanguageModel`, in the mode it is in.
        prompts: (N, P) int64.
        responses: (N, T) int64.
        temperature, eos, pad: as in `sample`.

    Returns:
        (N, T), in nats.
    """
    lm: Any = model
    if len(prompts) != len(responses):
        raise ValueError(f"{len(prompts)} prompts need as many responses, got {len(responses)}")
    whole = codes("prompts and responses", torch.cat([prompts, responses], 1), lm)
    hidden = lm.hidden(whole[:, :-1], starts=beginnings(prompts, pad))[:, prompts.shape[1] - 1 :]
    logps = (_full(lm.head(hidden)) / checks.positive("temperature", temperature)).log_softmax(2)
    chosen = logps.gather(2, responses[:, :, None])[:, :, 0]
    return torch.where(written(responses, eos), chosen, 0.0)
