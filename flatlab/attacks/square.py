"""Square attack for the L_inf ball, Andriushchenko, Croce, Flammarion, Hein 2020: random search without gradients.

    start      vertical stripes of width one, each x + eps or x - eps
    proposal   overwrite one square window of the perturbation with +eps or -eps per channel, at a random place
    accept     where the margin loss max_{k != y} f_k - f_y grows, sample by sample
    schedule   the window covers a share p of the image; p halves at the fractions 0.1, 0.5, 2, 5, 10, 20, 40, 60 and
               80 per cent of the queries

It needs logits only, so masked gradients do not protect against it; if it beats PGD, PGD was blocked. The authors'
code redraws a window that would change nothing, which costs no query; here such a proposal is spent.
"""

import bisect
import math

import torch
from torch import Tensor, nn

from flatlab import checks, modes
from flatlab.attacks import losses
from flatlab.attacks.arguments import Box, batch, clean_logits, uniform
from flatlab.attacks.ascent import is_fooled

_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    queries: int = 500,
    p_init: float = 0.8,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    clip: Box = (0.0, 1.0),
) -> Tensor:
    """Adversarial inputs (N, ...) by random search; a sample stops at its first wrong prediction.

    Args:
        model: maps inputs (N, ...) in [0, 1] to logits (N, C), C >= 2; must be in eval mode. Not a stacked model.
        x: inputs (N, C, H, W), (N, H, W), or flat (N, D), which is searched as one row of D pixels.
        y: labels (N,), int64.
        eps: L_inf radius in units of x; 0 returns x.
        queries: model evaluations per sample, including the stripes. A sample misclassified at x costs none.
        p_init: share of the image that the first window covers, in (0, 1].
        generator: source of all draws; None uses the global one. Each sample's draws depend on its place in x only.
        batch_size: rows per forward pass; changes nothing else.
        clip: box that the result stays in, or None.

    Raises:
        ValueError: p_init outside (0, 1], inputs of another rank, and what `pgd` raises.
    """
    eps = checks.radius(eps)
    queries = checks.at_least("queries", queries, 1)
    if not 0 < p_init <= 1:
        raise ValueError(f"p_init must be in (0, 1], got {p_init!r}")
    rows_per_pass = len(x) if batch_size is None else checks.at_least("batch_size", batch_size, 1)
    x, y = batch(model, x, y, clip)
    if eps == 0:
        return x.clone()
    with torch.no_grad(), torch.autocast(device_type=x.device.type, enabled=False):
        return _search(model, x, y, eps, queries, p_init, generator, rows_per_pass, clip)


def _search(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    queries: int,
    p_init: float,
    generator: torch.Generator | None,
    rows_per_pass: int,
    clip: Box,
) -> Tensor:
    n, (channels, height, width) = len(x), image_shape(x)
    logits = clean_logits(model, x, y, rows_per_pass)
    best, result = losses.margin(logits, y), x.clone()
    alive = (~is_fooled(logits, y)).nonzero().squeeze(1)

    # Working copies hold survivors only; draws are made for all n samples, so that they do not depend on who survives.
    images = x.reshape(n, channels, height, width)[alive]
    current, labels, best = images.clone(), y[alive], best[alive]
    down, across = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    for query in range(queries):
        if not len(alive):
            break
        if query == 0:
            signs = _signs(uniform((n, channels, 1, width), x, generator)[alive])
            proposal = _perturbed(images, eps * signs, clip)
        else:
            rows, columns = window(_share(p_init, query / queries), height, width)
            draws = uniform((n, 2 + channels), x, generator)[alive]
            top = (draws[:, 0] * (height - rows + 1)).long()[:, None]
            left = (draws[:, 1] * (width - columns + 1)).long()[:, None]
            in_rows = (down >= top) & (down < top + rows)
            in_columns = (across >= left) & (across < left + columns)
            inside = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
            signs = _signs(draws[:, 2:])[:, :, None, None]
            proposal = torch.where(inside, _perturbed(images, eps * signs, clip), current)

        flat = proposal.reshape(len(alive), *x.shape[1:])
        logits = torch.cat([modes.call(model, part) for part in flat.split(rows_per_pass)])
        value, fooled = losses.margin(logits, labels), is_fooled(logits, labels)
        better = (value > best) | fooled if query else torch.ones_like(fooled)
        best = torch.where(better, value, best)
        current = torch.where(better[:, None, None, None], proposal, current)
        if fooled.any():
            result[alive[fooled]] = flat[fooled]
            keep = ~fooled
            alive, images, current, labels, best = (part[keep] for part in (alive, images, current, labels, best))
    result[alive] = current.reshape(len(alive), *x.shape[1:])
    return result


def image_shape(x: Tensor) -> tuple[int, int, int]:
    """(C, H, W) in which a batch is searched: a flat input is one row of pixels."""
    if x.ndim not in (2, 3, 4):
        raise ValueError(f"square needs inputs (N, C, H, W), (N, H, W) or (N, D), got shape {tuple(x.shape)}")
    padded = (1, 1, *x.shape[1:])
    return padded[-3], padded[-2], padded[-1]


def window(share: float, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a window that covers `share` of the image: a square where it fits, else a rectangle."""
    area = share * height * width
    side = max(1, round(math.sqrt(area)))
    if side <= min(height, width):
        return side, side
    rows, columns = min(side, height), min(side, width)
    if height <= width:
        return rows, min(width, max(1, round(area / rows)))
    return min(height, max(1, round(area / columns))), columns


def _share(p_init: float, progress: float) -> float:
    return p_init / 2 ** bisect.bisect_left(_HALVINGS, progress)


def _signs(draws: Tensor) -> Tensor:
    return (draws < 0.5).to(draws.dtype).mul_(2).sub_(1)


def _perturbed(images: Tensor, delta: Tensor, clip: Box) -> Tensor:
    moved = images + delta
    return moved if clip is None else moved.clamp_(*clip)
