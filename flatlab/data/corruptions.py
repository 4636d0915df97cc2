"""Common corruptions of images, a whole batch at once.

The kinds are five of those of Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations". The formulas are simple ones for images of any size and the strengths are our own, so
that errors under them cannot be compared with published ones. With s the strength at a severity, x in [0, 1], and a
clip at the end:

    noise       x + s z,  z ~ N(0, 1) for each pixel and channel
    blur        Gaussian of standard deviation s times the side, along rows and columns; the edge is repeated outside
    contrast    m + s (x - m),  m the mean of the image's channel
    brightness  x + s for every channel (they add to the value of HSV)
    pixelate    the mean over each cell of a grid of round(s times the side) cells a side, none smaller than a pixel

Blur and pixelate are linear in the rows and in the columns, so that two small matrices do each for all images.
"""

from functools import partial

import torch
from torch import Tensor

from flatlab import checks

STRENGTHS: dict[str, tuple[float, ...]] = {
    "noise": (0.05, 0.1, 0.15, 0.22, 0.3),
    "blur": (0.03, 0.05, 0.07, 0.1, 0.14),
    "contrast": (0.8, 0.6, 0.45, 0.3, 0.15),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "pixelate": (0.75, 0.6, 0.5, 0.35, 0.25),
}
"""By kind, for severities 1 to 5."""
CORRUPTIONS = tuple(STRENGTHS)
_BLOCK = 2**17  # values worked on at once: enough to hide the calls, few enough to stay in a processor's cache


@torch.no_grad()
def corrupt(images: Tensor, kind: str, severity: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Corrupted copies of images, with their shape, dtype and device; no gradient passes through.

    Args:
        images: (N, C, H, W), uint8 in 0..255 or any floating dtype in [0, 1].
        kind: one of `CORRUPTIONS`.
        severity: 1 (weak) to 5 (strong).
        generator: of the noise, which the other kinds do not use. Drawn on its device (the CPU by default) and moved.

    Raises:
        ValueError: an unknown kind, a severity outside 1..5, not a batch of images, floats outside [0, 1].
        TypeError: integers other than uint8.
    """
    checks.one_of("corruption", kind, CORRUPTIONS)
    if isinstance(severity, bool) or severity not in range(1, 6):
        raise ValueError(f"severity must be an integer in 1..5, got {severity!r}")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must be a non-empty batch (N, C, H, W), got shape {tuple(images.shape)}")
    if images.dtype != torch.uint8:
        checks.inputs(images)
    strength = STRENGTHS[kind][int(severity) - 1]
    change = partial(_noise, generator=generator) if kind == "noise" else _CHANGES[kind]
    out = torch.empty_like(images)
    rows = max(1, _BLOCK // images[0].numel())
    for block, place in zip(images.split(rows), out.split(rows), strict=True):
        x = block.to(torch.promote_types(images.dtype, torch.float32))
        if images.dtype == torch.uint8:
            place.copy_(change(x.div_(255), strength).mul_(255).round_().clamp_(0, 255))
        else:
            place.copy_(change(x, strength).clamp_(0, 1))
    return out


def _noise(x: Tensor, strength: float, *, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else torch.device("cpu")
    z = torch.randn(x.shape, generator=generator, device=device, dtype=torch.float32)
    return z.to(x).mul_(strength).add_(x)


def _contrast(x: Tensor, strength: float) -> Tensor:
    return torch.lerp(x.mean((2, 3), keepdim=True), x, strength)


def _brightness(x: Tensor, strength: float) -> Tensor:
    return x + strength


def _blur(x: Tensor, strength: float) -> Tensor:
    return _along_both(x, *(_gaussian(side, strength * side) for side in x.shape[2:]))


def _pixelate(x: Tensor, strength: float) -> Tensor:
    return _along_both(x, *(_cells(side, max(1, round(strength * side))) for side in x.shape[2:]))


def _along_both(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """R X C^T of every image and channel."""
    return rows.to(x) @ (x @ columns.to(x).T)


def _gaussian(side: int, deviation: float) -> Tensor:
    """(side, side): row i holds the weights of all pixels in the blurred pixel i, which sum to 1.

    A weight is the Gaussian's mass within a pixel: its value at the middle would say nothing below half a pixel.
    """
    reach = int(4 * deviation) + 1
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    edges = torch.cat([offsets - 0.5, offsets[-1:] + 0.5])
    weights = torch.special.ndtr(edges / deviation).diff()
    seen = (torch.arange(side)[:, None] + offsets.long()).clamp(0, side - 1)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add_(1, seen, (weights / weights.sum()).expand(side, -1))


def _cells(side: int, count: int) -> Tensor:
    """(side, side): row i averages over the pixels that share a cell with pixel i."""
    cell = torch.arange(side) * count // side
    same = (cell[:, None] == cell).double()
    return same / same.sum(1, keepdim=True)


_CHANGES = {"blur": _blur, "contrast": _contrast, "brightness": _brightness, "pixelate": _pixelate}
