"""Divergence of n-grams: the official code's numbers, scipy's, strings and codes, limits, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from flatlab.metrics import ngram_frequencies, ngram_jsd

REAL, FAKE = ["abab", "abba", "baab"], ["aaaa", "abab", "bbbb"]


def codes(texts: list[str]) -> np.ndarray:
    return np.array([[ord(letter) for letter in text] for text in texts])


@pytest.mark.parametrize(("n", "expected"), [(1, 0), (2, 0.1530493057), (3, 0.6666666667), (4, 2 / 3)])
def test_numbers_of_the_official_code(n: int, expected: float) -> None:
    assert ngram_jsd(REAL, FAKE, n) == pytest.approx(expected, abs=1e-10)
    assert ngram_jsd(codes(REAL), torch.tensor(codes(FAKE)), n) == ngram_jsd(REAL, FAKE, n)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 3))
def test_is_scipys_and_symmetric_and_in_bounds(data: st.DataObject, n: int) -> None:
    texts = st.lists(st.text("abc", min_size=3, max_size=8), min_size=1, max_size=6)
    real, fake = data.draw(texts), data.draw(texts)
    found = ngram_jsd(real, fake, n)
    grams = [[text[i : i + n] for text in side for i in range(len(text) - n + 1)] for side in (real, fake)]
    every = sorted({*grams[0], *grams[1]})
    p, q = ([side.count(gram) for gram in every] for side in grams)
    assert found == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-7)
    assert 0 <= found <= 1
    assert ngram_jsd(fake, real, n) == pytest.approx(found, abs=1e-12)
    assert ngram_jsd(real, real, n) == 0
    assert ngram_jsd(real, [text.upper() for text in fake], n) == pytest.approx(1, abs=1e-12)


def test_texts_of_other_lengths_and_numbers() -> None:
    assert ngram_jsd(["ab", "a"], ["abab"], 2) == pytest.approx(ngram_jsd(["ab"], ["abab"], 2))
    assert ngram_jsd(["ab"] * 7, ["ab"], 2) == 0
    assert ngram_jsd(["ab", "cd"], ["abcd"], 2) > 0, "no n-gram spans two texts"
    assert ngram_jsd(np.array([[1, 12]]), np.array([[11, 2]]), 2) == 1, "codes are not digits"


def test_errors() -> None:
    with pytest.raises(ValueError, match="n must be an integer >= 1, got 0"):
        ngram_jsd(REAL, FAKE, 0)
    with pytest.raises(ValueError, match="fake has no 3-gram: every text is shorter"):
        ngram_jsd(REAL, ["ab", ""], 3)
    with pytest.raises(ValueError, match="real is empty"):
        ngram_jsd([], FAKE, 1)
    with pytest.raises(ValueError, match=r"fake must be codes \(N, T\) with N >= 1, got shape \(4,\)"):
        ngram_jsd(codes(REAL), codes(FAKE)[0][:4], 1)
    with pytest.raises(ValueError, match=r"real must be codes \(N, T\)"):
        ngram_jsd(codes(REAL)[:0], codes(FAKE), 1)
    for bad in ("abab", [1, 2], torch.zeros(3, 4), np.zeros((3, 4), dtype=complex)):
        with pytest.raises(TypeError, match="real must be"):
            ngram_jsd(bad, FAKE, 1)
    with pytest.raises(TypeError, match="real and fake must both be strings, or both be codes"):
        ngram_jsd(REAL, codes(FAKE), 1)


def test_frequencies_that_were_counted_once_serve_as_the_texts_do() -> None:
    real, fake = ["abab", "abba", "baab"], ["aaaa", "abab", "bbbb"]
    for n in (1, 2, 3):
        counted = ngram_frequencies(real, n)
        assert sum(counted.values()) == pytest.approx(1)
        assert ngram_jsd(counted, fake, n) == ngram_jsd(real, ngram_frequencies(fake, n), n) == ngram_jsd(real, fake, n)
    codes = torch.tensor([[0, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1]])
    assert ngram_frequencies(codes, 2) == {(0, 1): 4 / 9, (1, 0): 3 / 9, (1, 1): 1 / 9, (0, 0): 1 / 9}


def test_frequencies_of_another_length_or_kind_are_refused() -> None:
    counted = ngram_frequencies(["abab"], 2)
    with pytest.raises(ValueError, match="real must hold frequencies of 3-grams"):
        ngram_jsd(counted, ["abab"], 3)
    with pytest.raises(ValueError, match="fake must hold frequencies of 2-grams"):
        ngram_jsd(["abab"], {}, 2)
    with pytest.raises(TypeError, match="both"):
        ngram_jsd(counted, torch.tensor([[0, 1]]), 2)
    with pytest.raises(ValueError, match="n must be an integer >= 1, got 0"):
        ngram_frequencies(["ab"], 0)
