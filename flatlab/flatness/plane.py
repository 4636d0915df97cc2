"""The likelihood landscape in a plane through data points (after Lin et al. 2020, "Likelihood Landscapes").

    V[i, j] = LSE f(x + a_i d1 + b_j d2),        a, b evenly spaced in [-R, R]

The convention is ours: d1 the sign of the input gradient of the cross-entropy, d2 random signs, R three times the
threat model's radius, and no clipping to [0, 1], which would bend the plane. Compare models with the same x and d2 and
one colour scale.
"""

import torch
from torch import Tensor, nn

from flatlab import checks
from flatlab.flatness.likelihood import check_field, field_values, finite_logits, rows_at_once, samples
from flatlab.flatness.slices import NORMALIZATIONS, Plane, require_plane, symmetric_grid


def likelihood_plane(
    model: nn.Module,
    x: Tensor,
    d1: Tensor,
    d2: Tensor,
    radius: float,
    *,
    n: int = 21,
    normalize: str | None = "peak",
    field: str = "lse",
    y: Tensor | None = None,
    clip: tuple[float, float] | None = None,
    batch_size: int | None = None,
) -> Plane:
    """log p (up to a constant) on an n by n grid around each input.

    Args:
        model: maps (N, ...) to logits (N, C), in eval mode.
        x: one input, (C, H, W) or (D,), or a batch of them, (N, C, H, W) or (N, D): a plane each.
        d1, d2: directions shaped like x, or like one input and then shared by all; neither zero nor parallel.
        radius: R > 0; the axes count lengths of d1 and d2, pixel units for directions of signs.
        n: odd number of grid points per axis; the middle one is x itself.
        normalize: "peak" (log-likelihood relative to the plane's most likely point), "center" (to x), or None.
        field, y: as for `likelihood_flatness`.
        clip: range to clip points to. Default: none.
        batch_size: rows given to the model at once.

    Returns:
        Plane with float values (n, n) for one input, a batch of one included, or (N, n, n).
    """
    single = x.ndim in (1, 3)
    batch = samples(model, x[None] if single else x)
    labels = y.reshape(-1) if y is not None and single else y
    check_field(field, labels, len(batch))
    radius = checks.positive("radius", radius)
    if checks.at_least("n", n, 3) % 2 == 0:
        raise ValueError(f"n must be odd, so that the middle of the plane is x itself, got {n}")
    if normalize is not None:
        checks.one_of("normalize", normalize, NORMALIZATIONS)
    one, two = (_like(batch, d, name) for d, name in ((d1, "d1"), (d2, "d2")))
    require_plane(one.flatten(1), two.flatten(1))

    grid = symmetric_grid(radius, n)
    axis = grid.to(batch)
    rows, cells, values = rows_at_once(batch, batch_size), n * n, []
    spread = [1] * (batch.ndim - 1)
    with torch.no_grad():
        for start in range(0, len(batch) * cells, rows):
            index = torch.arange(start, min(start + rows, len(batch) * cells), device=batch.device)
            sample, cell = index // cells, index % cells
            a, b = axis[cell // n].reshape(-1, *spread), axis[cell % n].reshape(-1, *spread)
            points = batch[sample] + a * one[sample] + b * two[sample]
            if clip is not None:
                points = points.clamp(*clip)
            logits = finite_logits(model, points, first=start, repeats=cells)
            values.append(field_values(field, logits, None if labels is None else labels[sample]))
    planes = torch.cat(values).reshape(len(batch), n, n)
    return Plane(planes[0] if len(batch) == 1 else planes, grid, grid.clone()).normalized(normalize)


def _like(batch: Tensor, direction: Tensor, name: str) -> Tensor:
    shape = tuple(batch.shape)
    if direction.shape not in (batch.shape, batch.shape[1:], (1, *batch.shape[1:])):
        raise ValueError(f"{name} must have shape {shape} or {shape[1:]}, got {tuple(direction.shape)}")
    return direction.detach().to(batch).expand(shape)
