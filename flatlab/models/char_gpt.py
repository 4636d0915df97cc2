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
        checks.at_least("symbols", symbols, 2)
        checks.at_least("layers", layers, 1)
        self.context = checks.at_least("context", context, 1)
        if checks.at_least("width", width, 1) % checks.at_least("heads", heads, 1):
            raise ValueError(f"width must be a multiple of heads, got width={width} and heads={heads}")
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
        length = x.shape[1]
        if length > self.context:
            raise ValueError(f"a window of {length} characters is longer than context={self.context}; cut it shorter")
        hidden = self.embedding(x) + self.position.weight[:length]
        return self.head(self.norm(self.blocks(hidden)))


class _Block(nn.Module):
    """Causal attention, then an MLP four times as wide, each added to what came in: (N, T, width) -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.out(self._attend(self.norm1(hidden)))
        return hidden + self.down(nn.functional.gelu(self.up(self.norm2(hidden))))

    def _attend(self, hidden: Tensor) -> Tensor:
        n, length, width = hidden.shape
        query, key, value = self.qkv(hidden).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(2, 3) / math.sqrt(width // self.heads)
        future = torch.ones(length, length, dtype=torch.bool, device=hidden.device).triu(1)
        weights = scores.masked_fill(future, -math.inf).softmax(3)
        return (weights @ value).transpose(1, 2).reshape(n, length, width)


def char_gpt(symbols: int, *, width: int = 64, layers: int = 2, heads: int = 4, context: int = 64) -> CharGPT:
    """A small transformer over characters; see `CharGPT`."""
    return CharGPT(symbols, width=width, layers=layers, heads=heads, context=context)
