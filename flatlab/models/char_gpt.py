"""Character-level language model: a small decoder-only transformer (Radford et al. 2019, "GPT-2").

    h_0 = E[x] + P,    h <- h + attention(norm(h)),    h <- h + mlp(norm(h)),    logits = W norm(h_L)

Normalisation comes before each part, attention sees the past alone, positions are learned, and the last layer of each
residual branch starts smaller by sqrt(2 L), so that the depth L does not change the scale of h. Attention is written
out: torch's fused kernels have no second derivative, which curvature needs.
"""

import math

import torch
from torch import Tensor, nn

from flatlab import checks


class KVCache:
    """The keys and values of what a network has read, layer by layer: what follows need not read it again."""

    def __init__(self, layers: int) -> None:
        self._pairs: list[tuple[Tensor, Tensor] | None] = [None] * layers

    @property
    def length(self) -> int:
        """Characters read so far."""
        return 0 if self._pairs[-1] is None else self._pairs[-1][0].shape[-2]

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, with those of the newest characters, (..., T, width of a head)."""
        before = self._pairs[layer]
        if before is not None:
            key, value = torch.cat([before[0], key], -2), torch.cat([before[1], value], -2)
        self._pairs[layer] = (key, value)
        return key, value


class CharGPT(nn.Module):
    """Codes (N, T) int64 with T <= context -> logits (N, T, symbols) of the character after each.

    Args:
        symbols: size of the alphabet.
        width: of the residual stream; `heads` must divide it.
        layers: blocks of attention and MLP.
        heads: of the attention.
        context: longest window.
    """

    def __init__(self, symbols: int, *, width: int = 64, layers: int = 2, heads: int = 4, context: int = 64) -> None:
        super().__init__()
        self.symbols = checks.at_least("symbols", symbols, 2)
        checks.at_least("layers", layers, 1)
        self.context = checks.at_least("context", context, 1)
        if checks.at_least("width", width, 1) % checks.at_least("heads", heads, 1):
            raise ValueError(f"width must be a multiple of heads, got width={width} and heads={heads}")
        self.width = width
        self.embedding = nn.Embedding(symbols, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*[_Block(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, symbols)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            assert isinstance(block, _Block)
            for last in (block.out, block.down):
                nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * layers))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x))

    def cache(self) -> KVCache:
        """An empty cache for `hidden`."""
        return KVCache(len(self.blocks))

    def hidden(self, x: Tensor, *, starts: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """The normalised hidden states (N, T, width) of codes (N, T): what `head` turns into logits.

        Args:
            x: codes; with a cache, those that follow what it has read.
            starts: (N,) where each row begins: whatever stands before is padding, which nothing attends to, and
                positions count from there.
            cache: of what came before; it then holds these codes as well.

        Raises:
            ValueError: a window longer than the context.
        """
        read, past = x.shape[-1], cache.length if cache else 0
        if past + read > self.context:
            raise ValueError(
                f"a window of {past + read} characters is longer than context={self.context}; cut it shorter"
            )
        at = torch.arange(past, past + read, device=x.device)
        if starts is None:
            hidden = self.embedding(x) + self.position.weight[past : past + read]
        else:
            hidden = self.embedding(x) + self.position((at - starts[:, None]).clamp(min=0))
        unseen = None
        if read > 1 or starts is not None:
            key, query = torch.arange(past + read, device=x.device), at[:, None]
            unseen = key > query
            if starts is not None:  # padding sees itself, so that no row of weights is empty
                unseen = (unseen | (key < starts[:, None, None]) & (key != query)).unsqueeze(1)
        for layer, block in enumerate(self.blocks):
            hidden = block(hidden, unseen, cache, layer)
        return self.norm(hidden)


class _Block(nn.Module):
    """Causal attention, then an MLP four times as wide, each added to what came in: (N, T, width) -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(
        self, hidden: Tensor, unseen: Tensor | None = None, cache: KVCache | None = None, layer: int = 0
    ) -> Tensor:
        hidden = hidden + self.out(self._attend(self.norm1(hidden), unseen, cache, layer))
        return hidden + self.down(nn.functional.gelu(self.up(self.norm2(hidden))))

    def _attend(self, hidden: Tensor, unseen: Tensor | None, cache: KVCache | None, layer: int) -> Tensor:
        n, length, width = hidden.shape
        query, key, value = self.qkv(hidden).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if cache is not None:
            key, value = cache.extend(layer, key, value)
        scores = query @ key.transpose(2, 3) / math.sqrt(width // self.heads)
        weights = (scores if unseen is None else scores.masked_fill(unseen, -math.inf)).softmax(3)
        return (weights @ value).transpose(1, 2).reshape(n, length, width)


def char_gpt(symbols: int, *, width: int = 64, layers: int = 2, heads: int = 4, context: int = 64) -> CharGPT:
    """A small transformer over characters; see `CharGPT`."""
    return CharGPT(symbols, width=width, layers=layers, heads=heads, context=context)
