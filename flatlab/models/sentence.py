"""What the classifiers of sentences share: their input is the embedding of the words, not the words."""

from collections.abc import Sequence

from torch import Tensor, nn

from flatlab import checks


class SentenceModel(nn.Module):
    """Embedded words (N, T, D) -> logits (N, classes); `embed` makes the input.

    To exchange a word is then to step between points of a vector space, so that bounds and attacks treat it as they
    treat a change of pixels.

    Args:
        shape: (T, D), words of a sentence and numbers per word.
        vocabulary: number of different words.
    """

    def __init__(self, shape: Sequence[int], vocabulary: int) -> None:
        super().__init__()
        self.length, self.width = shape
        checks.at_least("words of a sentence", self.length, 1)
        checks.at_least("numbers per word", self.width, 1)
        self.embedding = nn.Embedding(checks.at_least("vocabulary", vocabulary, 1), self.width)

    def embed(self, codes: Tensor) -> Tensor:
        """Codes of words (N, T) int64 -> (N, T, D)."""
        return self.embedding(codes)
