"""Character-level language model: an LSTM (Hochreiter and Schmidhuber 1997) between an embedding and a linear layer."""

from torch import Tensor, nn

from flatlab import checks
from flatlab.models.layers import without_cudnn


class CharLSTM(nn.Module):
    """Codes (N, T) int64 -> logits (N, T, symbols) of the character after each; every window starts from a zero state.

    Args:
        symbols: size of the alphabet.
        width: of the embedding and of the hidden state.
        layers: LSTM layers, one upon the other.
    """

    def __init__(self, symbols: int, *, width: int = 64, layers: int = 1) -> None:
        super().__init__()
        checks.at_least("symbols", symbols, 2)
        checks.at_least("width", width, 1)
        checks.at_least("layers", layers, 1)
        self.embedding = nn.Embedding(symbols, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, symbols)

    def forward(self, x: Tensor) -> Tensor:
        with without_cudnn(x.is_cuda and not self.training):
            hidden, _ = self.lstm(self.embedding(x))
        return self.head(hidden)


def char_lstm(symbols: int, *, width: int = 64, layers: int = 1) -> CharLSTM:
    """A small LSTM over characters; see `CharLSTM`."""
    return CharLSTM(symbols, width=width, layers=layers)
