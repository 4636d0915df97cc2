"""Texts by name, as sequences of character codes: what a character-level language model is trained on.

    train = load_text("python_topics", "train")
    model = build("char_lstm", (32,), len(train.alphabet))
    fit(model, train.windows(32), next_token, Recipe(epochs=1, batch_size=32))

`python_topics` is the language-reference prose that every CPython carries for `help()`, and always there. The others
are read from the folder that `root=` or `$FLATLAB_DATA` names:

    karpathy/tiny_shakespeare/input.txt                     `tiny_shakespeare`, 1.1 million characters of plays
    ptb-text-only/ptb_text_only/{train,valid,test}.txt      `ptb`, the Penn Treebank with 10,000 words

A name has one alphabet for all its splits, so that codes mean the same in each of them.
"""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flatlab import checks
from flatlab.data.errors import DataCorrupt, DataNotFound
from flatlab.data.sources import regular, roots

SPLITS = ("train", "validation", "test")
_LETTERS = string.ascii_lowercase


@dataclass(frozen=True)
class _Text:
    """Where a text lies, its alphabet, and which part of a single file each split takes."""

    alphabet: str
    files: tuple[str, ...] = ()  # one for all splits, or one each in the order of SPLITS; none for the embedded text
    cuts: tuple[float, float] = (0.8, 0.9)  # where validation and test begin, as fractions of the characters


TEXTS: dict[str, _Text] = {
    "python_topics": _Text("\n" + "".join(map(chr, range(32, 127)))),
    "tiny_shakespeare": _Text(
        "\n !$&',-.3:;?" + _LETTERS.upper() + _LETTERS, ("karpathy/tiny_shakespeare/input.txt",), (0.9, 0.95)
    ),
    "ptb": _Text(
        "\n #$&'*-./0123456789<>N\\" + _LETTERS,
        tuple(f"ptb-text-only/ptb_text_only/{part}.txt" for part in ("train", "valid", "test")),
    ),
}


@dataclass(frozen=True, eq=False)
class Windows:
    """Pieces of a text with the characters that follow: a training set for `flatlab.train.fit`.

    Attributes:
        x: (M, length) int64 codes.
        y: (M, length) int64, the code that follows each of x.

    Both are views of the text's codes, without a copy: do not write to them.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, eq=False)
class TextSet:
    """The characters of one split.

    Attributes:
        codes: (N,) int64, each an index into `alphabet`.
        alphabet: the characters, the same for every split of a name.
        name, split: what was loaded.
    """

    codes: Tensor
    alphabet: tuple[str, ...]
    name: str = ""
    split: str = ""

    def __len__(self) -> int:
        return len(self.codes)

    def decode(self, codes: Tensor | Sequence[int] | None = None) -> str:
        """The text that `codes` (any shape, read row by row) stand for; by default the whole of this one.

        Raises:
            ValueError: a code outside the alphabet.
        """
        values = self.codes if codes is None else torch.as_tensor(codes)
        wrong = values[(values < 0) | (values >= len(self.alphabet))]
        if wrong.numel():
            raise ValueError(f"codes must lie in 0..{len(self.alphabet) - 1}, got {int(wrong.flatten()[0])}")
        return "".join(self.alphabet[code] for code in values.flatten().tolist())

    def windows(self, length: int, *, stride: int | None = None) -> Windows:
        """Cut the text into inputs of `length` characters and the next character of each.

        Args:
            length: characters of one window.
            stride: from the start of one window to that of the next; by default `length`, so that each character is
                predicted once. What is left at the end, shorter than a window, is not used.

        Raises:
            ValueError: the text has fewer than length + 1 characters.
        """
        length = checks.at_least("length", length, 1)
        step = length if stride is None else checks.at_least("stride", stride, 1)
        if len(self) <= length:
            raise ValueError(
                f"length={length} needs a text of at least {length + 1} characters, this one has {len(self)}; "
                "take shorter windows, or a larger limit"
            )
        pieces = self.codes.unfold(0, length + 1, step)
        return Windows(pieces[:, :-1], pieces[:, 1:])


def load_text(name: str, split: str, *, root: str | Path | None = None, limit: int | None = None) -> TextSet:
    """Return one split of a text as character codes.

    Splits are contiguous and fixed. `python_topics` has the topics in the order of their names; a paragraph that stood
    before, word for word, is left out (a fifth of the text), and the rest is cut 80 : 10 : 10 between paragraphs, so
    that no held-out paragraph is one of the training text. What is not printable ASCII became a space. The text
    differs a little between versions of Python. `tiny_shakespeare` is cut 90 : 5 : 5, `ptb` has its own three files.

    Args:
        name: "python_topics", "tiny_shakespeare" or "ptb".
        split: "train", "validation" or "test".
        root: folder of the data; default `$FLATLAB_DATA`, then `data` in the user's cache folder.
        limit: the first so many characters of the split; a limit above its length takes all.

    Raises:
        DataNotFound: the file is not there; says where it is expected and what needs no file.
        DataCorrupt: it is empty, not UTF-8, or holds a character that this text does not have.
        ValueError: an unknown name or split, or a limit below 1.
    """
    entry = TEXTS[checks.one_of("text", name, TEXTS)]
    part = SPLITS.index(checks.one_of("split", split, SPLITS))
    if limit is not None:
        checks.at_least("limit", limit, 1)
    if not entry.files:
        where, text = "the documentation of this Python", _topics(entry)[part]
    else:
        each_its_own = len(entry.files) > 1
        path = _locate(name, split, entry.files[part if each_its_own else 0], root)
        where, text = str(path), _read(path)
        if not each_its_own:
            ends = [0, *(round(cut * len(text)) for cut in entry.cuts), len(text)]
            text = text[ends[part] : ends[part + 1]]
    if not text:
        raise DataCorrupt(f"{where} holds no text for the split {split!r}; delete it and fetch it again")
    return TextSet(_encode(text, entry.alphabet, where)[:limit], tuple(entry.alphabet), name, split)


def _encode(text: str, alphabet: str, where: str) -> Tensor:
    table = torch.full((128,), -1)
    table[torch.tensor([ord(character) for character in alphabet])] = torch.arange(len(alphabet))
    points = torch.frombuffer(bytearray(text.encode("utf-32-le")), dtype=torch.int32).long()
    codes = torch.where(points < 128, table[points.clamp(max=127)], -1)
    if (codes < 0).any():
        first = int((codes < 0).nonzero()[0])
        raise DataCorrupt(
            f"{where} has the character {text[first]!r}, which is none of the {len(alphabet)} of this text; "
            "is it another text? Delete it and fetch it again"
        )
    return codes


def _topics(entry: _Text) -> tuple[str, ...]:
    """The three splits of the embedded text; a paragraph belongs to the split in which its first character lies."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataNotFound(
            "'python_topics' is the module pydoc_data.topics of CPython, which this Python lacks; install the "
            "documentation part of its standard library, or take 'tiny_shakespeare' or 'ptb'"
        ) from error
    seen: set[str] = set()
    kept = []
    for name in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[name].strip("\n")):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                kept.append(re.sub(r"[^\n -~]", " ", paragraph) + "\n\n")
            seen.add(words)
    total, start = sum(map(len, kept)), 0
    splits: tuple[list[str], ...] = ([], [], [])
    for paragraph in kept:
        splits[sum(start >= cut * total for cut in entry.cuts)].append(paragraph)
        start += len(paragraph)
    return tuple(map("".join, splits))


def _locate(name: str, split: str, file: str, root: str | Path | None) -> Path:
    """The first such file under a root; DataNotFound with folders, layout and cure where there is none."""
    places = roots(root)
    for place in places:
        if (place / file).exists():
            return place / file
    raise DataNotFound(
        f"text {name!r}, split {split!r}, is not under {' or '.join(map(str, places))}; expected {file} there. "
        "Cure: set FLATLAB_DATA or root= to a folder with that file. 'python_topics' needs no files."
    )


def _read(path: Path) -> str:
    """The file's text, with line ends of any system as one newline."""
    regular(path)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataCorrupt(
            f"{path} is not UTF-8 text (byte {error.start} of it); delete it and fetch it again"
        ) from error
