"""Real sentences whose words have synonyms, as a `SynonymTask`: SST-2 (Socher et al. 2013) in the hub's parquet layout.

ROOT/stanfordnlp/sst2/data/{train,validation}-*.parquet     columns sentence (text) and label (0 or 1)
ROOT/stanfordnlp/sst2/synonyms.json                         {word: [word, ...]}, nearest neighbours of counter-fitted
                                                            vectors, say; brought by the user

The hub's test split has no labels. Here "test" is its validation split, and "validation" a tenth of its training split.
"""

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from flatlab import checks
from flatlab.data.errors import DataCorrupt, DataNotFound
from flatlab.data.sources import regular, roots, shards
from flatlab.data.synonyms import SPLITS, SynonymTask

FOLDERS = {"sst2": "stanfordnlp/sst2"}
PADDING, UNKNOWN = 0, 1


def load_sentences(
    name: str,
    split: str,
    *,
    root: str | Path | None = None,
    limit: int | None = None,
    shape: tuple[int, int] = (32, 64),
    vocabulary: int = 10_000,
    most: int = 8,
) -> SynonymTask:
    """Sentences as codes of words, their labels, and which words may stand for which.

    Args:
        name: "sst2".
        split: "train", "validation" or "test".
        root: folder of the data; default `$FLATLAB_DATA`, then `data` in the user's cache folder.
        limit: the first so many sentences; None for all.
        shape: (T, D). Longer sentences are cut to T words, shorter ones padded at their end with word 0. Vectors of D
            numbers are drawn at random, the same for every split: they are to be trained.
        vocabulary: words V, with padding (0) and the unknown word (1): the most frequent of the training split.
        most: the largest number of synonyms of a word K, >= 1; both words must be in the vocabulary.

    Returns:
        Words are lower-case and split at white space. `scores` are 0: nobody knows them.

    Raises:
        DataNotFound: a file is missing; says where it is expected.
        DataCorrupt: a file is not what its name says.
        ValueError: an unknown name or split, or a number out of range.
    """
    checks.one_of("sentences", name, FOLDERS)
    checks.one_of("split", split, SPLITS)
    length, dim = (checks.at_least("shape", number, 1) for number in shape)
    checks.at_least("vocabulary", vocabulary, 3)
    for option, value in (("most", most), ("limit", 1 if limit is None else limit)):
        checks.at_least(option, value, 1)
    folder = _folder(name, root)
    trained = _rows(folder, "train")
    held_out = [i % 10 == 9 for i in range(len(trained))]  # the hub's order is random already
    kept = [row for row, out in zip(trained, held_out, strict=True) if not out]
    known = _vocabulary(tuple(sentence for sentence, _ in kept), vocabulary)
    parts = {"train": kept, "validation": [row for row, out in zip(trained, held_out, strict=True) if out]}
    rows = (parts[split] if split in parts else _rows(folder, "validation"))[:limit]
    codes = torch.tensor([_encode(sentence, known, length) for sentence, _ in rows]).reshape(-1, length)
    g = torch.Generator().manual_seed(0)
    vectors = torch.randn(len(known) + 2, dim, generator=g) / dim**0.5
    labels = torch.tensor([label for _, label in rows], dtype=torch.int64)
    return SynonymTask(codes, labels, vectors, _synonyms(folder, known, most), torch.zeros(len(vectors)))


def _folder(name: str, root: str | Path | None) -> Path:
    for place in roots(root):
        folder = place / FOLDERS[name]
        if shards(folder / "data", "train") and (folder / "synonyms.json").exists():
            return folder
    raise DataNotFound(
        f"sentences {name!r} are not under {' or '.join(map(str, roots(root)))}; expected {FOLDERS[name]}/data/"
        f"{{train,validation}}-*.parquet and {FOLDERS[name]}/synonyms.json there. Cure: set FLATLAB_DATA or root= to a "
        "folder with both; the made-up language of synonym_task needs no files."
    )


def _rows(folder: Path, split: str) -> list[tuple[str, int]]:
    import pyarrow.parquet as pq

    files = shards(folder / "data", split)
    if not files:
        raise DataNotFound(f"{folder}/data holds no {split}-*.parquet: fetch the set again")
    rows: list[tuple[str, int]] = []
    for path in files:
        regular(path)
        try:
            table = pq.read_table(path, columns=["sentence", "label"]).to_pydict()
        except Exception as error:
            raise DataCorrupt(f"{path} cannot be read as parquet with columns sentence and label: {error}") from error
        rows += zip(table["sentence"], table["label"], strict=True)
    wrong = next((row for row in rows if not isinstance(row[0], str) or row[1] not in (0, 1)), None)
    if wrong is not None or not rows:
        raise DataCorrupt(f"{files[0]} must hold sentences with labels 0 or 1, got {wrong}: fetch it again")
    return rows


@lru_cache(maxsize=4)
def _vocabulary(sentences: tuple[str, ...], size: int) -> dict[str, int]:
    """Word -> code, by falling frequency; ties by the alphabet."""
    counts = Counter(word for sentence in sentences for word in sentence.lower().split())
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: code + 2 for code, word in enumerate(ordered[: size - 2])}


def _encode(sentence: str, known: dict[str, int], length: int) -> list[int]:
    codes = [known.get(word, UNKNOWN) for word in sentence.lower().split()[:length]]
    return codes + [PADDING] * (length - len(codes))


def _synonyms(folder: Path, known: dict[str, int], most: int) -> Tensor:
    path = folder / "synonyms.json"
    regular(path)
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        pairs = {word: [str(other) for other in others] for word, others in table.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise DataCorrupt(f"{path} must map words to lists of words: {error}") from error
    found = torch.full((len(known) + 2, most), -1)
    for word, code in known.items():
        codes = [known[other] for other in pairs.get(word, []) if other in known and other != word][:most]
        found[code, : len(codes)] = torch.tensor(codes, dtype=torch.int64)
    return found
