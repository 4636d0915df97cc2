"""`load_domains`: a name to a dict of domains, from embedded data or from files.

    ROOT/office_home/DOMAIN/CLASS/*.jpg|png       Office-Home (Venkateswara et al. 2017), as it comes
    ROOT/CIFAR-10-C/KIND.npy, labels.npy          CIFAR-10-C (Hendrycks and Dietterich 2019): uint8 (5 M, H, W, 3), the
                                                  M test images at severity 1, then the same at 2, and so on

PACS and CIFAR-10 lie where `flatlab.data.load_images` expects them. Without its files CIFAR-10-C is made of CIFAR-10's
test images by `flatlab.data.corrupt`: five kinds whose strengths are our own, so that accuracies cannot be compared
with those on the published files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flatlab import checks
from flatlab.data import CORRUPTIONS, DataCorrupt, DataNotFound, ImageSet, corrupt, load_images
from flatlab.data.decode import resize
from flatlab.data.sampling import stratified_rows
from flatlab.data.sources import regular, roots
from flatlab.dg.digits import coloured_digits, corrupted_digits, rotated_digits
from flatlab.dg.domains import Domain

DATASETS = (
    "rotated_digits",
    "coloured_digits",
    "corrupted_digits",
    "rotated_mnist",
    "coloured_mnist",
    "corrupted_mnist",
    "pacs",
    "office_home",
    "cifar10_c",
)
_SEVERITIES = 5


def load_domains(
    name: str,
    *,
    root: str | Path | None = None,
    size: int | None = None,
    limit: int | None = None,
    kinds: Sequence[str] | None = None,
    severity: int = 3,
    seed: int = 0,
) -> dict[str, Domain]:
    """The domains of a set by their names, as uint8.

    "cifar10_c" has CIFAR-10's training images as "clean", and its test images under every kind of corruption; these
    domains share their images, so that each is a target for training on "clean".

    Args:
        name: one of `DATASETS`.
        root: folder of the data; default as in `flatlab.data.load_images`.
        size: resize every image to size x size, antialiased; default as stored. Office-Home needs it.
        limit: at most so many images a domain, in proportion of the classes.
        kinds: corruptions, of the corrupted sets alone; by default the five of `flatlab.data.CORRUPTIONS`, or all that
            there are files of.
        severity: of the corruptions, 1 to 5.
        seed: of all that is drawn: shares, colours, noise. The sets made of files have nothing drawn but the noise.

    Raises:
        DataNotFound: files that are not there; says where they are expected.
        DataCorrupt: files that are damaged or not what their name says.
        ValueError: an unknown name, a bad option.
    """
    checks.one_of("set of domains", name, DATASETS)
    if limit is not None:
        checks.at_least("limit", limit, 1)
    if severity not in range(1, _SEVERITIES + 1):
        raise ValueError(f"severity must be an integer in 1..5, got {severity!r}")
    if kinds is not None and not name.startswith(("corrupted", "cifar10_c")):
        raise ValueError(f"kinds are corruptions, which {name} does not have; leave them out")
    if name == "pacs":
        return _by_domain(load_images(name, "train", root=root, size=size), limit)
    if name == "office_home":
        return _office_home(root, size, limit)
    if name == "cifar10_c":
        return _cifar10_c(root, size, limit, kinds, severity, seed)
    change, dataset = name.split("_")
    if change == "rotated":
        return rotated_digits(dataset=dataset, root=root, size=size, limit=limit, seed=seed)
    if change == "coloured":
        return coloured_digits(dataset=dataset, root=root, size=size, limit=limit, seed=seed)
    kinds = CORRUPTIONS if kinds is None else kinds
    return corrupted_digits(kinds, severity, dataset=dataset, root=root, size=size, limit=limit, seed=seed)


def _by_domain(images: ImageSet, limit: int | None) -> dict[str, Domain]:
    assert images.domains is not None
    numbers = enumerate(images.domain_names)
    return {name: _named(images.subset(images.domains == number), name, limit) for number, name in numbers}


def _named(images: ImageSet, name: str, limit: int | None) -> Domain:
    return Domain(images.x, images.y, name, images.classes).at_most(limit)


def _office_home(root: str | Path | None, size: int | None, limit: int | None) -> dict[str, Domain]:
    """Its domains lie where the splits of any folder of images do."""
    places = [place / "office_home" for place in roots(root)]
    for place in places:
        names = sorted(p.name for p in place.iterdir() if p.is_dir() and p.name[0] != ".") if place.is_dir() else []
        if names:
            return {
                name: _named(load_images("office_home", name, root=place.parent, size=size), name, limit)
                for name in names
            }
    raise DataNotFound(
        f"Office-Home is not under {' or '.join(map(str, places))}; expected DOMAIN/CLASS/*.jpg there. Cure: set "
        "FLATLAB_DATA or root= to the folder that holds office_home. 'rotated_digits' needs no files."
    )


def _cifar10_c(
    root: str | Path | None, size: int | None, limit: int | None, kinds: Sequence[str] | None, severity: int, seed: int
) -> dict[str, Domain]:
    domains = {"clean": _named(load_images("cifar10", "train", root=root, size=size), "clean", limit)}
    classes = domains["clean"].classes
    folder = next((place / "CIFAR-10-C" for place in roots(root) if (place / "CIFAR-10-C").is_dir()), None)
    if folder is None:
        test = _named(load_images("cifar10", "test", root=root, size=size), "test", limit)
        generator = torch.Generator().manual_seed(seed)
        for kind in CORRUPTIONS if kinds is None else kinds:
            domains[kind] = Domain(corrupt(test.x, kind, severity, generator=generator), test.y, kind, classes)
        return domains
    there = sorted(path.stem for path in folder.glob("*.npy") if path.stem != "labels")
    for kind in there if kinds is None else kinds:
        if kind not in there:
            raise DataNotFound(f"{folder} has no {kind}.npy; it has {', '.join(there) or 'no kind at all'}")
        domains[kind] = _stored(folder, kind, severity, classes, size, limit)
    if len(domains) == 1:
        raise DataNotFound(f"{folder} has no KIND.npy; fetch the files again, or remove the folder to make them here")
    return domains


def _stored(
    folder: Path, kind: str, severity: int, classes: tuple[str, ...], size: int | None, limit: int | None
) -> Domain:
    """One severity of one file; no more of it is read than the rows taken."""
    x, labels = _array(folder / f"{kind}.npy"), _array(folder / "labels.npy")
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3 or len(x) % _SEVERITIES or labels.shape != x.shape[:1]:
        raise DataCorrupt(
            f"{folder / kind}.npy must be uint8 (5 M, H, W, 3) with as many labels, got {x.dtype} {x.shape} and labels "
            f"{labels.shape}; fetch them again"
        )
    count = len(x) // _SEVERITIES
    start = (severity - 1) * count
    y = labels[start : start + count].astype(np.int64)
    rows = np.arange(count) if limit is None or limit >= count else stratified_rows(y, limit, seed=0)
    pixels = x[start + rows]
    if size is not None:
        from PIL import Image

        pixels = np.stack([np.asarray(resize(Image.fromarray(image), size)) for image in pixels])
    return Domain(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.from_numpy(y[rows]), kind, classes)


def _array(path: Path) -> NDArray[Any]:
    """A .npy file, mapped into memory; nothing in it is unpickled."""
    try:
        regular(path)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataNotFound(f"{path} is not there; fetch it again") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataCorrupt(f"{path} cannot be read ({error}); delete it and fetch it again") from error
