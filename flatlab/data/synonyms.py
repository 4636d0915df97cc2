"""A small made-up language with synonyms, for which it can be counted out what exchanging words does.

    task = synonym_task(1000, seed=0)                         # and split="test": other sentences of the same language
    model = models.build("text_mlp", (8, 8), 2, options={"vocabulary": 60})
    model.embedding.weight.data = task.vectors.clone()
    fit(model, task, bounds.CertifiedTraining(bounds.ExchangedWords(task.synonyms)), recipe)

Words come in groups of one to four that mean the same: the vectors of a group are the corners of a regular simplex, so
that every word has zero to three synonyms, all at the same distance from it. Each group has a score, a linear function
of its centre; a sentence is positive if the scores of its words sum to more than 0, and no exchange of synonyms changes
that. A classifier that uses nothing but the scores would be perfectly robust; one that is fitted to some sentences is
not. The task is the smallest relative of sentiment with counter-fitted synonyms (Alzantot et al. 2018).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, product

import torch
from torch import Tensor

from flatlab import checks

SPLITS = ("train", "validation", "test")
_MOST = 10_000_000


@dataclass(frozen=True, eq=False)
class SynonymTask:
    """Labelled sentences, and the language that they are in. It can be given to `flatlab.train.fit` as it is.

    Attributes:
        codes: (N, T) int64, words by number.
        y: (N,) int64, 1 where the sum of the words' scores is positive, else 0.
        vectors: (V, D) float32, one for each word; no unit.
        synonyms: (V, K) int64, the words that mean the same; -1 where there are no more.
        scores: (V,) float32, equal for synonyms.
    """

    codes: Tensor
    y: Tensor
    vectors: Tensor
    synonyms: Tensor
    scores: Tensor

    @property
    def x(self) -> Tensor:
        """The codes, under the name that training uses."""
        return self.codes

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice | Tensor) -> "SynonymTask":
        """Some of the sentences."""
        return replace(self, codes=self.codes[rows], y=self.y[rows])

    def embed(self, codes: Tensor, vectors: Tensor | None = None) -> Tensor:
        """Vectors of words: codes (..., T) -> (..., T, D).

        Args:
            codes: int64 in 0..V-1.
            vectors: a table (V, D) to use instead of the task's own, such as a model's.
        """
        return (self.vectors if vectors is None else vectors)[codes]

    def candidates(self, codes: Tensor, vectors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What each word may be exchanged for: codes (B, T) -> vectors (B, T, K, D), and which of them exist (B, T, K).

        Args:
            codes, vectors: as in `embed`. Where there is no candidate, its vector is that of the word itself.
        """
        found = self.synonyms[codes]
        return self.embed(torch.where(found < 0, codes[..., None], found), vectors), found >= 0


def synonym_task(
    n: int,
    *,
    seed: int,
    split: str = "train",
    vocabulary: int = 60,
    dim: int = 8,
    length: int = 8,
    most: int = 3,
    distance: float = 0.3,
    spread: float = 1.0,
    margin: float = 0.1,
) -> SynonymTask:
    """Make sentences of random words and their labels.

    Args:
        n: number of sentences, >= 1.
        seed: of the language; the sentences follow from it and from `split`.
        split: "train", "validation" or "test": different sentences of one language.
        vocabulary: number of words V, >= 1.
        dim: numbers of a word's vector D, > most.
        length: words of a sentence T, >= 1.
        most: the largest number of synonyms of a word K, >= 1; group sizes are uniform on 1..most + 1.
        distance: between the vectors of synonyms, >= 0.
        spread: root mean square length of the centres of groups, > 0: two of them are about 1.4 times as far apart.
        margin: sentences whose scores sum to less than margin * sqrt(length) in absolute value are not used, in [0, 2];
            scores have mean square 1 over groups.

    Raises:
        ValueError: an argument out of range.
    """
    checks.at_least("n", n, 1)
    place = SPLITS.index(checks.one_of("split", split, SPLITS))
    for name, value in (("vocabulary", vocabulary), ("length", length), ("most", most)):
        checks.at_least(name, value, 1)
    if checks.at_least("dim", dim, 1) <= most:
        raise ValueError(f"dim must exceed most={most}, so that synonyms can all be equally far apart, got {dim}")
    checks.nonnegative("distance", distance)
    checks.positive("spread", spread)
    if checks.nonnegative("margin", margin) > 2:
        raise ValueError(f"margin must lie in [0, 2], beyond which hardly any sentence is left, got {margin:g}")
    g = torch.Generator().manual_seed(seed)
    vectors, synonyms, scores = _language(vocabulary, dim, most, distance, spread, g)
    g = torch.Generator().manual_seed(seed + 1_000_003 * (place + 1))
    codes = torch.empty(0, length, dtype=torch.int64)
    while len(codes) < n:
        drawn = torch.randint(vocabulary, (max(n, 16), length), generator=g)
        codes = torch.cat([codes, drawn[scores[drawn].sum(1).abs() > margin * length**0.5]])
    codes = codes[:n]
    return SynonymTask(codes, (scores[codes].sum(1) > 0).long(), vectors, synonyms, scores)


def _language(
    vocabulary: int, dim: int, most: int, distance: float, spread: float, g: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors (V, D), synonyms (V, K) and scores (V,)."""
    direction = torch.randn(dim, generator=g)
    direction /= direction.norm()
    vectors, scores = torch.empty(vocabulary, dim), torch.empty(vocabulary)
    synonyms = torch.full((vocabulary, most), -1)
    order, start = torch.randperm(vocabulary, generator=g), 0
    while start < vocabulary:
        size = min(int(torch.randint(1, most + 2, (1,), generator=g)), vocabulary - start)
        words, start = order[start : start + size], start + size
        center = torch.randn(dim, generator=g) * spread / dim**0.5
        corners = torch.linalg.qr(torch.randn(dim, size, generator=g))[0].T * distance / 2**0.5
        vectors[words] = center + corners - corners.mean(0)
        scores[words] = center @ direction * dim**0.5 / spread
        for word in words:
            others = words[words != word]
            synonyms[word, : len(others)] = others
    return vectors, synonyms, scores


def enumerate_substitutions(codes: Tensor, task: SynonymTask, budget: int) -> tuple[Tensor, Tensor]:
    """Every sentence that at most `budget` exchanges of synonyms make of each of the given ones, which come first.

    Args:
        codes: (B, T) int64.
        task: whose synonyms are used.
        budget: how many words may change, >= 0.

    Returns:
        The sentences (M, T), and of which of the B each of them is a variant (M,).

    Raises:
        ValueError: more than ten million sentences; their number is the sum over sets of at most `budget` positions of
            the product of the numbers of synonyms there.
    """
    checks.at_least("budget", budget, 0)
    if codes.ndim != 2:
        raise ValueError(f"codes must have shape (B, T), got {tuple(codes.shape)}")
    counts = (task.synonyms[codes] >= 0).sum(-1)
    total = _variants(counts, budget)
    if total > _MOST:
        raise ValueError(f"{total:,} sentences are too many to enumerate: give fewer sentences, or a smaller budget")
    made = [torch.tensor(list(_exchanged(row, task.synonyms, budget))) for row in codes.tolist()]
    sizes = torch.tensor([len(m) for m in made])
    return torch.cat(made), torch.arange(len(codes)).repeat_interleave(sizes)


def _variants(counts: Tensor, budget: int) -> int:
    """How many there are: the elementary symmetric polynomials of the numbers of synonyms."""
    sums = [torch.ones(len(counts), dtype=torch.float64)] + [torch.zeros(len(counts), dtype=torch.float64)] * budget
    for t in range(counts.shape[1]):
        sums = [sums[0]] + [sums[k] + sums[k - 1] * counts[:, t] for k in range(1, budget + 1)]
    return int(torch.stack(sums).sum())


def _exchanged(words: list[int], synonyms: Tensor, budget: int) -> Iterator[list[int]]:
    choices = [[int(s) for s in synonyms[word] if s >= 0] for word in words]
    for count in range(min(budget, len(words)) + 1):
        for places in combinations(range(len(words)), count):
            for chosen in product(*(choices[place] for place in places)):
                row = list(words)
                for place, word in zip(places, chosen, strict=True):
                    row[place] = word
                yield row
