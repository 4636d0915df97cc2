"""Certified training on balls around images: what a network is trained on, and what is verified of it."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatlab import attacks, bounds, defenses, train
from flatlab.studies.certified_bounds.settings import Task

CHEAP = ("ibp", "crown-ibp")
PLAIN = (*CHEAP, "crown")


def goal(task: Task, kind: str) -> train.Objective:
    """What networks of a kind are trained on: "natural", "pgd_at", or a kind of certified training."""
    if kind in ("natural", "pgd_at"):
        return defenses.make({"natural": "std"}.get(kind, kind), eps=task.eps)
    ramp = train.Ramp(task.eps_train, task.start, task.length)
    return bounds.CertifiedTraining(bounds.Balls(task.eps_train), kind=kind, ramp=ramp)


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained classifier of images, and what it is attacked and verified with.

    Attributes:
        model: in eval mode.
        seed: of its training, and of attacks on it.
        program: what was captured of it.
    """

    model: nn.Module
    seed: int
    program: bounds.Program

    def attacked(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """The images after 20 steps of PGD on the margin in the L_inf ball of radius eps, (N, ...) in [0, 1]."""
        generator = torch.Generator().manual_seed(self.seed)
        with warnings.catch_warnings():  # certified networks may be constant around an image: nothing is hidden then
            warnings.simplefilter("ignore", attacks.ZeroGradientWarning)
            return attacks.pgd(self.model, x, y, eps, steps=20, loss="margin", generator=generator)

    def misread(self, x: Tensor, y: Tensor) -> Tensor:
        """Which images are not classified as y, bool (N,)."""
        with torch.no_grad():
            return self.model(x).argmax(1) != y

    def proven(self, x: Tensor, y: Tensor, eps: float, method: str) -> Tensor:
        """Which images a method of `flatlab.bounds` proves in the ball, bool (N,)."""
        return bounds.verified_in_ball(self.program, x, y, eps, method=method, batch_size=64)

    def report(self, x: Tensor, y: Tensor, eps: float, *, costly: int = 0, steps: int = 10) -> dict[str, Tensor]:
        """Which images are misread without an attack, under one, and as far as that cannot be excluded.

        Args:
            x, y: images (N, ...) in [0, 1] and labels (N,).
            eps: radius of the L_inf ball, clipped to [0, 1].
            costly: number of images, the first ones, that CROWN and alpha-CROWN are run on as well.
            steps: of the search for slopes of alpha-CROWN, which begins with CROWN's: only images that neither CROWN
                proves nor the attack breaks are left to it.

        Returns:
            Truth values (N,): "clean" and "attacked", misread; "ibp" and "crown-ibp", not proven by it; "cheap", by
            neither of the two. With `costly`, of so many images: "crown" and "alpha-crown", and "verified", not proven
            by any of the four.
        """
        found = {"clean": self.misread(x, y), "attacked": self.misread(self.attacked(x, y, eps), y)}
        found |= {method: ~self.proven(x, y, eps, method) for method in CHEAP}
        found["cheap"] = found["ibp"] & found["crown-ibp"]
        if costly:
            x, y = x[:costly], y[:costly]
            found["crown"] = ~self.proven(x, y, eps, "crown")
            left = found["crown"] & ~found["attacked"][:costly]
            found["alpha-crown"] = found["crown"].clone()
            if left.any():
                made = bounds.Bounds(self.program, x[left], bounds.LpBall(x[left], eps, clip=(0, 1)))
                margins = bounds.Margins(y[left], made.output_shape[1])
                low = made.lower("alpha-crown", margins, ascent=bounds.Ascent(steps))
                found["alpha-crown"][left] = ~(low > 0).all(1)
            found["verified"] = found["cheap"][:costly] & found["alpha-crown"]
        return found

    def unproven(self, x: Tensor, y: Tensor, eps: float, methods: Sequence[str]) -> Tensor:
        """Which images no method proves, bool (N,); each is asked about those that are left.

        Args:
            x, y, eps: as in `report`.
            methods: of `flatlab.bounds`, the cheapest first. None is asked about what an attack breaks.
        """
        left, broken = torch.ones_like(y, dtype=torch.bool), self.misread(self.attacked(x, y, eps), y)
        for method in methods:
            rest = (left & ~broken).nonzero()[:, 0]
            if len(rest):
                left[rest] = ~self.proven(x[rest], y[rest], eps, method)
        return left


def contradictions(report: Mapping[str, Tensor]) -> dict[str, int]:
    """How many images of a `Trained.report` are proven and yet broken, and proven by CROWN-IBP and not by CROWN.

    Returns:
        "broken", which must be 0, and "looser".
    """
    pairs = [(~report[name], report["attacked"]) for name in PLAIN if name in report]
    pairs.append((report.get("crown", torch.empty(0)) > 0, ~report["crown-ibp"]))
    counts = [int((a & b[: len(a)]).sum()) for a, b in pairs]
    return {"broken": sum(counts[:-1]), "looser": counts[-1]}
