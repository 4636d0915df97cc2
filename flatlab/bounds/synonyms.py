"""Sentences whose words may be exchanged for synonyms: the set around each, for bounds and for training on them.

    at = synonym_set(model, codes, synonyms, budget=2)           # the words' vectors at.x, and what they may become
    verified(Bounds(Program(model, at.x), at.x, at), y)
    objective = CertifiedTraining(ExchangedWords(synonyms, budget=2), kind="crown-ibp")

Training follows Xu et al. 2020 (arXiv 2002.12920, section 4.2): first on clean sentences, then on bounds over sentences
whose candidates move from the word itself to its synonyms, e + share (s - e), as the share grows from 0 to 1. The
table of vectors may be trained, too: vectors are looked up in the model at every step.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.bounds.sets import Synonyms
from flatlab.bounds.training import Perturbed
from flatlab.models import SentenceModel


def synonym_set(
    model: SentenceModel, codes: Tensor, synonyms: Tensor, *, budget: int | None = None, share: float = 1.0
) -> Synonyms:
    """What a model's inputs become when words are exchanged.

    Args:
        model: its method `embed` maps codes to vectors; positions are added inside it.
        codes: words by number (B, T), int64.
        synonyms: (V, K) int64, the words that each may be exchanged for; -1 where there are no more.
        budget: how many words of a sentence may change at once; None for all.
        share: how far candidates lie from the word, towards its synonyms, in [0, 1].

    Returns:
        The set around the vectors (B, T, D), its `x`.

    Raises:
        ValueError: shapes that do not fit, words outside the table, or an option out of range.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share!r}")
    if codes.ndim != 2 or synonyms.ndim != 2:
        raise ValueError(
            f"codes must have shape (B, T) and synonyms (V, K), got {tuple(codes.shape)} and {tuple(synonyms.shape)}"
        )
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < len(synonyms):
        raise ValueError(f"codes must lie in 0..{len(synonyms) - 1}, got {int(codes.min())}..{int(codes.max())}")
    found = synonyms.to(codes.device)[codes]
    x = model.embed(codes)
    other = model.embed(torch.where(found < 0, codes[..., None], found))
    return Synonyms(
        x, x[:, :, None] + share * (other - x[:, :, None]), found >= 0, codes.shape[1] if budget is None else budget
    )


@dataclass(frozen=True, eq=False)
class ExchangedWords:
    """Words of sentences become their synonyms: what `CertifiedTraining` of a classifier of codes (N, T) perturbs.

    Args:
        synonyms: (V, K) int64, the words that each may be exchanged for; -1 where there are no more.
        budget: how many words of a sentence may change at once, >= 1; None for all. Intervals ignore it.
    """

    synonyms: Tensor
    budget: int | None = None

    def __post_init__(self) -> None:
        if self.budget is not None:
            checks.at_least("budget", self.budget, 1)

    def __call__(self, model: nn.Module, x: Tensor, share: float) -> Perturbed:
        """The vectors of a batch of codes (B, T), and the set in which candidates have come a share of their way."""
        sentence = cast(SentenceModel, model)
        if share == 0:
            return Perturbed(sentence.embed(x))
        at = synonym_set(sentence, x, self.synonyms, budget=self.budget, share=share)
        return Perturbed(at.x, at)


def clean_words(model: nn.Module, x: Tensor, y: Tensor, step_fraction: float = 1.0) -> Tensor:
    """The plain objective of a classifier of sentences: mean cross-entropy over codes of words x (N, T), in nats.

    Args:
        model: its method `embed` maps codes to vectors.
        x: words by number (N, T), int64.
        y: labels (N,).
        step_fraction: of the training; without effect.
    """
    return F.cross_entropy(model(cast(SentenceModel, model).embed(x)), y)
