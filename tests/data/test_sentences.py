"""Real sentences with synonyms, from small files of the real layout."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from flatlab import bounds, data, models, train
from flatlab.data.errors import DataCorrupt, DataNotFound
from flatlab.studies.certified_bounds import synonyms

FOLDER = "stanfordnlp/sst2"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / FOLDER / "data"
    folder.mkdir(parents=True)
    films = ["A good film", "a bad film", "a fine film indeed", "a poor film"]
    table(folder / "train-00000-of-00001.parquet", films * 10, [1, 0, 1, 0] * 10)
    table(folder / "validation-00000-of-00001.parquet", ["an unseen good film", "bad"], [1, 0])
    (tmp_path / FOLDER / "synonyms.json").write_text(
        json.dumps({"good": ["fine", "good", "splendid"], "bad": ["poor"], "nowhere": ["film"]})
    )
    return tmp_path


def table(path: Path, sentences: list, labels: list, names: tuple[str, str] = ("sentence", "label")) -> None:
    pq.write_table(pa.table({names[0]: sentences, names[1]: labels}), path)


def test_words_come_from_the_training_split_alone(root: Path) -> None:
    task = data.load_sentences("sst2", "test", root=root, shape=(5, 4))
    assert len(task) == 2
    assert task.y.tolist() == [1, 0]
    first, second = task.codes.tolist()
    assert first[:2] == [1, 1], "'an' and 'unseen' are unknown"
    assert first[4] == 0, "padding"
    assert second[1:] == [0] * 4
    assert task.vectors.shape == (len(task.synonyms), 4)


def test_synonyms_join_words_of_the_vocabulary(root: Path) -> None:
    task = data.load_sentences("sst2", "train", root=root)
    good, fine = task.codes[0, 1], task.codes[2, 1]
    assert task.synonyms[good].tolist() == [int(fine)] + [-1] * 7
    assert (task.synonyms[0] == -1).all(), "padding has none"
    variants, owner = data.enumerate_substitutions(task.codes[:1], task, 1)
    assert len(variants) == 2
    assert owner.tolist() == [0, 0]


def test_the_held_out_tenth_is_fixed_and_apart(root: Path) -> None:
    kept, held_out = (data.load_sentences("sst2", split, root=root) for split in ("train", "validation"))
    assert (len(kept), len(held_out)) == (36, 4)
    again = data.load_sentences("sst2", "validation", root=root, limit=2)
    assert torch.equal(again.codes, held_out.codes[:2])
    assert torch.equal(again.vectors, kept.vectors)


def test_a_certified_model_is_trained_on_them(root: Path) -> None:
    task = data.load_sentences("sst2", "train", root=root, shape=(6, 8))
    net = models.build("text_transformer", (6, 8), 2, options={"vocabulary": len(task.vectors), "heads": 2, "ff": 8})
    words, ramp = bounds.ExchangedWords(task.synonyms), train.Ramp(1.0, 0.1, 0.5)
    goal = bounds.CertifiedTraining(words, kind="crown-ibp", ramp=ramp)
    train.fit(net, task, goal, train.Recipe(epochs=2, batch_size=12), seeds=0)
    found = synonyms.word_report(net, task, 2)
    assert found["false proofs"] == 0
    assert found["verified"] <= found["truth"]


def test_what_is_missing_or_damaged_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match=r"synonyms\.json there. Cure: set FLATLAB_DATA"):
        data.load_sentences("sst2", "train", root=tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="unknown sentences 'sst3'.*did you mean 'sst2'"):
        data.load_sentences("sst3", "train", root=root)
    with pytest.raises(ValueError, match="vocabulary must be an integer >= 3, got 2"):
        data.load_sentences("sst2", "train", root=root, vocabulary=2)
    (root / FOLDER / "synonyms.json").write_text("[1, 2]")
    with pytest.raises(DataCorrupt, match="must map words to lists of words"):
        data.load_sentences("sst2", "train", root=root)
    path = root / FOLDER / "data" / "train-00000-of-00001.parquet"
    table(path, ["a"], [2])
    with pytest.raises(DataCorrupt, match="labels 0 or 1, got"):
        data.load_sentences("sst2", "train", root=root)
    table(path, ["a"], [1], names=("text", "label"))
    with pytest.raises(DataCorrupt, match="columns sentence and label"):
        data.load_sentences("sst2", "train", root=root)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataCorrupt, match="cannot be read as parquet"):
        data.load_sentences("sst2", "train", root=root)
