"""The made-up language with synonyms: its geometry, its labels, and that every substitution is counted out."""

from itertools import product

import pytest
import torch

from flatlab.data import SynonymTask, enumerate_substitutions, synonym_task
from flatlab.data.synonyms import SPLITS


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("distance", [0.3, 0.0, 1.0])
def test_synonyms_are_mutual_and_all_equally_far_apart(seed, distance):
    task = synonym_task(50, seed=seed, distance=distance)
    assert task.vectors.shape == (60, 8)
    assert task.synonyms.shape == (60, 3)
    assert task.vectors.dtype == torch.float32
    counts = (task.synonyms >= 0).sum(1)
    assert set(counts.tolist()) <= {0, 1, 2, 3}
    assert bool(((task.synonyms >= 0) == (torch.arange(3) < counts[:, None])).all()), "padding is at the end"
    for word in range(60):
        group = {word, *(s for s in task.synonyms[word].tolist() if s >= 0)}
        assert len(group) == counts[word] + 1
        for other in group - {word}:
            assert {other, *(s for s in task.synonyms[other].tolist() if s >= 0)} == group
            assert float((task.vectors[word] - task.vectors[other]).norm()) == pytest.approx(distance, abs=1e-5)
            assert task.scores[word] == task.scores[other]


def test_every_number_of_synonyms_occurs():
    counts = (synonym_task(1, seed=0, vocabulary=400).synonyms >= 0).sum(1)
    assert (counts.bincount(minlength=4) > 20).all()
    assert (synonym_task(1, seed=0, most=1, dim=2).synonyms >= 0).sum(1).max() == 1


def test_labels_are_the_sign_of_the_sum_of_scores_and_no_synonym_changes_them():
    task = synonym_task(200, seed=0, margin=0.1)
    sums = task.scores[task.codes].sum(1)
    assert torch.equal(task.y, (sums > 0).long())
    assert float(sums.abs().min()) > 0.1 * 8**0.5
    assert 0.3 < float(task.y.double().mean()) < 0.7
    variants, of = enumerate_substitutions(task.codes[:20], task, 2)
    assert torch.equal((task.scores[variants].sum(1) > 0).long(), task.y[of])


def test_splits_are_other_sentences_of_one_language():
    parts = [synonym_task(100, seed=3, split=split) for split in SPLITS]
    for part in parts[1:]:
        assert torch.equal(part.vectors, parts[0].vectors)
        assert torch.equal(part.synonyms, parts[0].synonyms)
        rows = {tuple(row) for row in part.codes.tolist()}
        assert not rows & {tuple(row) for row in parts[0].codes.tolist()}
    again, other = synonym_task(100, seed=3), synonym_task(100, seed=4)
    assert torch.equal(again.codes, parts[0].codes)
    assert not torch.equal(other.vectors, parts[0].vectors)
    assert torch.equal(synonym_task(40, seed=3).vectors, parts[0].vectors), "the language does not depend on n"


def test_torchs_own_generator_is_left_alone():
    state = torch.get_rng_state()
    synonym_task(30, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_it_is_a_training_set():
    task = synonym_task(30, seed=0, length=5)
    assert len(task) == 30
    assert task.x is task.codes
    assert task.codes.dtype == task.y.dtype == torch.int64
    assert task.codes.shape == (30, 5)
    assert 0 <= int(task.codes.min()) <= int(task.codes.max()) < 60
    part = task[:10]
    assert isinstance(part, SynonymTask)
    assert torch.equal(part.codes, task.codes[:10])
    assert part.vectors is task.vectors
    assert torch.equal(task[torch.tensor([4, 2])].y, task.y[[4, 2]])


def test_candidates_are_the_vectors_of_the_synonyms():
    task = synonym_task(6, seed=0)
    vectors, mask = task.candidates(task.codes)
    assert vectors.shape == (6, 8, 3, 8)
    assert mask.shape == (6, 8, 3)
    for b, t, k in product(range(6), range(8), range(3)):
        word = int(task.codes[b, t])
        other = int(task.synonyms[word, k])
        assert bool(mask[b, t, k]) == (other >= 0)
        assert torch.equal(vectors[b, t, k], task.vectors[other if other >= 0 else word])
    table = torch.randn(60, 5)
    assert torch.equal(task.embed(task.codes, table), table[task.codes])
    assert task.candidates(task.codes, table)[0].shape == (6, 8, 3, 5)


@pytest.mark.parametrize("budget", [0, 1, 2, 4])
def test_all_substitutions_within_the_budget_once_each(budget):
    task = synonym_task(5, seed=1, length=4)
    variants, of = enumerate_substitutions(task.codes, task, budget)
    for b, words in enumerate(task.codes.tolist()):
        choices = [[w, *(s for s in task.synonyms[w].tolist() if s >= 0)] for w in words]
        wanted = [row for row in product(*choices) if sum(x != w for x, w in zip(row, words, strict=True)) <= budget]
        found = [tuple(row) for row in variants[of == b].tolist()]
        assert sorted(found) == sorted(wanted)
        assert found[0] == tuple(words), "the sentence itself comes first"
    assert torch.equal(of, of.sort().values)


def test_words_without_synonyms_and_words_that_come_twice():
    task = synonym_task(3, seed=0)
    counts = (task.synonyms >= 0).sum(1)
    lonely, rich = int((counts == 0).nonzero()[0]), int((counts == 3).nonzero()[0])
    codes = torch.tensor([[lonely, lonely], [rich, rich]])
    variants, of = enumerate_substitutions(codes, task, 2)
    assert of.bincount().tolist() == [1, 16]
    assert len({tuple(row) for row in variants.tolist()}) == 17


def test_bad_arguments():
    with pytest.raises(ValueError, match="did you mean 'validation'"):
        synonym_task(5, seed=0, split="valid")
    with pytest.raises(ValueError, match="n must be an integer >= 1, got 0"):
        synonym_task(0, seed=0)
    with pytest.raises(ValueError, match=r"dim must exceed most=3, .* got 3"):
        synonym_task(5, seed=0, dim=3)
    with pytest.raises(ValueError, match=r"margin must lie in \[0, 2\]"):
        synonym_task(5, seed=0, margin=3)
    with pytest.raises(ValueError, match="distance must be a finite number >= 0"):
        synonym_task(5, seed=0, distance=-1)
    task = synonym_task(5, seed=0)
    with pytest.raises(ValueError, match="budget must be"):
        enumerate_substitutions(task.codes, task, -1)
    with pytest.raises(ValueError, match=r"codes must have shape \(B, T\)"):
        enumerate_substitutions(task.codes[0], task, 1)
    long = synonym_task(1, seed=0, length=40)
    with pytest.raises(ValueError, match="too many to enumerate"):
        enumerate_substitutions(long.codes, long, 40)
