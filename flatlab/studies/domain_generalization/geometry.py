"""The approximations that UDIM is made of, each against what it stands for, on trained networks."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from flatlab import dg, flatness
from flatlab.modes import evaluating
from flatlab.studies.domain_generalization.landscapes import images
from flatlab.studies.domain_generalization.worlds import Trained, pixels


def objective(model: nn.Module, x: Tensor, y: Tensor, rho: float) -> float:
    """L + rho |grad L| in weight space, in eval mode."""
    with evaluating(model):
        loss = F.cross_entropy(model(x), y)
        slopes = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    return float(loss.detach()) + rho * float(torch.stack([g.norm() for g in slopes]).norm())


def perturbed(
    model: nn.Module, x: Tensor, y: Tensor, length: float, *, rho: float = 0.05, draws: int = 1, seed: int = 0
) -> dict[str, list[Tensor]]:
    """Inputs (N, ...) at that distance from x: "worst", "first order" alone, and `draws` in "random" directions.

    Args:
        model: a network in eval mode.
        x, y: images (N, C, H, W) and labels.
        length: of every sample's step.
        rho: radius in weight space.
        draws: random directions.
        seed: of the random directions.
    """
    generator = torch.Generator().manual_seed(seed)
    found = {
        "worst": [dg.perturb_inputs(model, x, y, rho, length)],
        "first order": [dg.perturb_inputs(model, x, y, rho, length, second_order=False)],
        "random": [],
    }
    for _ in range(draws):
        way = torch.randn(x.shape, generator=generator).to(x)
        found["random"].append(x + length * way / way.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
    return found


def gains(
    trained: Trained, label: str, lengths: Sequence[float], *, rho: float = 0.05, batch: int = 64, draws: int = 20
) -> pd.DataFrame:
    """By how much a step in data space raises L + rho |grad L|: a row for each seed, length and way.

    Columns: "seed", "length" in standard deviations of a pixel, "way" ("worst", "first order", and "random" once for
    each draw), "rise", and "cosine" with the worst one.

    Args:
        trained: the networks.
        label: of a method.
        lengths: in standard deviations of a pixel.
        rho: radius in weight space.
        batch: images of the source.
        draws: random directions.
    """
    rows = []
    for seed in trained.seeds:
        model, (x, y), sd = place(trained, label, seed)
        x, y = x[:batch], y[:batch]
        before = objective(model, x, y, rho)
        for length in lengths:
            at = perturbed(model, x, y, length * sd, rho=rho, draws=draws, seed=seed)
            worst = (at["worst"][0] - x).flatten()
            for way, moved in ((way, z) for way, several in at.items() for z in several):
                cosine = float(F.cosine_similarity(worst, (moved - x).flatten(), dim=0))
                rise = objective(model, moved, y, rho) - before
                rows.append({"seed": seed, "length": length, "way": way, "rise": rise, "cosine": cosine})
    return pd.DataFrame(rows)


def beaten(gains: pd.DataFrame, longest: float) -> NDArray[np.float64]:
    """By how much each random direction beats the closed form, (trials,), of the steps that are no longer."""
    few = gains[gains["length"] <= longest]
    worst = few[few["way"] == "worst"].set_index(["seed", "length"])["rise"]
    random = few[few["way"] == "random"].set_index(["seed", "length"])["rise"]
    return (random - worst.reindex(random.index)).to_numpy()


def stand_ins(trained: Trained, label: str) -> NDArray[np.float64]:
    """The correlation, over the head's weights, of gradient variance and the diagonal of the Hessian, (S,)."""
    found = []
    for seed in trained.seeds:
        model, (x, y), _ = place(trained, label, seed)
        variance, hessian = dg.head_curvature(model, x, y)
        found.append(float(torch.corrcoef(torch.stack([variance, hessian]))[0, 1]))
    return np.array(found)


def rises(trained: Trained, label: str, rhos: Sequence[float]) -> pd.DataFrame:
    """The rise of the source's loss over one step of length rho along its gradient, over rho |grad L|: seeds x rhos."""
    rows = {}
    for seed in trained.seeds:
        model, (x, y), _ = place(trained, label, seed)
        with evaluating(model):
            loss = flatness.over_parameters(model, lambda net, x=x, y=y: F.cross_entropy(net(x), y))
            slope = float(torch.stack([g.norm() for g in loss.gradient()]).norm())
            rows[seed] = {rho: flatness.sam_sharpness(loss, rho) / (rho * slope) for rho in rhos}
    return pd.DataFrame(rows).T


def place(trained: Trained, label: str, seed: int) -> tuple[nn.Module, tuple[Tensor, Tensor], float]:
    """The network of a seed's first run, images of its first source that were trained on, and their pixels' sd."""
    run, domains = trained.runs[label, seed][0], trained.domains[seed]
    model = run.selected["iid"].model
    part, _ = dg.split_domain(domains[run.sources[0]], seed=seed)
    return model, images(part, next(model.parameters()).device), pixels(domains, run.sources)[1]
