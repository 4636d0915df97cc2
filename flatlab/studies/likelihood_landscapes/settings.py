"""Settings of 01_likelihood_landscapes.

Weights of the regularizers were chosen on a validation split of the training images with seeds 100 and 101 (GRID
below; `select=True` in the notebook repeats it), never on the test images or on the seeds that are reported.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import torch

from flatlab.train import Recipe, crop_flip


@dataclass(frozen=True)
class Method:
    """A defense to study.

    Attributes:
        name: its label in tables and figures.
        kind: how it works, by construction: baseline, augmentation, adversarial (trains on adversarial examples),
            smoothing, gradient (penalises input gradients), flat (regularizes flatness itself) or energy.
        defense: its name in `flatlab.defenses`.
        options: hyperparameters that differ from the defense's defaults.
    """

    name: str
    kind: str
    defense: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LikelihoodLandscapes:
    """Settings of one run.

    Attributes:
        dataset: name of an image set; `train_limit`, `test_limit`: images used of it, all if None.
        model: name of a network; `model_options`: of its builder.
        eps: L_inf radius of the attacks, in [0, 1] pixel units.
        seeds: of the networks that are reported.
        methods: what is compared.
        family: names of the methods that an earlier, exploratory run (other seeds) found to be ordered by flatness.
        second_seeds: of networks trained on what the others are tested on, and tested on what those are trained on: a
            second split, for claims that the first one only explores; none for no second split.
        second_limit: images that they are tested on, of those which chose no weights.
        recipe: how each network is trained.
        suite: name of the attack suite.
        directions, radii: Monte Carlo directions and grid points of the flatness measure.
        doses: weights of flat_rand for the dose-response curve; `radii_trained`: training radii of pgd_at for it.
        energy_eps: attack radii at which energies of adversarial inputs are measured.
        curvature_points: training images on which curvature in parameter space is measured; 0 for none.
        select: whether to repeat the selection of weights, with networks of the `selection_seeds`, on so many
            (`selection_images`) training images held out.
    """

    dataset: str
    eps: float
    seeds: tuple[int, ...]
    methods: tuple[Method, ...]
    recipe: Recipe
    family: tuple[str, ...] = ("std", "noise", "fgsm_at", "pgd_at", "trades", "gradreg", "llr")
    second_seeds: tuple[int, ...] = ()
    second_limit: int = 600
    model: str = "mlp"
    model_options: Mapping[str, Any] = field(default_factory=dict)
    train_limit: int | None = None
    test_limit: int | None = None
    suite: str = "standard"
    directions: int = 10
    radii: int = 8
    doses: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0)
    radii_trained: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)
    energy_eps: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
    curvature_points: int = 300
    select: bool = False
    selection_seeds: tuple[int, ...] = (100, 101)
    selection_images: int = 240

    @property
    def names(self) -> tuple[str, ...]:
        """Labels of the methods, in order."""
        return tuple(method.name for method in self.methods)

    def of_kind(self, *kinds: str) -> list[str]:
        """Labels of the methods of these kinds, in order."""
        return [method.name for method in self.methods if method.kind in kinds]

    def shifted(self, by: int) -> "LikelihoodLandscapes":
        """The same with other reported seeds on both splits, each larger by 1000 * `by`."""
        first, second = (tuple(s + 1000 * by for s in seeds) for seeds in (self.seeds, self.second_seeds))
        return replace(self, seeds=first, second_seeds=second)

    def choices(self, name: str) -> list[dict[str, float]]:
        """The options tried for the method `name` when its weights were chosen; one empty choice if none were."""
        grid = GRID.get(name, {})
        return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def _methods(*names: str, options: Mapping[str, Mapping[str, Any]]) -> tuple[Method, ...]:
    return tuple(Method(name, KINDS[name], DEFENSES.get(name, name), options.get(name, {})) for name in names)


KINDS = {
    "std": "baseline",
    "noise": "augmentation",
    "labelsmooth": "smoothing",
    "fgsm_at": "adversarial",
    "free": "adversarial",
    "pgd_at": "adversarial",
    "trades": "adversarial",
    "llr": "gradient",
    "gradreg": "gradient",
    "jacreg": "gradient",
    "cure": "gradient",
    "jem": "energy",
    "flat_rand": "flat",
    "flat_grad": "flat",
    "flat_adv": "flat",
    "flat_joint": "flat",
}
DEFENSES = {"labelsmooth": "label_smoothing"}  # where the label is not the defense's own name

WEIGHTS: dict[str, dict[str, Any]] = {
    "labelsmooth": {"smoothing": 0.7},
    "trades": {"beta": 3.0},
    "gradreg": {"weight": 1.0},
    "jacreg": {"weight": 0.01},
    "cure": {"weight": 0.03},
    "flat_rand": {"weight": 100.0},
    "flat_grad": {"weight": 0.1},
    "flat_adv": {"weight": 0.1},
    "flat_joint": {"weight": 3.0},
}
"""What the selection chose. On the held-out training images the worst-case accuracy was .37 for std, .46 labelsmooth,
.61 flat_rand, .62 flat_adv, .62 flat_grad, .63 gradreg, .66 jacreg, .70 flat_joint, .77 cure and .81 trades, with clean
accuracy .967 for std and at least .954 for these. The largest smoothing was chosen, so more might do still better."""

GRID: dict[str, dict[str, tuple[float, ...]]] = {
    "labelsmooth": {"smoothing": (0.1, 0.3, 0.5, 0.7)},
    "trades": {"beta": (1.0, 3.0, 6.0, 12.0)},
    "gradreg": {"weight": (0.3, 1.0, 3.0)},
    "jacreg": {"weight": (0.003, 0.01, 0.03, 0.1)},
    "cure": {"weight": (0.01, 0.03, 0.1, 0.3)},
    "flat_rand": {"weight": (1.0, 10.0, 100.0, 1000.0)},
    "flat_grad": {"weight": (0.01, 0.1, 1.0)},
    "flat_adv": {"weight": (0.03, 0.1, 1.0, 10.0)},
    "flat_joint": {"weight": (0.3, 1.0, 3.0, 10.0)},
}
"""Hyperparameters that were searched, and the values tried; the others are those of the methods' own papers."""

CPU = LikelihoodLandscapes(
    dataset="digits",
    eps=0.1,
    seeds=(20, 21, 22, 23, 24),
    second_seeds=(40, 41, 42, 43),
    methods=_methods(*KINDS, options=WEIGHTS),
    recipe=Recipe(epochs=30, batch_size=64, lr=3e-3, schedule="onecycle", options={"fused": True}),
)
"""Recorded in notebooks/results/cpu.json: 174 networks, 4 min 33 s with one thread of a server's CPU, of which training
51 s, measuring 78 s and the second split 106 s."""

_SLOW = ("jem", "free", "cure", "jacreg", "flat_adv")  # left out where seconds count

QUICK = LikelihoodLandscapes(
    dataset="digits",
    eps=0.1,
    seeds=(20, 21, 22, 23),
    second_seeds=(40, 41, 42),
    methods=_methods(*(name for name in KINDS if name not in _SLOW), options=WEIGHTS),
    recipe=Recipe(epochs=10, batch_size=64, lr=3e-3, schedule="onecycle", options={"fused": True}),
    suite="fast",
    directions=4,
    radii=4,
    radii_trained=(0.02, 0.1, 0.2),
    energy_eps=(0.05, 0.1, 0.3, 0.5),
)
"""Stored in the notebook: 97 networks, 45 s on the same machine."""

GPU = LikelihoodLandscapes(
    dataset="cifar10",
    eps=8 / 255,
    seeds=(10, 11, 12),
    methods=_methods(
        *("std", "noise", "fgsm_at", "pgd_at", "trades", "jacreg", "flat_rand", "flat_joint"),
        options=WEIGHTS | {"jacreg": {"weight": 0.01}, "flat_rand": {"weight": 0.1}, "flat_joint": {"weight": 0.01}},
    ),
    recipe=Recipe(
        epochs=8,
        batch_size=128,
        lr=0.2,
        optimizer=torch.optim.SGD,
        options={"momentum": 0.9, "weight_decay": 5e-4},
        schedule="triangle",
        augment=crop_flip,
        amp=True,
    ),
    model="preact_resnet18",
    train_limit=20_000,
    test_limit=500,
    doses=(0.01, 0.1, 1.0),
    radii_trained=(2 / 255, 8 / 255),
    energy_eps=(2 / 255, 4 / 255, 8 / 255, 16 / 255, 32 / 255),
    curvature_points=0,
)
"""Meant for ten minutes on one GPU, and not measured yet."""

FULL = LikelihoodLandscapes(
    dataset="cifar10",
    eps=8 / 255,
    seeds=(10, 11, 12),
    second_seeds=(40, 41, 42),
    methods=_methods(*(name for name in KINDS if name != "jem"), options=WEIGHTS),
    recipe=Recipe(
        epochs=100,
        batch_size=128,
        lr=0.1,
        optimizer=torch.optim.SGD,
        options={"momentum": 0.9, "weight_decay": 5e-4},
        schedule="steps",
        augment=crop_flip,
        amp=True,
    ),
    model="wide_resnet",
    suite="strong",
    doses=(0.01, 0.1, 1.0),
    radii_trained=(2 / 255, 4 / 255, 8 / 255, 12 / 255),
    energy_eps=(2 / 255, 4 / 255, 8 / 255, 16 / 255, 32 / 255, 64 / 255),
    curvature_points=1000,
)
"""The usual benchmark recipe, at hours per method on one GPU; not run yet, only its shapes are checked."""
