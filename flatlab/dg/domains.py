"""A domain: labelled images from one source, and its split into a part to train on and one to select by."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flatlab import checks
from flatlab.data.sampling import stratified_rows

FEWEST = 5  # samples of a domain, so that a fifth of them is one


@dataclass(frozen=True, eq=False)
class Domain:
    """Labelled images of one domain.

    Attributes:
        x: (N, C, H, W), uint8 in 0..255 or any floating dtype in [0, 1]; normalisation belongs into the model.
        y: (N,) int64, >= 0, an index into `classes` where these are given.
        name: for messages and tables.
        classes: names of the classes, the same for all domains of a set.

    Raises:
        TypeError: x neither uint8 nor floating, y not int64.
        ValueError: wrong shapes, no images, values outside [0, 1], labels outside 0..len(classes) - 1.
    """

    x: Tensor
    y: Tensor
    name: str = ""
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.x.ndim != 4 or 0 in self.x.shape:
            raise ValueError(
                f"{self} needs x as a non-empty batch of images (N, C, H, W), got shape {tuple(self.x.shape)}"
            )
        if self.x.dtype != torch.uint8:
            checks.inputs(self.x)
        if self.y.dtype != torch.int64:
            raise TypeError(f"{self} needs labels y of dtype int64, got {self.y.dtype}; convert with .long()")
        if not isinstance(self.classes, tuple) or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes of {self} must be a tuple of different names, got {self.classes!r}")
        checks.labels(self.y, len(self.x), len(self.classes) or None)
        if int(self.y.min()) < 0:
            raise ValueError(f"labels of {self} must be >= 0, got {int(self.y.min())}")

    def __len__(self) -> int:
        return len(self.x)

    def __str__(self) -> str:
        return f"domain {self.name!r}"

    def subset(self, rows: Tensor) -> "Domain":
        """A copy of the rows that a boolean mask or row numbers (M,) name."""
        return replace(self, x=self.x[rows], y=self.y[rows])

    def at_most(self, limit: int | None, *, seed: int = 0) -> "Domain":
        """At most `limit` rows, in their order and in proportion of the classes to within one; all for None."""
        if limit is None or checks.at_least("limit", limit, 1) >= len(self):
            return self
        return self.subset(torch.from_numpy(stratified_rows(self.y.cpu().numpy(), limit, seed=seed)))


def split_domain(domain: Domain, holdout: float = 0.2, *, seed: int) -> tuple[Domain, Domain]:
    """Split into (train, held_out), stratified by class; rows keep their order.

    The held-out part has int(holdout * N) rows, in proportion of the classes to within one row, unless a class would
    then be missing in one of the parts: one of its samples changes sides.

    Args:
        domain: of at least 5 samples, with at least 2 of every class.
        holdout: the fraction held out, in (0, 1).
        seed: any integer; the same seed holds out the same rows with every version of every library.

    Raises:
        ValueError: a fraction outside (0, 1), a domain that is too small, a class that cannot be in both parts.
    """
    if not 0 < holdout < 1:
        raise ValueError(f"holdout must be a fraction in (0, 1), got {holdout!r}")
    if len(domain) < FEWEST:
        raise ValueError(f"{domain} has {len(domain)} sample(s); a split needs at least {FEWEST}: give it more")
    y = domain.y.cpu()
    counts = torch.bincount(y, minlength=len(domain.classes))
    present = torch.arange(len(counts)) if domain.classes else y.unique()
    for label in present.tolist():
        if counts[label] < 2:
            name = repr(domain.classes[label]) if domain.classes else str(label)
            raise ValueError(
                f"class {name} of {domain} has {int(counts[label])} sample(s); to be in both parts of a split it needs "
                "at least 2: give the domain more samples, or leave the class out of all domains"
            )
    held = torch.zeros(len(y), dtype=torch.bool)
    size = int(holdout * len(y) + 1e-9)  # .29 of 100 is 28.999999999999996
    held[torch.from_numpy(stratified_rows(y.numpy(), size, seed=seed))] = True
    for label in present.tolist():
        members = (y == label).nonzero().flatten()
        if held[members].all() or not held[members].any():
            (one,) = stratified_rows(torch.zeros(len(members)).numpy(), 1, seed=seed)
            held[members[one]] ^= True
    held = held.to(domain.x.device)
    return domain.subset(~held), domain.subset(held)
