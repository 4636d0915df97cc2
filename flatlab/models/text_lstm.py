"""Classifier of sentences: an LSTM (Hochreiter and Schmidhuber 1997) over embedded words, after Xu et al. (2020)."""

from collections.abc import Sequence

from torch import Tensor, nn

from flatlab import checks
from flatlab.models.layers import without_cudnn
from flatlab.models.sentence import SentenceModel


class TextLSTM(SentenceModel):
    """Embedded words (N, T, D) -> logits (N, classes) of the pooled hidden states.

    Args:
        shape: (T, D), words of a sentence and numbers per word.
        classes: number of logits.
        vocabulary: number of different words.
        hidden: numbers of the hidden state.
        pooling: "mean" of the hidden states over the sentence, or the "last" of them.
    """

    def __init__(
        self, shape: Sequence[int], classes: int, *, vocabulary: int, hidden: int = 64, pooling: str = "mean"
    ) -> None:
        super().__init__(shape, vocabulary)
        checks.at_least("hidden", hidden, 1)
        self.pooling = checks.one_of("pooling", pooling, ("mean", "last"))
        self.lstm = nn.LSTM(self.width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, e: Tensor) -> Tensor:
        with without_cudnn(e.is_cuda and not self.training):
            states, _ = self.lstm(e)
        return self.head(states.mean(1) if self.pooling == "mean" else states[:, -1])


def text_lstm(
    shape: Sequence[int], classes: int, *, vocabulary: int, hidden: int = 64, pooling: str = "mean"
) -> TextLSTM:
    """A small LSTM over embedded words; see `TextLSTM`."""
    return TextLSTM(shape, classes, vocabulary=vocabulary, hidden=hidden, pooling=pooling)
