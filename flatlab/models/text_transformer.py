"""Classifier of sentences: a small transformer encoder over embedded words, after Xu et al. (2020).

    h_0 = e + P,    h <- norm(h + attention(h)),    h <- norm(h + mlp(h)),    logits = W pool(h_L)

Normalisation comes after each part, and by default it does not divide by the standard deviation, as bounds through
that division are too wide to train with. Attention is written out with products and a softmax, so that bounds and
curvature see its parts.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.models.layers import CentreNorm
from flatlab.models.sentence import SentenceModel

NORMS: dict[str, Callable[[int], nn.Module]] = {"no_var": CentreNorm, "full": nn.LayerNorm}


class TextTransformer(SentenceModel):
    """Embedded words (N, t, D) with t <= T -> logits (N, classes); positions are added here.

    Args:
        shape: (T, D), words of the longest sentence and numbers per word; `heads` must divide D.
        classes: number of logits.
        vocabulary: number of different words.
        layers: blocks of attention and MLP.
        heads: of the attention.
        ff: hidden units of each MLP.
        norm: "no_var", (x - mean) w + b, or "full", layer normalisation.
        pooling: "mean" of the last hidden states over the sentence, or the "first" of them.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        vocabulary: int,
        layers: int = 1,
        heads: int = 4,
        ff: int = 128,
        norm: str = "no_var",
        pooling: str = "mean",
    ) -> None:
        super().__init__(shape, vocabulary)
        checks.at_least("layers", layers, 1)
        checks.at_least("ff", ff, 1)
        if self.width % checks.at_least("heads", heads, 1):
            raise ValueError(f"D must be a multiple of heads, got shape={tuple(shape)} and heads={heads}")
        self.pooling = checks.one_of("pooling", pooling, ("mean", "first"))
        make_norm = NORMS[checks.one_of("norm", norm, NORMS)]
        self.position = nn.Parameter(torch.empty(self.length, self.width))
        nn.init.normal_(self.position, std=0.02)
        self.blocks = nn.Sequential(*[_Block(self.width, heads, ff, make_norm) for _ in range(layers)])
        self.head = nn.Linear(self.width, classes)

    def forward(self, e: Tensor) -> Tensor:
        words = e.shape[1]
        if words > self.length:
            raise ValueError(f"a sentence of {words} words is longer than T={self.length}; cut it shorter")
        hidden = self.blocks(e + self.position[:words])
        return self.head(hidden.mean(1) if self.pooling == "mean" else hidden[:, 0])


class _Block(nn.Module):
    """Attention of all words to all, then an MLP, each added to what came in and normalised: (N, T, D) -> the same."""

    def __init__(self, width: int, heads: int, ff: int, make_norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, ff), nn.Linear(ff, width)
        self.norm1, self.norm2 = make_norm(width), make_norm(width)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.norm1(hidden + self.out(self._attend(hidden)))
        return self.norm2(hidden + self.down(self.up(hidden).relu()))

    def _attend(self, hidden: Tensor) -> Tensor:
        parts = (self.query, self.key, self.value)
        query, key, value = (part(hidden).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        scores = query @ key.transpose(2, 3) / math.sqrt(hidden.shape[2] // self.heads)
        return (scores.softmax(3) @ value).transpose(1, 2).flatten(2)


def text_transformer(
    shape: Sequence[int],
    classes: int,
    *,
    vocabulary: int,
    layers: int = 1,
    heads: int = 4,
    ff: int = 128,
    norm: str = "no_var",
    pooling: str = "mean",
) -> TextTransformer:
    """A small transformer over embedded words; see `TextTransformer`."""
    return TextTransformer(
        shape, classes, vocabulary=vocabulary, layers=layers, heads=heads, ff=ff, norm=norm, pooling=pooling
    )
