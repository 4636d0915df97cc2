"""The losses of infinitely many samples: their landscapes, and how long exact gradient descent takes on them."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from flatlab import flatness
from flatlab.ebm import gaussian

Loss = Callable[[Tensor, Tensor, Tensor], gaussian.Population]


def _nce(b: Tensor, c: Tensor, R: Tensor) -> gaussian.Population:
    return gaussian.nce_population(b, c, R, spacing=0.1)


LOSSES: dict[str, Loss] = {"NCE": _nce, "eNCE": gaussian.ence_population, "MLE": gaussian.mle_population}
DESCENTS: dict[str, tuple[str, bool, tuple[float, ...]]] = {
    "NCE, GD": ("NCE", False, (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)),
    "eNCE, GD": ("eNCE", False, (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)),
    "NCE, NGD": ("NCE", True, (0.01, 0.03, 0.1)),
    "eNCE, NGD": ("eNCE", True, (0.01, 0.03, 0.1)),
    "MLE, GD": ("MLE", False, (0.1, 0.3, 0.5, 1.0)),
}
"""Name -> (loss, whether gradients are normalized, constant rates of which the best counts)."""


def curvatures(distances: Sequence[float]) -> pd.DataFrame:
    """What the optimum looks like, a row for each distance R of data N(R, 1) and noise N(0, 1).

    Columns "NCE", "eNCE": their eigenvalues (low, high); "MLE": its curvature; "1 + V": for this noise; "best s": the
    width of the noise with the least chi^2, and "1 + V, best s" for it.
    """
    R = torch.tensor(list(distances), dtype=torch.float64)
    columns: dict[str, Tensor] = {}
    for name, loss in (("NCE", gaussian.nce_population), ("eNCE", gaussian.ence_population)):
        low, high = torch.linalg.eigvalsh(loss(R, R.square() / 2, R).hess).unbind(-1)
        columns |= {f"{name}, low": low, f"{name}, high": high}
    columns["MLE"] = gaussian.mle_population(R, R.square() / 2, R).hess[:, 0, 0]
    columns["1 + V"] = 1 + gaussian.gradient_variance(R, 1.0)
    columns["best s"] = gaussian.best_width(R)
    columns["1 + V, best s"] = 1 + gaussian.gradient_variance(R, columns["best s"])
    return pd.DataFrame({name: values.numpy() for name, values in columns.items()}, index=pd.Index(R.numpy(), name="R"))


def paths(distances: Sequence[float], n: int = 201) -> dict[str, pd.DataFrame]:
    """Losses along the straight way from (0, 0) to the optimum, as shares of the whole fall: a column for each R."""
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    found = {}
    for name, loss in LOSSES.items():
        columns = {}
        for R in map(torch.tensor, distances):
            values = loss(t * R, t * R**2 / 2, R.double()).value
            columns[float(R)] = ((values - values[-1]) / (values[0] - values[-1])).numpy()
        found[name] = pd.DataFrame(columns, index=pd.Index(t.numpy(), name="part of the way"))
    return found


def planes(R: float, n: int = 41) -> Mapping[str, flatness.Plane]:
    """Losses less their least value around the optimum, over the mean b (across) and the constant c (up)."""
    point = torch.tensor([R, R**2 / 2], dtype=torch.float64)
    d_c, d_b = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    found = {}
    for name, loss in LOSSES.items():
        space = flatness.over_tensors(lambda p, loss=loss: loss(p[0], p[1], torch.tensor(R)).value, point)
        found[name] = flatness.loss_surface(space, d_c, d_b, 2.0, n=n).normalized("center")
    return found


def iterations(distances: Sequence[float], *, most: int, tolerance: float = 0.1, stay: int = 20) -> pd.DataFrame:
    """Iterations of exact descent until |b - R| and |c - R^2 / 2| / R stay within `tolerance`, from b = c = 0.

    The best of the constant rates in `DESCENTS` counts. A row for each R, a column for each of them; infinite where
    `most` were not enough.

    Args:
        distances: R.
        most: iterations.
        tolerance: of both errors.
        stay: iterations in a row.
    """
    columns = {}
    for name, (loss, normalized, rates) in DESCENTS.items():
        R, rate = (v.flatten() for v in torch.meshgrid(*map(_float64, (distances, rates)), indexing="ij"))
        found = _descend(LOSSES[loss], R, rate, normalized, most, tolerance, stay)
        columns[name] = found.view(len(distances), -1).amin(1).numpy()
    return pd.DataFrame(columns, index=pd.Index(list(distances), name="R"))


def _descend(loss: Loss, R: Tensor, rate: Tensor, normalized: bool, most: int, tolerance: float, stay: int) -> Tensor:
    """The first of `stay` iterations in a row within the tolerance, (K,), of K descents side by side."""
    found, inside = torch.full_like(R, torch.inf), torch.zeros_like(R)
    at, left = torch.zeros(len(R), 2, dtype=torch.float64), torch.arange(len(R))
    if loss is gaussian.mle_population:
        at[:, 1] = R.square() / 2  # c is no parameter of the likelihood
    for step in range(most + stay):
        gap = (at - torch.stack([R[left], R[left].square() / 2], 1)).abs()
        near = torch.maximum(gap[:, 0], gap[:, 1] / R[left]) <= tolerance
        inside[left] = torch.where(near, inside[left] + 1, 0)
        done = inside[left] >= stay
        found[left[done]] = step - stay + 1.0
        # What has arrived is done; what is not finite never will be, nor may a coarse rate's bounce go on for ever.
        keep = ~done & at.isfinite().all(1) & (at.abs().amax(1) < 1e4)
        at, left = at[keep], left[keep]
        if not len(left):
            break
        grad = loss(at[:, 0], at[:, 1], R[left]).grad
        if normalized:
            grad = grad / grad.norm(dim=1, keepdim=True).clamp(min=1e-300)
        at = at - rate[left, None] * grad
    return found


def _float64(values: Sequence[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)
