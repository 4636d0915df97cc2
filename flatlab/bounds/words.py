"""Sentences whose words may be exchanged for synonyms: the set around each, and certified training on it.

    at = word_set(model, codes, synonyms, budget=2)           # the words' vectors at.x, and what they may become
    verified(Bounds(Program(model, at.x), at.x, at), y)

Training follows Xu et al. 2020 (arXiv 2002.12920, section 4.2): first on clean sentences, then on bounds over sentences
whose candidates move from the word itself to its synonyms, e + share (s - e), as the share grows from 0 to 1. The
table of vectors may be trained, too: vectors are looked up in the model at every step.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.bounds.engine import Bounds
from flatlab.bounds.graph import Program
from flatlab.bounds.losses import EpsSchedule, verified
from flatlab.bounds.sets import Synonyms
from flatlab.bounds.train import KINDS, Captured, certified_loss
from flatlab.data import SynonymTask, enumerate_substitutions
from flatlab.models import SentenceModel, Stacked


def word_set(
    model: SentenceModel, codes: Tensor, synonyms: Tensor, *, budget: int | None = None, share: float = 1.0
) -> Synonyms:
    """What a model's inputs become when words are exchanged.

    Args:
        model: its method `embed` maps codes to vectors; positions are added inside it.
        codes: words by number (B, T), int64.
        synonyms: (V, K) int64, the words that each may be exchanged for; -1 where there are no more.
        budget: how many words of a sentence may change at once; None for all.
        share: how far candidates lie from the word, towards its synonyms, in [0, 1].

    Returns:
        The set around the vectors (B, T, D), its `x`.

    Raises:
        ValueError: shapes that do not fit, words outside the table, or an option out of range.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share!r}")
    if codes.ndim != 2 or synonyms.ndim != 2:
        raise ValueError(
            f"codes must have shape (B, T) and synonyms (V, K), got {tuple(codes.shape)} and {tuple(synonyms.shape)}"
        )
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < len(synonyms):
        raise ValueError(f"codes must lie in 0..{len(synonyms) - 1}, got {int(codes.min())}..{int(codes.max())}")
    found = synonyms.to(codes.device)[codes]
    x = model.embed(codes)
    other = model.embed(torch.where(found < 0, codes[..., None], found))
    return Synonyms(
        x, x[:, :, None] + share * (other - x[:, :, None]), found >= 0, codes.shape[1] if budget is None else budget
    )


@dataclass(eq=False)
class SynonymTraining(Captured):
    """Train a classifier of sentences on a certified upper bound of the worst cross-entropy under exchanged words.

    It is called as `CertifiedTraining` is, with codes of words (N, T) for inputs.

    Args:
        synonyms: (V, K) int64, the words that each may be exchanged for; -1 where there are no more.
        kind: "ibp", "fused" (CROWN-IBP with loss fusion) or "crown-ibp" (one row for each other class).
        budget: how many words of a sentence may change at once, >= 1; None for all. Intervals ignore it.
        schedule: of the share that candidates are away from the word; its `eps` does not matter. None for the default.
        mix: let the weight of CROWN-IBP fall from 1 to 0 along the ramp; otherwise it stays 1.
        relu: lower slope of ReLUs.

    Raises:
        ValueError: an option out of range.
    """

    synonyms: Tensor
    kind: str = "crown-ibp"
    budget: int | None = None
    schedule: EpsSchedule | None = None
    mix: bool = True
    relu: str = "adaptive"

    def __post_init__(self) -> None:
        checks.one_of("kind", self.kind, KINDS)
        if self.budget is not None:
            checks.at_least("budget", self.budget, 1)

    @property
    def ramp(self) -> EpsSchedule:
        """The schedule in use."""
        return self.schedule or EpsSchedule(1.0)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step_fraction: float = 1.0) -> Tensor:
        """The mean loss over the batch of codes (N, T)."""
        if isinstance(model, Stacked):
            raise ValueError('networks are certified one at a time: train the seeds with strategy="sequential"')
        sentence = cast(SentenceModel, model)
        share = self.ramp(step_fraction) / self.ramp.eps
        if share == 0:
            return F.cross_entropy(model(sentence.embed(x)), y)
        at = word_set(sentence, x, self.synonyms, budget=self.budget, share=share)
        bounds = Bounds(self.program(model, at.x), at.x, at, relu=self.relu)
        return certified_loss(bounds, y, self.kind, share, mix=self.mix)


def clean_words(model: nn.Module, x: Tensor, y: Tensor, step_fraction: float = 1.0) -> Tensor:
    """The plain objective of a classifier of sentences: mean cross-entropy over codes of words x (N, T)."""
    return F.cross_entropy(model(cast(SentenceModel, model).embed(x)), y)


@torch.no_grad()
def withstands(model: SentenceModel, variants: Tensor, owner: Tensor, y: Tensor) -> Tensor:
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


def enumeration_gap(task: SynonymTask, budget: int, *, rows: int = 20, generator: torch.Generator) -> float:
    """The largest difference of the bound of random linear functions over exchanges of words from their enumeration.

    Args:
        task: sentences; all of their exchanges are listed, so that few must do.
        budget: how many words of each may be exchanged.
        rows: number of functions.
        generator: of their coefficients.
    """
    at = Synonyms(task.embed(task.codes), *task.candidates(task.codes), budget)
    a = torch.randn(rows, *at.x.shape, generator=generator)
    variants, owner = enumerate_substitutions(task.codes, task, budget)
    values = torch.einsum("sntd,ntd->sn", a[:, owner], task.embed(variants))
    least = torch.stack([values[:, owner == i].amin(1) for i in range(len(task))], dim=1)
    return float((at.lower(a) - least).abs().max())


@torch.no_grad()
def word_report(model: SentenceModel, task: SynonymTask, budget: int, *, truth: bool = True) -> dict[str, float]:
    """Shares of sentences that are read rightly, proven, and indeed right whatever is exchanged.

    Args:
        model: a classifier of sentences, in eval mode.
        task: sentences to test it on.
        budget: how many words of each may be exchanged.
        truth: count out all exchanges; they are many.

    Returns:
        "clean", "truth" (NaN if not counted), "ibp", "crown-ibp" and "crown", "verified" by any of them, and
        "false proofs": how many sentences are proven and yet misread in some variant, which must be 0.
    """
    device = next(model.parameters()).device
    y = task.y.to(device)
    at = word_set(model, task.codes.to(device), task.synonyms.to(device), budget=budget)
    made = Bounds(Program(model, at.x), at.x, at)
    proven = {method: verified(made, y, method=method).cpu() for method in ("ibp", "crown-ibp", "crown")}
    proven["verified"] = torch.stack(list(proven.values())).any(0)
    report = {"clean": float((model(at.x).argmax(1) == y).double().mean()), "truth": float("nan"), "false proofs": 0.0}
    if truth:
        right = withstands(model, *enumerate_substitutions(task.codes, task, budget), task.y)
        report |= {"truth": float(right.double().mean()), "false proofs": float((proven["verified"] & ~right).sum())}
    return report | {method: float(flags.double().mean()) for method, flags in proven.items()}
