"""Generators and critics of text, for WGAN-GP (Gulrajani et al. 2017): 1-D convolutions, and perceptrons.

A text is (N, symbols, length): one distribution over the symbols at each place. A generator ends with a softmax; real
text comes as ones and zeros (`one_hot`). A block of the convolutional players adds 0.3 of two convolutions over 5
places; the paper has 5 blocks of 512 channels for 32 characters. All are chains of layers and can be stacked, and all
raise ValueError for a number below 1, or fewer than two symbols.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.gan.players import SLOPE
from flatlab.models.layers import Residual


class TextGenerator(nn.Sequential):
    """z (N, z_dim) -> one distribution over the symbols at each place, (N, symbols, length).

    Args:
        length: places of a text.
        symbols: of the alphabet.
        z_dim: numbers in z.
        width: channels of every block.
        blocks: how many.
    """

    def __init__(self, length: int, symbols: int, z_dim: int = 128, width: int = 512, blocks: int = 5) -> None:
        checks.at_least("length", length, 1)
        checks.at_least("width", width, 1)
        super().__init__(
            nn.Linear(checks.at_least("z_dim", z_dim, 1), width * length),
            nn.Unflatten(1, (width, length)),
            *[_text_block(width) for _ in range(checks.at_least("blocks", blocks, 1))],
            nn.Conv1d(width, checks.at_least("symbols", symbols, 2), 1),
            nn.Softmax(dim=-2),
        )
        self.z_dim = z_dim


class TextDiscriminator(nn.Sequential):
    """Texts (N, symbols, length) -> (N, 1).

    Args:
        length: places of a text.
        symbols: of the alphabet.
        width: channels of every block.
        blocks: how many.
    """

    def __init__(self, length: int, symbols: int, width: int = 512, blocks: int = 5) -> None:
        checks.at_least("length", length, 1)
        checks.at_least("width", width, 1)
        super().__init__(
            nn.Conv1d(checks.at_least("symbols", symbols, 2), width, 1),
            *[_text_block(width) for _ in range(checks.at_least("blocks", blocks, 1))],
            nn.Flatten(),
            nn.Linear(width * length, 1),
        )


class MLPTextGenerator(nn.Sequential):
    """Two hidden layers with ReLU, then a softmax at each place: z (N, z_dim) -> (N, symbols, length).

    Args:
        length: places of a text.
        symbols: of the alphabet.
        z_dim: numbers in z.
        width: of the hidden layers.
    """

    def __init__(self, length: int, symbols: int, z_dim: int = 32, width: int = 128) -> None:
        numbers = checks.at_least("symbols", symbols, 2) * checks.at_least("length", length, 1)
        super().__init__(
            nn.Linear(checks.at_least("z_dim", z_dim, 1), checks.at_least("width", width, 1)),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, numbers),
            nn.Unflatten(1, (symbols, length)),
            nn.Softmax(dim=-2),
        )
        self.z_dim = z_dim


class MLPTextDiscriminator(nn.Sequential):
    """Two hidden layers with leaky ReLU: texts (N, symbols, length) -> (N, 1).

    Args:
        length: places of a text.
        symbols: of the alphabet.
        width: of the hidden layers.
    """

    def __init__(self, length: int, symbols: int, width: int = 128) -> None:
        inputs = checks.at_least("length", length, 1) * checks.at_least("symbols", symbols, 2)
        super().__init__(
            nn.Flatten(),
            nn.Linear(inputs, checks.at_least("width", width, 1)),
            nn.LeakyReLU(SLOPE),
            nn.Linear(width, width),
            nn.LeakyReLU(SLOPE),
            nn.Linear(width, 1),
        )


def one_hot(codes: Tensor, symbols: int) -> Tensor:
    """Codes (N, length) of symbols as texts (N, symbols, length), float32.

    Raises:
        TypeError: codes that are no integers.
        ValueError: other shapes, no codes, or a code outside 0..symbols-1.
    """
    if codes.is_floating_point():
        raise TypeError(f"codes must be integers, got {codes.dtype}; convert with codes.long()")
    if codes.ndim != 2 or codes.numel() == 0:
        raise ValueError(f"codes must be (N, length), and some, got shape {tuple(codes.shape)}")
    low, high = (int(end) for end in codes.aminmax())
    if low < 0 or high >= symbols:
        raise ValueError(f"codes must lie in 0..{symbols - 1}, got {low}..{high}; raise symbols")
    return F.one_hot(codes.long(), symbols).transpose(1, 2).float()


def _text_block(width: int) -> nn.Module:
    first, second = (nn.Conv1d(width, width, 5, padding=2) for _ in range(2))
    return Residual(nn.ReLU(), first, nn.ReLU(), second, scale=0.3)
