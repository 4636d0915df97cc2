"""Exchanged words: the set's exact concretization, bounds against enumeration, and certified training."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab import models
from flatlab.bounds import (
    Ascent,
    Bounds,
    CertifiedTraining,
    ExchangedWords,
    Program,
    Synonyms,
    clean_words,
    compute_bounds,
    robust_ce,
    synonym_set,
    verified,
)
from flatlab.data import SynonymTask, enumerate_substitutions, synonym_task
from flatlab.models import SentenceModel
from flatlab.train import Ramp, Recipe, fit

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")
MODELS = {
    "text_mlp": {"widths": (16, 16)},
    "text_transformer": {"heads": 2, "ff": 8},
    "text_lstm": {"hidden": 4},
}


def build(name: str, task: SynonymTask, *, seed: int = 0) -> SentenceModel:
    """A network whose table of vectors is the task's, and stays."""
    options = MODELS[name] | {"vocabulary": len(task.vectors)}
    shape = (task.codes.shape[1], task.vectors.shape[1])
    model = models.build(name, shape, 2, seed=seed, options=options)
    assert isinstance(model, SentenceModel)
    model.embedding.weight.requires_grad_(False).copy_(task.vectors)
    return model.eval()


def outputs(model: SentenceModel, codes: Tensor) -> Tensor:
    with torch.no_grad():
        return model(model.embed(codes))


@pytest.fixture(scope="module")
def task() -> SynonymTask:
    return synonym_task(300, seed=0, length=5)


@pytest.fixture(scope="module")
def trained(task) -> dict[str, SentenceModel]:
    found = {}
    for name in MODELS:
        found[name] = build(name, task)
        fit(found[name], task, clean_words, Recipe(epochs=10, batch_size=30, lr=0.02))
        assert float((outputs(found[name], task.codes).argmax(1) == task.y).double().mean()) > 0.9
    return found


def test_three_words_by_hand():
    """Clean 1, 2, 3; the best candidates are worth 4, 2.5 and 3."""
    x = torch.tensor([[[1.0], [2.0], [3.0]]])
    candidates = torch.tensor([[[[4.0], [1.0]], [[2.5], [2.0]], [[3.0], [3.0]]]])
    mask = torch.ones(1, 3, 2, dtype=torch.bool)
    a = torch.ones(1, 1, 3, 1)
    upper = [-float(Synonyms(x, candidates, mask, budget).lower(-a)) for budget in range(4)]
    assert upper == [6, 9, 9.5, 9.5]
    assert [float(Synonyms(x, candidates, mask, budget).lower(a)) for budget in range(4)] == [6, 6, 6, 6]
    hidden = torch.tensor([[[False, True], [True, True], [True, True]]])
    assert -float(Synonyms(x, candidates, hidden, 3).lower(-a)) == 6.5, "a candidate that is masked does not count"


@pytest.mark.parametrize("budget", [0, 1, 2, 5])
def test_the_least_linear_function_over_all_substitutions(task, budget):
    codes = task.codes[:20]
    vectors, mask = task.candidates(codes)
    region = Synonyms(task.embed(codes), vectors, mask, budget)
    a = torch.randn(3, 20, 5, 8)
    variants, of = enumerate_substitutions(codes, task, budget)
    values = torch.einsum("smtd,mtd->sm", a[:, of], task.embed(variants))
    least = torch.stack([values[:, of == b].amin(1) for b in range(20)], 1)
    torch.testing.assert_close(region.lower(a), least)
    worst = region.worst(a)
    torch.testing.assert_close(torch.einsum("sbtd,sbtd->sb", a, worst), least)
    if budget:  # each changed word stands at one of its synonyms
        gaps = (worst[:, :, :, None] - torch.cat([region.x[:, :, None], region.choices], 2)).norm(dim=-1).amin(-1)
        assert float(gaps.max()) < 1e-5
    assert int(((worst - region.x).norm(dim=-1) > 1e-5).sum(-1).max()) <= budget


@pytest.mark.parametrize("name", MODELS)
def test_no_substitution_leaves_the_bounds(trained, task, name):
    model, codes, y = trained[name], task.codes[:12], task.y[:12]
    program = Program(model, model.embed(codes))
    for budget in (1, 2):
        variants, of = enumerate_substitutions(codes, task, budget)
        out, region = outputs(model, variants), synonym_set(model, codes, task.synonyms, budget=budget)
        right = torch.ones(12, dtype=torch.bool)
        right[of[out.argmax(1) != y[of]]] = False
        widths = []
        for method in METHODS:
            low, high = (t.detach() for t in compute_bounds(program, region.x, region, method, ascent=Ascent(iters=3)))
            assert bool(((out >= low[of] - 1e-4) & (out <= high[of] + 1e-4)).all()), method
            bounds = Bounds(program, region.x, region)
            assert bool((right | ~verified(bounds, y, method=method)).all()), method
            with torch.no_grad():
                worst = robust_ce(bounds, y, method=method)
            assert bool((F.cross_entropy(out, y[of], reduction="none") <= worst[of] + 1e-4).all())
            widths.append(float((high - low).mean()))
        assert all(b <= a * (1 + 1e-6) for a, b in pairwise(widths))


@pytest.mark.parametrize("name", MODELS)
def test_a_larger_budget_can_only_do_more_harm(trained, task, name):
    model, codes = trained[name], task.codes[:6]
    program = Program(model, model.embed(codes))
    low = []
    for budget in (0, 1, 2, 3, 5, None):
        region = synonym_set(model, codes, task.synonyms, budget=budget)
        low.append(compute_bounds(program, region.x, region, "crown-ibp")[0].detach())
    for smaller, larger in pairwise(low):
        assert bool((larger <= smaller + 1e-5).all())
    torch.testing.assert_close(low[0], outputs(model, codes))
    torch.testing.assert_close(low[-1], low[-2])


def test_a_linear_classifier_is_bounded_exactly(task):
    torch.manual_seed(0)
    model = models.text_mlp((5, 8), 2, vocabulary=60, widths=()).eval()
    codes = task.codes[:10]
    for budget in (1, 2):
        region = synonym_set(model, codes, task.synonyms, budget=budget)
        low = compute_bounds(model, region.x, region, "crown")[0].detach()
        variants, of = enumerate_substitutions(codes, task, budget)
        out = outputs(model, variants)
        torch.testing.assert_close(low, torch.stack([out[of == b].amin(0) for b in range(10)]))


def test_candidates_move_from_the_word_to_its_synonyms(task):
    model, codes = build("text_mlp", task), task.codes[:4]
    none, half, whole = (synonym_set(model, codes, task.synonyms, share=share) for share in (0.0, 0.5, 1.0))
    torch.testing.assert_close(none.low, none.high)
    torch.testing.assert_close(half.high - half.x, (whole.high - whole.x) / 2)
    vectors, mask = task.candidates(codes)
    torch.testing.assert_close(whole.choices, vectors)
    assert whole.budget == 5
    assert bool((mask.any(2) == ((whole.high - whole.low).amax(2) > 0)).all())


@pytest.mark.parametrize("kind", ["ibp", "fused", "crown-ibp"])
@pytest.mark.parametrize("name", MODELS)
def test_training_makes_sentences_verifiable(trained, task, name, kind):
    epochs = 5 if name == "text_lstm" else 10
    model = build(name, task).train()
    objective = CertifiedTraining(ExchangedWords(task.synonyms), kind=kind, mix=False, ramp=Ramp(1.0, 0.1, 0.5))
    fit(model, task[:200], objective, Recipe(epochs=epochs, batch_size=50, lr=0.02, grad_clip=10.0))
    share = {}
    for which, net in (("plain", trained[name]), ("certified", model)):
        region = synonym_set(net, task.codes[200:], task.synonyms)
        bounds = Bounds(Program(net, region.x), region.x, region)
        share[which] = float(
            verified(bounds, task.y[200:], method="ibp" if kind == "ibp" else "crown-ibp").double().mean()
        )
    assert share["certified"] > share["plain"] + 0.02, share
    assert torch.equal(model.embedding.weight, task.vectors), "a frozen table stays as it is"


def test_the_objective_is_plain_at_first_and_then_bounds_every_substitution(trained, task):
    model, codes, y = trained["text_mlp"], task.codes[:10], task.y[:10]
    plain = clean_words(model, codes, y)
    torch.testing.assert_close(plain, F.cross_entropy(outputs(model, codes), y))
    for kind in ("ibp", "fused", "crown-ibp"):
        objective = CertifiedTraining(ExchangedWords(task.synonyms, budget=2), kind=kind, mix=False)
        torch.testing.assert_close(objective(model, codes, y, 0.0), plain)
        variants, of = enumerate_substitutions(codes, task, 2)
        losses = F.cross_entropy(outputs(model, variants), y[of], reduction="none")
        worst = torch.stack([losses[of == b].max() for b in range(10)]).mean()
        assert float(objective(model, codes, y, 1.0).detach()) >= float(worst) - 1e-5
    words = (ExchangedWords(task.synonyms, budget=budget) for budget in (None, 2))
    free, two = (CertifiedTraining(w, kind="crown-ibp", mix=False)(model, codes, y).detach() for w in words)
    assert float(two) < float(free)


def test_a_table_that_is_trained_gets_gradients(task):
    model = build("text_mlp", task).train()
    model.embedding.weight.requires_grad_(True)
    codes = task.codes[:3]
    CertifiedTraining(ExchangedWords(task.synonyms), kind="crown-ibp", mix=False)(
        model, codes, task.y[:3], 1.0
    ).backward()
    touched = model.embedding.weight.grad.abs().sum(1) > 0
    words = codes.unique()
    assert bool(touched[words].all())
    reachable = torch.cat([words, task.synonyms[words].flatten()]).unique()
    assert set(touched.nonzero()[:, 0].tolist()) <= set(reachable.tolist())
    others = sorted(set(reachable.tolist()) - set(words.tolist()) - {-1})
    assert bool(touched[torch.tensor(others)].any()), "synonyms that matter are moved, too"


def test_bad_arguments(task):
    model = build("text_mlp", task)
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\], got 1.5"):
        synonym_set(model, task.codes, task.synonyms, share=1.5)
    with pytest.raises(ValueError, match=r"codes must lie in 0..59, got 0..60"):
        synonym_set(model, torch.tensor([[0, 60]]), task.synonyms)
    with pytest.raises(ValueError, match=r"codes must have shape \(B, T\)"):
        synonym_set(model, task.codes[0], task.synonyms)
    with pytest.raises(ValueError, match="did you mean 'crown-ibp'"):
        CertifiedTraining(ExchangedWords(task.synonyms), kind="crown-ipb")
    with pytest.raises(ValueError, match="budget must be an integer >= 1"):
        ExchangedWords(task.synonyms, budget=0)
    stacked = models.stack_models([models.mlp((4,), 2)] * 2)
    with pytest.raises(ValueError, match="sequential"):
        CertifiedTraining(ExchangedWords(task.synonyms))(stacked, task.codes, task.y)
