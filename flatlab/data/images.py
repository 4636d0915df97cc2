"""ImageSet: the images of one split as one tensor, and what is done with it as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatlab import checks
from flatlab.data.sampling import stratified_rows


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one split.

    Attributes:
        x: (N, C, H, W) uint8, 0 black to 255 full intensity. May be a copy-on-write view of a cache file: it is read
            when used, and writing to it changes memory, never the file.
        y: (N,) int64, an index into `classes`.
        classes: names of the classes.
        domains: (N,) int64, an index into `domain_names`, for sets made for domain generalization.
        name, split: what was loaded.
        domain_names: names of the domains, empty without domains.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    domains: Tensor | None = None
    name: str = ""
    split: str = ""
    domain_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.x.dtype != torch.uint8:
            raise TypeError(f"x must be uint8 in 0..255, got {self.x.dtype}; convert with (x * 255).round().byte()")
        if self.x.ndim != 4 or 0 in self.x.shape:
            raise ValueError(f"x must be a non-empty batch (N, C, H, W), got shape {tuple(self.x.shape)}")
        if not isinstance(self.classes, tuple) or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must be a tuple of different names, got {self.classes!r}")
        _check_index("y", self.y, len(self.x), self.classes)
        if self.domains is not None:
            _check_index("domains", self.domains, len(self.x), self.domain_names)

    def __len__(self) -> int:
        return len(self.x)

    def float(self, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """Return x / 255 as float32 (N, C, H, W) in [0, 1], and y, both on `device` (default: where x is).

        The bytes are moved first and converted there, a quarter of the traffic.
        """
        return self.x.to(device).to(torch.float32).div_(255), self.y.to(device)

    def subset(self, index: Tensor | NDArray[np.int64] | Sequence[int] | slice) -> "ImageSet":
        """Return a copy of the rows that `index` names: row numbers, a boolean mask or a slice."""
        selector = index if isinstance(index, slice) else torch.as_tensor(index)
        if isinstance(selector, Tensor) and not selector.numel():
            selector = selector.long()  # torch makes an empty sequence a tensor of floats
        rows = torch.arange(len(self))[selector]
        if rows.ndim != 1 or len(rows) == 0:
            raise ValueError(f"index must name at least one of the {len(self)} rows, and be one-dimensional")
        return replace(
            self, x=self.x[rows], y=self.y[rows], domains=None if self.domains is None else self.domains[rows]
        )

    def stratified(self, size: int, *, seed: int) -> Tensor:
        """Return `size` row numbers, ascending, with classes (and domains) in proportion to within one row."""
        strata = self.y if self.domains is None else self.domains * len(self.classes) + self.y
        return torch.from_numpy(stratified_rows(strata.cpu().numpy(), size, seed=seed))

    def with_channels(self, channels: int) -> "ImageSet":
        """Return the images with 1 channel (luminance, ITU-R BT.601) or 3 (grey repeated)."""
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels!r}")
        have = self.x.shape[1]
        if have == channels:
            return self
        if (have, channels) == (1, 3):
            return replace(self, x=self.x.repeat(1, 3, 1, 1))
        if (have, channels) == (3, 1):
            return replace(self, x=torch.cat([_luminance(part) for part in self.x.split(4096)]))
        raise ValueError(f"cannot convert {have} channels to {channels}: only 1 to 3 and 3 to 1 are defined")


def holdout(images: ImageSet, size: int | float, *, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split into (rest, held_out), stratified by class (and domain); rows keep their order.

    Args:
        images: what to split.
        size: rows to hold out, 1..N-1 as an integer, or a fraction in (0, 1).
        seed: any integer; the same seed holds out the same rows with every version of every library.

    Raises:
        ValueError: if a part would be empty.
    """
    total = len(images)
    if isinstance(size, float):
        if not 0 < size < 1:
            raise ValueError(f"size as a fraction must lie in (0, 1), got {size!r}; write an integer for rows")
        rows = round(size * total)
    else:
        rows = checks.at_least("size", size, 1)
    if not 1 <= rows < total:
        raise ValueError(f"size={size!r} of {total} rows leaves a part empty: hold out 1..{total - 1} rows")
    held = torch.zeros(total, dtype=torch.bool)
    held[images.stratified(rows, seed=seed)] = True
    return images.subset(~held), images.subset(held)


def noisy_labels(images: ImageSet, fraction: float, *, seed: int) -> ImageSet:
    """The images with a fraction of the labels replaced by labels drawn uniformly (some of which are right by chance).

    Args:
        images: left as they are.
        fraction: of the labels, in [0, 1].
        seed: of which labels are replaced, and by which.

    Raises:
        ValueError: unless 0 <= fraction <= 1.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must lie in [0, 1], got {fraction!r}")
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(images), generator=generator)[: round(fraction * len(images))]
    labels = images.y.clone()
    labels[rows] = torch.randint(len(images.classes), (len(rows),), generator=generator)
    return replace(images, y=labels)


def _luminance(x: Tensor) -> Tensor:
    """ITU-R BT.601 luma in 16-bit fixed point, which is what Pillow computes for mode "L"."""
    red, green, blue = x.int().split(1, dim=1)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).to(torch.uint8)


def _check_index(name: str, values: Tensor, rows: int, names: tuple[str, ...]) -> None:
    if values.dtype != torch.int64:
        raise TypeError(f"{name} must be int64, got {values.dtype}; convert with .long()")
    try:
        checks.labels(values, rows, len(names))
    except ValueError as error:
        raise ValueError(f"{name} does not index the {len(names)} names given: {error}") from None
