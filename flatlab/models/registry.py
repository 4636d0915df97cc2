"""Names of the networks, so that a preset can say which one it trains."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from flatlab import checks
from flatlab.models.char_gpt import char_gpt
from flatlab.models.char_lstm import char_lstm
from flatlab.models.cnn7 import cnn7
from flatlab.models.densenet import densenet
from flatlab.models.mlp import mlp
from flatlab.models.resnet import preact_resnet18, wide_resnet
from flatlab.models.resnext import resnext
from flatlab.models.small_cnn import small_cnn
from flatlab.models.text_lstm import text_lstm
from flatlab.models.text_mlp import text_mlp
from flatlab.models.text_transformer import text_transformer


def _lstm(shape: Sequence[int], symbols: int, **options: Any) -> nn.Module:
    return char_lstm(symbols, **options)  # takes windows of any length


def _gpt(shape: Sequence[int], symbols: int, **options: Any) -> nn.Module:
    return char_gpt(symbols, **{"context": shape[0]} | options)


_IMAGE: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "small_cnn": small_cnn,
    "cnn7": cnn7,
    "preact_resnet18": preact_resnet18,
    "wide_resnet": wide_resnet,
    "densenet": densenet,
    "resnext": resnext,
}
_TEXT: dict[str, Callable[..., nn.Module]] = {"char_lstm": _lstm, "char_gpt": _gpt}
_SENTENCE: dict[str, Callable[..., nn.Module]] = {
    "text_mlp": text_mlp,
    "text_lstm": text_lstm,
    "text_transformer": text_transformer,
}
_KINDS = {"image": _IMAGE, "text": _TEXT, "sentence": _SENTENCE}


def available(kind: str = "image") -> tuple[str, ...]:
    """Names that `build` takes for inputs of a kind: "image", "text" or "sentence"."""
    return tuple(_KINDS[checks.one_of("kind of input", kind, _KINDS)])


def build(
    name: str, shape: Sequence[int], classes: int, *, seed: int = 0, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """A freshly initialised network; the same seed gives the same weights, and torch's global state is untouched.

    Args:
        name: one of `available()`, `available("text")` or `available("sentence")`.
        shape: of one input: (C, H, W) of an image, (T,) of a window of T characters, (T, D) of a sentence of T words
            with D numbers each.
        classes: number of logits, for a text one for each character of its alphabet.
        seed: of the initial weights.
        options: keyword options of the builder, such as {"widths": (64, 64)}; a network for sentences needs
            {"vocabulary": number of words}.
    """
    builders = _IMAGE | _TEXT | _SENTENCE
    builder = builders[checks.one_of("model", name, builders)]
    if name in _TEXT and len(shape) != 1:
        raise ValueError(f"{name} takes windows of text, of shape (T,), got shape {tuple(shape)}")
    if name in _SENTENCE and len(shape) != 2:
        raise ValueError(f"{name} takes embedded sentences, of shape (T, D), got shape {tuple(shape)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return builder(shape, classes, **(options or {}))
