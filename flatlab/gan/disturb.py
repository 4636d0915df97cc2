"""Six ways of spoiling images by degrees, on which a distance between sets of images should rise.

Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", section 4 and
A1. With x in [0, 1], a level l, and s the shorter side of an image over the 64 pixels of the paper's:

    noise         (1 - l) x + l N,  N Gaussian with mean 1/2 and deviation 1/8, clipped to [0, 1]
    blur          Gaussian of standard deviation l s pixels; the image is mirrored at its edges
    rectangles    five black ones of l times the image's height and width, at random places within it
    swirl         the pixel at angle t and radius r around the centre shows what was at t + l exp(-5 r / (25 s ln 2))
    salt_pepper   each pixel with probability l black or white, equally likely, in all channels together
    contaminate   a share l of the images is replaced by images of another set

The paper's text is followed. Its official code differs: noise is rescaled by the extremes of the whole array, so that
its deviation depends on the array's size (1/8 puts the ends of [0, 1] at four deviations); rectangles have the
data's least value; the swirl turns a random way, with radius 70 on CelebA; contamination is named there and missing.
The paper gives lengths in pixels of its images; here they are in proportion to the side. On images of 8 pixels the
blurs are narrower than one: a Gaussian sampled at the pixels, or summed within them, would then change nothing. The
kernel is the discrete analogue (Lindeberg 1990), the heat that spreads between neighbours in the time (l s)^2: its
variance is exact at every width, and two blurs in a row are one whose variance is their sum.

One seed disturbs the same places at every level: the salt at 0.1 is a part of that at 0.2, a rectangle lies within
the larger one, images replaced at 0.25 are among those at 0.5. What is compared between levels is then the level.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flatlab import checks

LEVELS: dict[str, tuple[float, ...]] = {
    "noise": (0.0, 0.25, 0.5, 0.75),
    "blur": (0.0, 1.0, 2.0, 4.0),
    "rectangles": (0.0, 0.25, 0.5, 0.75),
    "swirl": (0.0, 1.0, 2.0, 4.0),
    "salt_pepper": (0.0, 0.1, 0.2, 0.3),
    "contaminate": (0.0, 0.25, 0.5, 0.75),
}
"""The paper's four levels of each kind."""
_UNBOUNDED = ("blur", "swirl")  # the other levels are shares
_SIDE = 64  # of the paper's images
_BLOCK = 2**20  # values worked on at once: what the disturbance of a large set may take of memory


@torch.no_grad()
def disturb(images: Tensor, kind: str, level: float, *, seed: int = 0, other: Tensor | None = None) -> Tensor:
    """Disturbed copies of images, with their shape, dtype and device; level 0 changes no bit.

    Args:
        images: (N, C, H, W), uint8 in 0..255 or any floating dtype in [0, 1].
        kind: a key of `LEVELS`.
        level: in [0, 1]; any number >= 0 for "blur" and "swirl".
        seed: of what is random, drawn on the CPU. Every image draws its own.
        other: for "contaminate", images (M, C, H, W) of the same dtype to take the new ones from, each at most once.

    Raises:
        ValueError: an unknown kind, a level out of bounds, not a batch of images, floats outside [0, 1], images to
            contaminate with that are missing, too few or of another shape.
        TypeError: integers other than uint8.
    """
    checks.one_of("disturbance", kind, LEVELS)
    if checks.nonnegative("level", level) > 1 and kind not in _UNBOUNDED:
        raise ValueError(f"level of {kind} is a share and must lie in [0, 1], got {level!r}")
    for batch in (images,) if other is None else (images, other):
        if batch.ndim != 4 or 0 in batch.shape:
            raise ValueError(f"images must be a non-empty batch (N, C, H, W), got shape {tuple(batch.shape)}")
        if batch.dtype != torch.uint8:
            checks.inputs(batch)
    generator = torch.Generator().manual_seed(seed)
    out = images.clone()
    if kind == "contaminate":
        return _contaminate(out, level, other, generator)
    if level == 0:
        return out
    change = _CHANGES[kind]
    for place in out.split(max(1, _BLOCK // images[0].numel())):
        x = place.to(torch.promote_types(images.dtype, torch.float32))
        if images.dtype == torch.uint8:
            place.copy_(change(x.div_(255), level, generator).mul_(255).round_().clamp_(0, 255))
        else:
            place.copy_(change(x, level, generator).clamp_(0, 1))
    return out


@dataclass(frozen=True)
class Steps:
    """How a measure moves from level to level.

    Attributes:
        differences: (K - 1,) float64, each value less the one before.
        reversed: how many of them are negative.
        strict: whether all are positive.
    """

    differences: Tensor
    reversed: int
    strict: bool


def monotone(values: Sequence[float] | Tensor) -> Steps:
    """The steps between a measure's values (K,) at rising levels, K >= 2; ValueError unless all are finite."""
    series = torch.as_tensor(values, dtype=torch.float64)
    if series.ndim != 1 or len(series) < 2 or not bool(series.isfinite().all()):
        raise ValueError(f"values must be at least two finite numbers, got {values!r}")
    differences = series.diff()
    return Steps(differences, int((differences < 0).sum()), bool((differences > 0).all()))


def _noise(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
    z = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x)
    return torch.lerp(x, z.div_(8).add_(0.5).clamp_(0, 1), level)


def _blur(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
    rows, columns = (_heat(side, (level * _unit(x)) ** 2).to(x) for side in x.shape[2:])
    return rows @ x @ columns


def _heat(side: int, variance: float) -> Tensor:
    """(side, side), symmetric: what each pixel gives to each, exp(variance / 2 * Laplacian) on a line of pixels."""
    link = torch.ones(side - 1, dtype=torch.float64)
    between = link.diag(1) + link.diag(-1)
    return torch.linalg.matrix_exp(variance / 2 * (between - between.sum(1).diag()))


def _rectangles(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
    height, width = x.shape[2:]
    draws = torch.rand(len(x), 5, 2, generator=generator).to(x.device)
    inside = []
    for side, u in ((height, draws[..., 0]), (width, draws[..., 1])):
        length = round(level * side)
        # The same u and a longer side: the first pixel moves back by less than the length grows.
        first = (u * (side - length + 1)).floor()[..., None]
        pixel = torch.arange(side, device=x.device)
        inside.append((pixel >= first) & (pixel < first + length))
    rows, columns = inside
    return x.masked_fill((rows[..., :, None] & columns[..., None, :]).any(1)[:, None], 0)


def _swirl(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
    height, width = x.shape[2:]
    down = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    right = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    y, z = torch.meshgrid(down, right, indexing="ij")
    radius = torch.hypot(z, y)
    angle = torch.atan2(y, z) + level * (-5 * radius / (25 * _unit(x) * math.log(2))).exp()
    # grid_sample counts from -1 to 1 between the outer edges of the image.
    grid = torch.stack([2 * radius * angle.cos() / width, 2 * radius * angle.sin() / height], dim=-1).to(x)
    turned = grid.expand(len(x), -1, -1, -1)
    return torch.nn.functional.grid_sample(x, turned, mode="bilinear", padding_mode="border", align_corners=False)


def _salt_pepper(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
    when, white = torch.rand(2, len(x), 1, *x.shape[2:], generator=generator).to(x.device)
    return (white < 0.5).to(x).where(when < level, x)


def _contaminate(out: Tensor, level: float, other: Tensor | None, generator: torch.Generator) -> Tensor:
    count = round(level * len(out))
    if other is None:
        raise ValueError("contaminate needs images of another set: give them with other=")
    if other.shape[1:] != out.shape[1:] or other.dtype != out.dtype:
        raise ValueError(
            f"other must hold images like the first, {tuple(out.shape[1:])} {out.dtype}, "
            f"got {tuple(other.shape[1:])} {other.dtype}; resize and convert them"
        )
    if len(other) < count:
        raise ValueError(f"other must hold at least {count} images to replace as many, got {len(other)}")
    replaced = torch.randperm(len(out), generator=generator)[:count]
    taken = torch.randperm(len(other), generator=generator)[:count]
    out[replaced.to(out.device)] = other[taken.to(other.device)].to(out.device)
    return out


def _unit(x: Tensor) -> float:
    """Pixels here for one pixel of the paper's images."""
    return min(x.shape[2:]) / _SIDE


_CHANGES = {
    "noise": _noise,
    "blur": _blur,
    "rectangles": _rectangles,
    "swirl": _swirl,
    "salt_pepper": _salt_pepper,
}
