"""Models of the `transformers` library (`pip install 'flatlab[hf]'`), loaded by the user: nothing here downloads.

policy = rlhf.HuggingFaceLM(AutoModelForCausalLM.from_pretrained(folder))
reward = rlhf.SequenceReward(classifier, its_tokenizer, lambda row: tokenizer.decode(row, skip_special_tokens=True))
"""

import inspect
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.modes import evaluating

_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
_MEMORY = ("cache", "past_key_values")  # newer and older releases


class HuggingFaceLM(nn.Module):
    """A causal model of `transformers` as a `flatlab.models.language.LanguageModel`: (N, T) -> logits (N, T, symbols).

    TypeError if it is not causal, ValueError if `head` and `cache` do not give its own logits of a few tokens.

    Args:
        model: e.g. from `AutoModelForCausalLM`; not copied.
        context: longest window; by default, and at most, the positions that the model's config names.
    """

    def __init__(self, model: Any, *, context: int | None = None) -> None:
        super().__init__()
        self.model = model
        config, layer = model.config.get_text_config(), model.get_output_embeddings()
        takes, name = inspect.signature(model.base_model.forward).parameters, type(model).__name__
        self._memory, self._placed = next((key for key in _MEMORY if key in takes), ""), "position_ids" in takes
        if layer is None or not self._memory or model.base_model is model:
            raise TypeError(f"model must be causal and keep keys and values, got {name}; use AutoModelForCausalLM")
        limit = next((int(n) for key in _CONTEXT if (n := getattr(config, key, None))), None)
        window = limit if context is None else checks.at_least("context", context, 1)
        if window is None or window > (limit or window):
            raise ValueError(f"context must be given, and at most the model's positions ({limit}), got {context}")
        self.context, (self.symbols, self.width) = window, layer.weight.shape
        self._cap, part = getattr(config, "final_logit_softcapping", None), getattr(config, "logits_scaling", None) or 1
        probe = torch.arange(min(8, self.symbols, window), device=model.get_input_embeddings().weight.device)[None]
        with torch.no_grad(), evaluating(model):
            wanted = model(input_ids=probe).logits.float()
            for self._scale in (1, getattr(config, "logit_scale", None) or 1, 1 / part, part):
                cache = self.cache()
                hidden = torch.cat([self.hidden(part, cache=cache) for part in probe.split(4, 1)], 1)
                if (self.head(hidden).float() - wanted).norm() <= 0.05 * wanted.norm():
                    return
        raise ValueError(f"{name} scales logits or keeps its past in a way unknown here; write a class of your own")

    @property
    def head(self) -> nn.Module:
        """Hidden states (..., width) -> the model's own logits (..., symbols)."""
        layer: nn.Module = self.model.get_output_embeddings()
        return layer if self._cap is None else nn.Sequential(layer, _SoftCap(-self._cap, self._cap))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x))

    def cache(self) -> Any:
        """An empty cache for `hidden`."""
        return SimpleNamespace(state=None, length=0)

    def hidden(self, x: Tensor, *, starts: Tensor | None = None, cache: Any = None) -> Tensor:
        """What `head` turns into logits, (N, T, width), without a meaning at padding; see `CharGPT.hidden`."""
        total = x.shape[1] + (0 if cache is None else cache.length)
        if total > self.context:
            raise ValueError(f"a window of {total} tokens is longer than context={self.context}; cut it shorter")
        given: dict[str, Any] = {} if cache is None else {self._memory: cache.state}
        if starts is not None:
            at = torch.arange(total, device=x.device) - starts[:, None]
            given |= {"attention_mask": (at >= 0).long()}
            given |= {"position_ids": at[:, -x.shape[1] :].clamp(min=0)} if self._placed else {}
        out = self.model.base_model(input_ids=x, return_dict=True, use_cache=cache is not None, **given)
        if cache is not None:
            cache.state, cache.length = getattr(out, self._memory, None), total
            if cache.state is None:
                raise RuntimeError("the model kept no keys and values; with gradient checkpointing, call eval() first")
        return out.last_hidden_state * self._scale


class _SoftCap(nn.Hardtanh):
    def forward(self, input: Tensor) -> Tensor:
        return self.max_val * (input / self.max_val).tanh()


@dataclass(eq=False)
class SequenceReward:
    """A sequence classifier of `transformers`, in eval mode: prompts (N, P), responses (N, T) -> rewards (N,), float32.

    Args:
        model: e.g. from `AutoModelForSequenceClassification`.
        tokenizer: the classifier's; it pads on the right here. It must have the pad token of the model's config.
            Tokenizers change by being used: checkpoints compare neither this one nor `decode`.
        decode: list of the policy's tokens, prompt and response with all padding -> text.
        index: of the logit that is the reward.
        batch: texts at a time.
        max_length: of a text in the classifier's tokens, cut beyond; None cuts nothing.
    """

    model: Any
    tokenizer: Any = field(compare=False)
    decode: Callable[[list[int]], str] = field(compare=False)
    _: KW_ONLY
    index: int = 0
    batch: int = 32
    max_length: int | None = None

    def __post_init__(self) -> None:
        self.index = checks.at_least("index", self.index, 0)
        self.batch = checks.at_least("batch", self.batch, 1)
        labels, own = self.model.config.num_labels, self.model.config.get_text_config().pad_token_id
        if self.index >= labels:
            raise ValueError(f"index must be < {labels}, the number of the model's logits, got {self.index}")
        if (pad := self.tokenizer.pad_token_id) is None:
            raise ValueError("the tokenizer has no pad token; set tokenizer.pad_token, e.g. to tokenizer.eos_token")
        if own != pad:
            raise ValueError(f"set model.config.pad_token_id to the tokenizer's {pad}, got {own}")

    def __call__(self, prompts: Tensor, responses: Tensor) -> Tensor:
        texts = [self.decode(row) for row in torch.cat([prompts, responses], 1).tolist()]
        cut, found = {"truncation": self.max_length is not None, "max_length": self.max_length}, []
        with torch.no_grad(), evaluating(self.model):
            for some in (texts[i : i + self.batch] for i in range(0, len(texts), self.batch)):
                codes = self.tokenizer(some, padding=True, padding_side="right", return_tensors="pt", **cut)
                ids, mask = (codes[key].to(self.model.device) for key in ("input_ids", "attention_mask"))
                if not (seen := (ids != self.tokenizer.pad_token_id).any(1)).all():
                    raise ValueError(f"no token is left of {some[int(seen.long().argmin())]!r}; leave such texts out")
                found.append(self.model(input_ids=ids, attention_mask=mask).logits[:, self.index].float())
        return torch.cat(found).to(prompts.device)
