"""Transformers that are trained and verified against exchanges of synonyms."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flatlab import bounds, data, models, train
from flatlab.studies.certified_bounds.settings import CertifiedBounds


def language(cfg: CertifiedBounds, seed: int, split: str, n: int, *, root: str = "") -> data.SynonymTask:
    """Sentences: of the made-up language of this seed, or of those on the disk that `cfg` names.

    Args:
        cfg: which language.
        seed: of a made-up one.
        split: train, validation or test.
        n: number of sentences.
        root: folder of the data, or empty.
    """
    if cfg.language:
        return data.load_sentences(cfg.language, split, root=root or None, limit=n, shape=cfg.word_shape)
    return data.synonym_task(n, seed=seed, split=split)


def fit_words(
    cfg: CertifiedBounds, kind: str, seed: int, *, lr: float, device: torch.device, root: str = ""
) -> models.SentenceModel:
    """Train a transformer on the language of a seed.

    Args:
        cfg: the model, the recipe and the number of sentences.
        kind: "natural", "ibp" or "crown-ibp".
        seed: of the language, weights and batches.
        lr: peak learning rate.
        device: where to train.
        root: as in `language`.
    """
    task, goal = language(cfg, seed, "train", cfg.words, root=root), bounds.clean_words
    if kind != "natural":
        exchanged, ramp = bounds.ExchangedWords(task.synonyms.to(device)), train.Ramp(1.0, 0.1, 0.6)
        goal = bounds.CertifiedTraining(exchanged, kind=kind, mix=False, ramp=ramp)

    def reader(s: int) -> nn.Module:
        options = {"vocabulary": len(task.vectors), **cfg.word_model}
        net = models.build("text_transformer", cfg.word_shape, 2, seed=s, options=options)
        net.embedding = nn.Embedding.from_pretrained(task.vectors.clone(), freeze=not cfg.language)
        return net

    recipe = dataclasses.replace(cfg.word_recipe, lr=lr, epochs=cfg.word_epochs.get(kind, cfg.word_recipe.epochs))
    net = train.fit_seeds(reader, task, goal, recipe, seeds=(seed,), device=device)[0]
    assert isinstance(net, models.SentenceModel)
    return net


def word_score(
    cfg: CertifiedBounds,
    kind: str,
    options: dict[str, Any],
    seeds: Sequence[int],
    *,
    device: torch.device,
    root: str = "",
) -> list[float]:
    """For `flatlab.train.sweep`, with the settings put in: shares of validation sentences that no method verifies.

    Args:
        cfg, device, root: as in `fit_words`; the last of the budgets is verified.
        kind, options, seeds: of training; the options are {"lr": ...}.
    """
    found = []
    for seed in seeds:
        net = fit_words(cfg, kind, seed, **options, device=device, root=root)
        task = language(cfg, seed, "validation", cfg.word_tests, root=root)
        found.append(1 - word_report(net, task, cfg.budgets[-1], truth=False)["verified"])
    return found


@torch.no_grad()
def withstands(model: models.SentenceModel, variants: Tensor, owner: Tensor, y: Tensor) -> Tensor:
    """Which sentences are read rightly in all of their variants, bool (N,).

    Args:
        variants, owner: sentences (M, T), and of which of the N each is a variant (M,), as
            `flatlab.data.enumerate_substitutions` lists them.
        y: labels (N,).
    """
    device = next(model.parameters()).device
    parts = [model(model.embed(part.to(device))).argmax(1).cpu() for part in variants.split(8192)]
    wrong = torch.cat(parts) != y[owner]
    return torch.bincount(owner[wrong], minlength=len(y)) == 0


def enumeration_gap(task: data.SynonymTask, budget: int, *, rows: int = 20, generator: torch.Generator) -> float:
    """The largest difference of the bound of random linear functions over exchanges of words from their enumeration.

    Args:
        task: sentences; all of their exchanges are listed, so that few must do.
        budget: how many words of each may be exchanged.
        rows: number of functions.
        generator: of their coefficients.
    """
    at = bounds.Synonyms(task.embed(task.codes), *task.candidates(task.codes), budget)
    a = torch.randn(rows, *at.x.shape, generator=generator)
    variants, owner = data.enumerate_substitutions(task.codes, task, budget)
    values = torch.einsum("sntd,ntd->sn", a[:, owner], task.embed(variants))
    least = torch.stack([values[:, owner == i].amin(1) for i in range(len(task))], dim=1)
    return float((at.lower(a) - least).abs().max())


@torch.no_grad()
def word_report(
    model: models.SentenceModel, task: data.SynonymTask, budget: int, *, truth: bool = True
) -> dict[str, float]:
    """Shares of sentences that are read rightly, proven, and indeed right whatever is exchanged.

    Args:
        model: a classifier of sentences, in eval mode.
        task: sentences to test it on.
        budget: how many words of each may be exchanged.
        truth: count out all exchanges; they are many.

    Returns:
        "clean", "truth" (NaN if not counted), "ibp", "crown-ibp" and "crown", "cheap" by any of the first two,
        "verified" by any of all, and "false proofs": how many sentences are proven and yet misread in some variant,
        which must be 0.
    """
    device = next(model.parameters()).device
    y = task.y.to(device)
    at = bounds.synonym_set(model, task.codes.to(device), task.synonyms.to(device), budget=budget)
    made = bounds.Bounds(bounds.Program(model, at.x), at.x, at)
    proven = {method: bounds.verified(made, y, method=method).cpu() for method in ("ibp", "crown-ibp", "crown")}
    proven["cheap"] = proven["ibp"] | proven["crown-ibp"]
    proven["verified"] = proven["cheap"] | proven["crown"]
    report = {"clean": float((model(at.x).argmax(1) == y).double().mean()), "truth": float("nan"), "false proofs": 0.0}
    if truth:
        right = withstands(model, *data.enumerate_substitutions(task.codes, task, budget), task.y)
        report |= {"truth": float(right.double().mean()), "false proofs": float((proven["verified"] & ~right).sum())}
    return report | {method: float(flags.double().mean()) for method, flags in proven.items()}


def rows(
    cfg: CertifiedBounds, chosen: Mapping[str, Mapping[str, float]], *, device: torch.device, root: str = ""
) -> list[dict[str, Any]]:
    """A `word_report` of each kind of training, seed and budget, on test sentences; counted out for made-up languages.

    Args:
        cfg: the languages, the seeds and the budgets.
        chosen: kind of training -> {"lr": its learning rate}.
        device, root: as in `fit_words`.

    Raises:
        ValueError: the test sentences of a language have one label only, which would be no task.
    """
    made = []
    for kind, options in chosen.items():
        for seed in cfg.seeds:
            net = fit_words(cfg, kind, seed, **options, device=device, root=root)
            task = language(cfg, seed, "test", cfg.word_tests, root=root)
            if len(task.y.unique()) < 2:
                raise ValueError(f"language {seed} has test sentences of one label only: report on another seed")
            for budget in cfg.budgets:
                found = word_report(net, task, budget, truth=not cfg.language)
                made.append({"kind": kind, "seed": seed, "budget": budget} | found)
    return made
