"""Texts: codes and alphabets, splits that do not overlap, windows, and what is wrong with a file."""

import os
import sys

import pytest
import torch

from flatlab.data import DataCorrupt, DataNotFound, load_text
from flatlab.data.text import SPLITS, TEXTS

# Read here: the fixtures of this folder hide the user's own.
REAL = os.environ.get("FLATLAB_DATA", "")
SHAKESPEARE = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n" * 3


@pytest.fixture
def put(root):
    """Write a text under the root, and return the root."""

    def write(file, content):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return root

    return write


def paragraphs(text):
    return {" ".join(part.split()) for part in text.split("\n\n")} - {""}


def test_the_embedded_text_is_prose_in_three_disjoint_parts():
    sets = [load_text("python_topics", split) for split in SPLITS]
    texts = [each.decode() for each in sets]
    total = sum(map(len, texts))
    assert total > 200_000
    assert [round(len(text) / total, 1) for text in texts] == [0.8, 0.1, 0.1]
    assert "expression" in texts[0]
    assert not any(paragraphs(one) & paragraphs(other) for one, other in ((texts[0], texts[1]), (texts[0], texts[2])))
    for each in sets:
        assert each.codes.dtype == torch.int64
        assert len(each.alphabet) == 96
        assert each.alphabet == sets[0].alphabet
        assert 0 <= int(each.codes.min()) <= int(each.codes.max()) < 96


def test_the_embedded_text_is_complete_and_leaves_only_repetitions_out():
    from pydoc_data.topics import topics

    ours = set().union(*(paragraphs(load_text("python_topics", split).decode()) for split in SPLITS))
    plain = {" ".join(part.split()) for text in topics.values() for part in text.split("\n\n") if part.isascii()}
    assert plain - {""} <= ours


def test_a_python_without_its_topics_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataNotFound, match=r"pydoc_data\.topics .* 'tiny_shakespeare'"):
        load_text("python_topics", "train")


def test_a_single_file_is_cut_in_order(put):
    root = put("karpathy/tiny_shakespeare/input.txt", SHAKESPEARE)
    parts = [load_text("tiny_shakespeare", split, root=root) for split in SPLITS]
    assert "".join(part.decode() for part in parts) == SHAKESPEARE
    assert len(parts[0]) == round(0.9 * len(SHAKESPEARE))
    assert len(parts[1]) == round(0.95 * len(SHAKESPEARE)) - len(parts[0])
    assert [part.split for part in parts] == list(SPLITS)
    assert len(parts[0].alphabet) == len(set(parts[0].alphabet)) == 65


def test_a_text_in_three_files_needs_only_the_one_asked_for(put, monkeypatch):
    root = put("ptb-text-only/ptb_text_only/valid.txt", " no it was n't <unk> \r\n")
    monkeypatch.setenv("FLATLAB_DATA", str(root))
    assert load_text("ptb", "validation").decode() == " no it was n't <unk> \n"
    expected = r"split 'train', is not under .*ptb-text-only/ptb_text_only/train\.txt there\. Cure: .*FLATLAB_DATA"
    with pytest.raises(DataNotFound, match=expected) as error:
        load_text("ptb", "train")
    assert str(root) in str(error.value)
    assert "'python_topics' needs no files" in str(error.value)


def test_limit_takes_the_beginning():
    whole, part = load_text("python_topics", "test"), load_text("python_topics", "test", limit=100)
    assert torch.equal(part.codes, whole.codes[:100])
    assert len(load_text("python_topics", "test", limit=10**9)) == len(whole)


@pytest.mark.parametrize(
    ("length", "stride", "count", "last"), [(4, None, 2, 4), (4, 1, 6, 5), (3, 3, 3, 6), (9, None, 1, 0), (2, 5, 2, 5)]
)
def test_windows_pair_each_character_with_the_next(length, stride, count, last):
    text = load_text("python_topics", "train", limit=10)
    windows = text.windows(length, stride=stride)
    assert len(windows) == len(windows.y) == count
    assert windows.x.shape == windows.y.shape == (count, length)
    assert torch.equal(windows.x[:, 1:], windows.y[:, :-1])
    assert torch.equal(windows.x[-1], text.codes[last : last + length])
    assert torch.equal(windows.y[-1], text.codes[last + 1 : last + length + 1])
    assert windows.x.dtype == windows.y.dtype == torch.int64


def test_windows_copy_nothing():
    text = load_text("python_topics", "train", limit=1000)
    windows = text.windows(100, stride=1)
    assert windows.x.untyped_storage().data_ptr() == text.codes.untyped_storage().data_ptr()


def test_decode_reads_any_codes():
    text = load_text("python_topics", "train", limit=6)
    assert text.decode(text.codes.reshape(2, 3)) == text.decode() == text.decode(text.codes.tolist())
    assert text.decode([]) == ""
    with pytest.raises(ValueError, match=r"codes must lie in 0\.\.95, got 96"):
        text.decode([0, 96])
    with pytest.raises(ValueError, match=r"got -1"):
        text.decode([-1])


def test_bad_arguments():
    with pytest.raises(ValueError, match="did you mean 'tiny_shakespeare'"):
        load_text("shakespeare", "train")
    with pytest.raises(ValueError, match="did you mean 'validation'"):
        load_text("ptb", "valid")
    with pytest.raises(ValueError, match="limit must be an integer >= 1, got 0"):
        load_text("python_topics", "train", limit=0)
    short = load_text("python_topics", "train", limit=5)
    with pytest.raises(ValueError, match=r"length=5 needs a text of at least 6 characters, this one has 5"):
        short.windows(5)
    assert len(short.windows(4)) == 1
    with pytest.raises(ValueError, match="length must be"):
        short.windows(0)
    with pytest.raises(ValueError, match="stride must be"):
        short.windows(2, stride=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"input\.txt holds no text for the split 'train'"),
        (b"To be\xff or not", r"input\.txt is not UTF-8 text \(byte 5 of it\)"),
        ("To be 42", "has the character '4', which is none of the 65"),
        ("Caf\u00e9 " * 5, "has the character 'é'"),
    ],
)
def test_damaged_files_are_named(put, content, message):
    root = put("karpathy/tiny_shakespeare/input.txt", content)
    with pytest.raises(DataCorrupt, match=message):
        load_text("tiny_shakespeare", "train", root=root)


@pytest.mark.skipif(not REAL, reason="FLATLAB_DATA is not set")
@pytest.mark.parametrize(("name", "characters"), [("tiny_shakespeare", 1_115_394), ("ptb", None)])
def test_real_texts_have_their_alphabets(name, characters):
    found = []
    for split in SPLITS:
        try:
            found.append(load_text(name, split, root=REAL))
        except DataNotFound as error:
            if characters:
                pytest.skip(str(error))
    if not found:
        pytest.skip(f"{name} is not under FLATLAB_DATA")
    seen = torch.cat([part.codes for part in found]).unique()
    assert torch.equal(seen, torch.arange(len(TEXTS[name].alphabet)))
    if characters:
        assert sum(map(len, found)) == characters
