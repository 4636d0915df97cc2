"""Domains made of handwritten digits: turned, coloured or corrupted; of the embedded 8 x 8 digits, or of MNIST.

    rotated     domain a: every image turned by a degrees                     (Ghifary et al. 2015)
    coloured    class 0 for digits 0-4, 1 for 5-9, flipped with probability `label_noise`; the colour agrees with that
                class with the domain's own probability                       (Arjovsky et al. 2019, "Coloured MNIST")
    corrupted   clean images, and domains of one corruption each              (after Hendrycks and Dietterich 2019)

The images of training and test set are put together, shuffled by the seed and dealt out, class by class, so that no
two domains share an image and all have the same classes to within one image each. Colours here are channels of
an RGB image (red for 1, green for 0) of the set's own size, where the original has two channels of 14 x 14.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from flatlab import checks
from flatlab.data import CORRUPTIONS, corrupt, load_images
from flatlab.dg.domains import Domain

SOURCES = ("digits", "mnist")


def rotated_digits(
    angles: Sequence[float] = (0, 15, 30, 45),
    *,
    dataset: str = "digits",
    root: str | Path | None = None,
    size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, Domain]:
    """One domain per angle, called "0", "15" and so on: uint8 (N, 1, H, H), ten classes.

    Args:
        angles: in degrees, counter-clockwise. What comes in from outside the image is black; pixels are interpolated
            bilinearly by `torch.nn.functional.grid_sample`.
        dataset: "digits" or "mnist".
        root: folder of the data, for MNIST; default as in `flatlab.data.load_images`.
        size: resize to size x size before turning; default as stored.
        limit: at most so many images a domain.
        seed: of which image goes to which domain.

    Raises:
        ValueError: no angle, the same one twice, or one that is not finite; an unknown data set.
    """
    for angle in angles:
        if not math.isfinite(angle):
            raise ValueError(f"angles must be finite numbers of degrees, got {angle!r}")
    names = _names("angles", [f"{angle:g}" for angle in angles])
    parts, _ = _deal(len(names), dataset, root, size, limit, seed)
    return {
        name: Domain(_rotated(part.x, angle), part.y, name, part.classes)
        for name, angle, part in zip(names, angles, parts, strict=True)
    }


def coloured_digits(
    agreements: Sequence[float] = (0.9, 0.8, 0.1),
    *,
    label_noise: float = 0.25,
    dataset: str = "digits",
    root: str | Path | None = None,
    size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, Domain]:
    """One domain per agreement, called "0.9", "0.8" and so on: uint8 (N, 3, H, H), classes "0-4" and "5-9".

    Where colour agrees with the class more often than the shape does (1 - label_noise), a classifier that looks at the
    colour is best on that domain; in the last one it is wrong nine times out of ten.

    Args:
        agreements: probability that the colour is that of the class (red for "5-9", green for "0-4"), of each domain.
        label_noise: probability that a label is flipped, before the colour is chosen.
        dataset: "digits" or "mnist".
        root: folder of the data, for MNIST; default as in `flatlab.data.load_images`.
        size: resize to size x size; default as stored.
        limit: at most so many images a domain.
        seed: of the shares, the flips and the colours.

    Raises:
        ValueError: a probability outside [0, 1], no agreement or the same one twice, an unknown data set.
    """
    for name, value in [("label_noise", label_noise), *(("agreements", value) for value in agreements)]:
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be probabilities in [0, 1], got {value!r}")
    names = _names("agreements", [f"{value:g}" for value in agreements])
    parts, generator = _deal(len(names), dataset, root, size, limit, seed)
    domains = {}
    for name, agreement, part in zip(names, agreements, parts, strict=True):
        flipped, differs = torch.rand(2, len(part), generator=generator) < torch.tensor(
            [[label_noise], [1 - agreement]]
        )
        y = (part.y >= 5) ^ flipped
        red = (y ^ differs).reshape(-1, 1, 1, 1)
        x = torch.cat([part.x * red, part.x * ~red, torch.zeros_like(part.x)], 1)
        domains[name] = Domain(x, y.long(), name, ("0-4", "5-9"))
    return domains


def corrupted_digits(
    kinds: Sequence[str] = CORRUPTIONS,
    severity: int = 3,
    *,
    disjoint: bool = True,
    dataset: str = "digits",
    root: str | Path | None = None,
    size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, Domain]:
    """Domain "clean" and one per kind of corruption: uint8 (N, 1, H, H), ten classes.

    Args:
        kinds: of `flatlab.data.CORRUPTIONS`.
        severity: 1 to 5, of all kinds.
        disjoint: no two domains share an image. If not, half of the images are clean and every kind corrupts the whole
            other half: more images a domain, for training on "clean" alone. With several sources that would be a leak,
            as the target's images would be among those trained on, under another corruption.
        dataset: "digits" or "mnist".
        root: folder of the data, for MNIST; default as in `flatlab.data.load_images`.
        size: resize to size x size before corrupting; default as stored.
        limit: at most so many images a domain.
        seed: of the shares and the noise.

    Raises:
        ValueError: an unknown kind or one given twice, no kind, a severity outside 1..5, an unknown data set.
    """
    names = _names("kinds", kinds)
    for kind in names:
        checks.one_of("corruption", kind, CORRUPTIONS)
    parts, generator = _deal(len(names) + 1 if disjoint else 2, dataset, root, size, limit, seed)
    clean, *others = parts
    domains = {"clean": Domain(clean.x, clean.y, "clean", clean.classes)}
    for kind, part in zip(names, others if disjoint else others * len(names), strict=True):
        x = corrupt(part.x, kind, severity, generator=generator)
        domains[kind] = Domain(x, part.y, kind, part.classes)
    return domains


def _names(argument: str, names: Sequence[str]) -> tuple[str, ...]:
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{argument} must name at least one domain, and none twice, got {', '.join(names) or 'none'}")
    return tuple(names)


def _deal(
    parts: int, dataset: str, root: str | Path | None, size: int | None, limit: int | None, seed: int
) -> tuple[list[Domain], torch.Generator]:
    """Disjoint shares of all images, alike in size and classes, and the generator that shuffled them."""
    checks.one_of("data set", dataset, SOURCES)
    train, test = (load_images(dataset, split, root=root, size=size) for split in ("train", "test"))
    whole = Domain(torch.cat([train.x, test.x]), torch.cat([train.y, test.y]), dataset, train.classes)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(whole), generator=generator)
    order = order[whole.y[order].argsort(stable=True)]  # class by class, shuffled within
    return [
        whole.subset(order[part::parts].sort().values).at_most(limit, seed=seed) for part in range(parts)
    ], generator


def _rotated(images: Tensor, degrees: float) -> Tensor:
    """Square bytes (N, C, H, H) turned counter-clockwise about the middle."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]])  # where a pixel comes from; y points downwards
    turned = []
    for block in images.split(4096):  # a grid of places takes eight times the bytes
        grid = F.affine_grid(turn.expand(len(block), 2, 3), list(block.shape), align_corners=False)
        values = F.grid_sample(block.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        turned.append(values.round_().clamp_(0, 255).byte())
    return torch.cat(turned)
