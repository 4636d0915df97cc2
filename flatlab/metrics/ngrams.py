"""Jensen-Shannon divergence of n-gram distributions, which judges generated text in Heusel et al. 2017.

    JSD(p, q) = 1/2 KL(p || m) + 1/2 KL(q || m),    m = (p + q) / 2,    in bits

p and q are the relative frequencies of the n-grams of two collections: 0 if they are equal, 1 if they share none. Rare
n-grams are missing from finite collections by chance, which makes JSD too high: compare collections of equal size, and
hold them against two real ones.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import fsum, log2
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatlab import checks

Texts = Sequence[str] | Tensor | NDArray


def ngram_frequencies(texts: Texts, n: int) -> dict[Any, float]:
    """The relative frequency of each n-gram within texts; counted once, it serves many calls of `ngram_jsd`.

    Args:
        texts: a list of strings, n-grams of whose characters are counted, or integer codes (N, T).
        n: length of the n-grams, >= 1.

    Raises:
        TypeError: neither strings nor integer codes.
        ValueError: n < 1, other shapes, or no n-gram at all.
    """
    checks.at_least("n", n, 1)
    return _frequencies("texts", _rows("texts", texts), n)


def ngram_jsd(real: Texts | Mapping[Any, float], fake: Texts | Mapping[Any, float], n: int) -> float:
    """JSD in [0, 1] of the n-grams within texts; none spans two texts.

    Args:
        real, fake: lists of strings, n-grams of whose characters are counted, or integer codes (N, T); or the
            frequencies of their n-grams, of `ngram_frequencies`.
        n: length of the n-grams, >= 1.

    Raises:
        TypeError: neither strings nor integer codes, or strings on one side alone.
        ValueError: n < 1, other shapes, no n-gram at all, or frequencies of n-grams of another length.
    """
    checks.at_least("n", n, 1)
    p, q = (
        _of_length(name, texts, n) if isinstance(texts, Mapping) else _frequencies(name, _rows(name, texts), n)
        for name, texts in (("real", real), ("fake", fake))
    )
    if isinstance(next(iter(p)), str) is not isinstance(next(iter(q)), str):
        raise TypeError("real and fake must both be strings, or both be codes")
    # An exact sum: the order of a set of strings changes from process to process, and must not show.
    found = fsum(_part(p.get(gram, 0.0), q.get(gram, 0.0)) for gram in p.keys() | q.keys())
    return min(1.0, max(0.0, found))


def _of_length(name: str, frequencies: Mapping[Any, float], n: int) -> Mapping[Any, float]:
    if not frequencies or len(next(iter(frequencies))) != n:
        raise ValueError(f"{name} must hold frequencies of {n}-grams, as ngram_frequencies(texts, {n}) counts them")
    return frequencies


def _part(p: float, q: float) -> float:
    return sum(a / 2 * log2(2 * a / (p + q)) for a in (p, q) if a)


def _frequencies(name: str, rows: Sequence[Any], n: int) -> dict[Any, float]:
    counts = Counter(row[i : i + n] for row in rows for i in range(len(row) - n + 1))
    total = counts.total()
    if not total:
        raise ValueError(f"{name} has no {n}-gram: every text is shorter")
    return {gram: count / total for gram, count in counts.items()}


def _rows(name: str, texts: Texts) -> Sequence[Any]:
    """Strings, or tuples of codes: what can be cut into keys."""
    if isinstance(texts, Tensor | np.ndarray):
        codes = torch.as_tensor(texts)
        if codes.is_floating_point() or codes.is_complex():
            raise TypeError(f"{name} must be integer codes, got {codes.dtype}")
        if codes.ndim != 2 or not len(codes):
            raise ValueError(f"{name} must be codes (N, T) with N >= 1, got shape {tuple(codes.shape)}")
        return [tuple(row) for row in codes.tolist()]
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{name} must be a list of strings, or an array or tensor of integer codes (N, T)")
    if not len(texts):
        raise ValueError(f"{name} is empty: give at least one text")
    return texts
