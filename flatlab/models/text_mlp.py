"""The simplest classifier of sentences: the mean of the words' embeddings, then a multilayer perceptron."""

from collections.abc import Sequence

from torch import Tensor

from flatlab.models.mlp import mlp
from flatlab.models.sentence import SentenceModel


class TextMLP(SentenceModel):
    """Embedded words (N, T, D) -> logits (N, classes), blind to the order of the words.

    Args:
        shape: (T, D), words of a sentence and numbers per word.
        classes: number of logits.
        vocabulary: number of different words.
        widths: of the hidden layers; none gives a linear classifier.
    """

    def __init__(self, shape: Sequence[int], classes: int, *, vocabulary: int, widths: Sequence[int] = (64,)) -> None:
        super().__init__(shape, vocabulary)
        self.body = mlp((self.width,), classes, widths=widths)

    def forward(self, e: Tensor) -> Tensor:
        return self.body(e.mean(1))


def text_mlp(shape: Sequence[int], classes: int, *, vocabulary: int, widths: Sequence[int] = (64,)) -> TextMLP:
    """A perceptron over the mean word; see `TextMLP`."""
    return TextMLP(shape, classes, vocabulary=vocabulary, widths=widths)
