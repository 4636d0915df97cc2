"""What the notebook on certified bounds measures: bounds that are attacked, costs, and reports of trained networks."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import bounds, checks, data, flatness, models, train

STEP_KINDS = ("natural", "IBP", "fused", "plain")


def refute(
    model: nn.Module,
    region: bounds.Box,
    found: Sequence[tuple[Tensor, Tensor]],
    *,
    steps: int = 20,
    starts: int = 4,
    generator: torch.Generator | None = None,
) -> tuple[float, tuple[Tensor, Tensor]]:
    """Attack several bounds of the same outputs, the last of them, which is the tightest, by `flatlab.bounds.audit`.

    Args:
        model: maps (N, ...) to (N, K).
        region: the set around B inputs.
        found: lower and upper bounds (B, K), by several methods.
        steps, starts, generator: as in `audit`.

    Returns:
        The largest `violation` of any of them, and the smallest and largest values found, (B, K) each.
    """
    attacked = bounds.audit(model, region, *found[-1], steps=steps, starts=starts, generator=generator)
    return max(bounds.violation(*ends, *attacked) for ends in found), attacked


def every_set(x: Tensor, eps: float, *, generator: torch.Generator) -> dict[str, bounds.Box]:
    """One set of each kind around points in [0, 1], of comparable size.

    Args:
        x: (B, T, D) in [0, 1]; words of a sentence where sets are of words.
        eps: the radius of the L_inf ball that the others are comparable to.
        generator: of three random synonyms for each word, on the CPU.
    """
    noise = eps * torch.randn(*x.shape[:2], 3, x.shape[2], generator=generator).to(x)
    known = torch.ones(*x.shape[:2], 3, dtype=torch.bool, device=x.device)
    return {
        "Linf, clipped": bounds.LpBall(x, eps, clip=(0, 1)),
        "L2": bounds.LpBall(x, 4 * eps, 2),
        "L2, clipped": bounds.LpBall(x, 4 * eps, 2, clip=(0, 1)),
        "L1": bounds.LpBall(x, 8 * eps, 1),
        "L1, clipped": bounds.LpBall(x, 8 * eps, 1, clip=(0, 1)),
        "L0": bounds.L0Ball(x, 1),
        "box": bounds.Box(x - eps, x + eps / 2),
        "synonyms": bounds.Synonyms(x, x[:, :, None] + noise, known, 2),
    }


def attainment(region: bounds.Box, a: Tensor) -> float:
    """How far the points where linear functions are least miss the functions' bounds, or leave the set; 0 if nowhere.

    Args:
        region: a set around B inputs.
        a: coefficients of the functions, (S, B, ...).
    """
    worst = region.worst(a)
    missed = ((a * worst).flatten(2).sum(2) - region.lower(a)).abs().max()
    outside = torch.maximum(region.low - worst, worst - region.high).max()
    if isinstance(region, bounds.LpBall):
        length = (worst - region.x).flatten(2).norm(p=region.p, dim=2)
        outside = torch.maximum(outside, (length - region.eps.max()).max())
    return max(0.0, float(missed), float(outside))


def gradient_error(value: Callable[[], Tensor], weights: Sequence[Tensor], *, generator: torch.Generator) -> float:
    """How far the gradient of a scalar is from central differences of length 1e-6, along a random direction.

    Args:
        value: computes the scalar from the present weights.
        weights: float64 leaves; written to, and put back.
        generator: of the direction.

    Returns:
        The difference of both slopes, relative to 1 + the slope.
    """
    d = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]
    slope = float(sum((g * v).sum() for g, v in zip(torch.autograd.grad(value(), weights), d, strict=True)))
    before, ends = [w.detach().clone() for w in weights], []
    with torch.no_grad():
        for sign in (1, -1):
            for w, old, v in zip(weights, before, d, strict=True):
                w.copy_(old + sign * 1e-6 * v)
            ends.append(float(value()))
        for w, old in zip(weights, before, strict=True):
            w.copy_(old)
    return abs((ends[0] - ends[1]) / 2e-6 - slope) / (1 + abs(slope))


def ball_report(program: bounds.Program, x: Tensor, y: Tensor, eps: float, *, attacked: Tensor) -> dict[str, float]:
    """Errors on images without an attack, under one, and as far as they can be excluded.

    Args:
        program: what was captured of a classifier in eval mode.
        x, y: images (N, ...) in [0, 1] and labels (N,).
        eps: radius of the L_inf ball, clipped to [0, 1].
        attacked: what an attack has made of x, in that ball.

    Returns:
        "clean" and "attacked"; "verified ibp", "verified crown-ibp" and "verified", the shares that are not proven by
        either or by both; and "contradictions", how many images are proven and yet broken, which must be 0.
    """
    broken = program.model(attacked).argmax(1) != y
    ibp, crown = (bounds.verified_in_ball(program, x, y, eps, method=method) for method in ("ibp", "crown-ibp"))
    share = lambda flags: flags.double().mean().item()  # noqa: E731
    return {
        "clean": share(program.model(x).argmax(1) != y),
        "attacked": share(broken),
        "verified ibp": share(~ibp),
        "verified crown-ibp": share(~crown),
        "verified": share(~(ibp | crown)),
        "contradictions": int(((ibp | crown) & broken).sum()),
    }


def step_cost(kind: str, model: nn.Module, x: Tensor, y: Tensor, eps: float, *, repeats: int = 5) -> tuple[float, int]:
    """Median seconds, and operations, of the loss of a training step and its gradient.

    Args:
        kind: "natural" (cross-entropy), "IBP", or CROWN-IBP with loss fusion ("fused") or without ("plain").
        model: a classifier of images x (N, ...) in [0, 1] with labels y (N,).
        eps: radius of the L_inf ball, clipped to [0, 1].
        repeats: timed steps.
    """
    checks.one_of("kind", kind, STEP_KINDS)
    program, region = bounds.Program(model, x), bounds.LpBall(x, eps, clip=(0, 1))

    def loss() -> Tensor:
        if kind == "natural":
            return train.cross_entropy(model, x, y)
        made = bounds.Bounds(program, x, region)
        if kind == "fused":
            return bounds.fused_ce(made, y).mean()
        return bounds.robust_ce(made, y, method="ibp" if kind == "IBP" else "crown-ibp").mean()

    step = lambda: torch.autograd.grad(loss(), list(model.parameters()))  # noqa: E731
    times = sorted(train.seconds(step, x.device, repeats=repeats))
    middle = (times[(len(times) - 1) // 2] + times[len(times) // 2]) / 2
    return middle, train.operations(step)


def flatness_report(
    model: nn.Module, x: Tensor, y: Tensor, rho: float, *, generator: torch.Generator | None = None
) -> dict[str, float]:
    """How far the mean cross-entropy can rise within balls of radius rho around the weights, from all sides.

    Args:
        model, x, y, rho: as in `flatlab.bounds.certified_flatness`.
        generator: of the attack's and of random directions.

    Returns:
        In nats: "train loss" at the weights, "certified loss", "attack gap", "SAM step" (one step along the joint
        gradient), "random gap", and "excess", by which the attack exceeds the certificate: never more than rounding.
    """
    proof = bounds.certified_flatness(model, x, y, rho)
    gap = flatness.weight_attack(model, x, y, rho, generator=generator) - proof.loss
    names = flatness.layer_weights(model)
    space = flatness.over_parameters(model, lambda m: F.cross_entropy(m(x), y), only=names)
    return {
        "train loss": proof.loss,
        "certified loss": proof.certified_loss,
        "attack gap": gap,
        "SAM step": flatness.sam_sharpness(space, rho),
        "random gap": flatness.random_gap(model, x, y, rho, generator=generator),
        "excess": gap - proof.gap,
    }


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
        "clean", "truth" (NaN if not counted), "ibp", "crown-ibp" and "crown", "verified" by any of them, and
        "false proofs": how many sentences are proven and yet misread in some variant, which must be 0.
    """
    device = next(model.parameters()).device
    y = task.y.to(device)
    at = bounds.synonym_set(model, task.codes.to(device), task.synonyms.to(device), budget=budget)
    made = bounds.Bounds(bounds.Program(model, at.x), at.x, at)
    proven = {method: bounds.verified(made, y, method=method).cpu() for method in ("ibp", "crown-ibp", "crown")}
    proven["verified"] = torch.stack(list(proven.values())).any(0)
    report = {"clean": float((model(at.x).argmax(1) == y).double().mean()), "truth": float("nan"), "false proofs": 0.0}
    if truth:
        right = withstands(model, *data.enumerate_substitutions(task.codes, task, budget), task.y)
        report |= {"truth": float(right.double().mean()), "false proofs": float((proven["verified"] & ~right).sum())}
    return report | {method: float(flags.double().mean()) for method, flags in proven.items()}
