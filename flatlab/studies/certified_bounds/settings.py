"""Settings of 04_certified_bounds.

Learning rates and weight decay were chosen for each kind of training by itself (`tune=True` in the notebook repeats
it), on held-out training images or validation sentences, with the tuning seeds: never on test data, nor on the seeds
that are reported. Each grid grew until its best value was inside.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from flatlab.studies.certified_bounds.networks import NETWORKS, Network
from flatlab.train import Recipe


@dataclass(frozen=True, eq=False)
class Task:
    """Certified training on one data set.

    Attributes:
        dataset, train_limit, test_limit: images; their number, all if None.
        eps, eps_train: radius that is certified, and that is trained for.
        model, options: of the network.
        recipe: how each network is trained; `rates`: learning rate by kind of training, else the recipe's.
        start, length: of the radius's ramp, as shares of training.
        curve: radii of the figure, for networks of the first seed.
        costly: number of test images, the first ones, that CROWN and alpha-CROWN are run on; `halfway`: likewise, of
            those that CROWN is run on at half of the radius.
    """

    dataset: str
    eps: float
    eps_train: float
    model: str
    recipe: Recipe
    options: Mapping[str, Any] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    train_limit: int | None = None
    test_limit: int | None = None
    start: float = 0.05
    length: float = 0.6
    curve: tuple[float, ...] = ()
    costly: int = 0
    halfway: int = 0

    @property
    def name(self) -> str:
        """Label in tables."""
        return f"{self.dataset} {self.eps:.3g} {self.model}"

    def rate(self, kind: str) -> float:
        """The learning rate of a kind of training."""
        return self.rates.get(kind, self.recipe.lr)


@dataclass(frozen=True)
class Flat:
    """A way to train on few images.

    Attributes:
        name: its label.
        weight_decay: of SGD.
        rho: radius of sharpness-aware minimization; 0 for none.
        weight_eps: radius of the balls around weights that it is certified for; 0 for none.
    """

    name: str
    weight_decay: float
    rho: float = 0.0
    weight_eps: float = 0.0


FLAT = (
    Flat("ordinary", 0.00316),
    Flat("sam", 0.01, rho=0.2),
    Flat("certified", 0.01, weight_eps=0.1),
)
"""Weight decay had the lowest loss on held-out images, with the tuning seeds; the radius of SAM and the rate, which all
ways share, had it in an earlier search with seeds 100 to 103."""


@dataclass(frozen=True)
class CertifiedBounds:
    """Settings of one run.

    Attributes:
        seeds: of the networks that are reported; `tuning_seeds`: of those that choose rates and weight decay.
        networks, examples: whose bounds are checked, and on how many random inputs; `draws`: of weights for each.
        trials: of random functions, sentences and networks for what must never happen.
        audit_steps: of the attack on each bound; `alpha_steps`: of the optimised slopes.
        tasks, kinds: certified training: data, and how networks are trained.
        others, other_kinds: the same of the networks that have their own claim.
        large: tasks whose data may be absent.
        held_out, proven: training images kept for tuning, and how many of them are verified there.
        classes: numbers of classes for the cost of loss fusion; `repeats`: how often each step is timed.
        image_shape: of the images of that network.
        shots: images per class for training on weight balls, `flat` in ways and by `flat_recipe`, with networks of
            `flat_seeds`; `ball`: the radius that is tested, around each weight matrix; `level`: training loss in nats
            at which networks are compared.
        words, word_recipe, word_rates, word_epochs: sentences of the synonym task, how a model is trained, and learning
            rates and epochs by kind of training, where they differ: IBP gets twice the epochs, as its steps take half
            the time; `word_tests`: sentences that are verified; `budgets`: substitutions allowed.
        language: name of sentences on the disk, whose word vectors are trained; empty for the made-up language.
        word_shape, word_model: words of a sentence and numbers of a word, and further options of the transformer.
        tune: whether to repeat the choice of rates and weight decay.
    """

    seeds: tuple[int, ...]
    tasks: tuple[Task, ...]
    kinds: tuple[str, ...] = ("natural", "pgd_at", "ibp", "fused", "crown-ibp")
    others: tuple[Task, ...] = ()
    other_kinds: tuple[str, ...] = ("natural", "fused")
    large: tuple[Task, ...] = ()
    tuning_seeds: tuple[int, ...] = (100, 101)
    held_out: int = 400
    proven: int = 200
    networks: tuple[Network, ...] = NETWORKS
    examples: int = 2
    draws: int = 3
    trials: int = 32
    audit_steps: int = 20
    alpha_steps: int = 20
    classes: tuple[int, ...] = (10, 100, 1000)
    repeats: int = 3
    image_shape: tuple[int, int, int] = (3, 32, 32)
    shots: int = 10
    flat: tuple[Flat, ...] = FLAT
    flat_seeds: tuple[int, ...] = tuple(range(30, 40))
    flat_recipe: Recipe = field(
        default_factory=lambda: Recipe(
            epochs=500, batch_size=100, lr=1.0, optimizer=torch.optim.SGD, schedule="onecycle", grad_clip=1.0
        )
    )
    ball: float = 0.1
    level: float = 0.06
    words: int = 500
    word_recipe: Recipe = field(
        default_factory=lambda: Recipe(epochs=20, batch_size=32, lr=1e-2, schedule="onecycle", grad_clip=10.0)
    )
    word_rates: Mapping[str, float] = field(
        default_factory=lambda: {"natural": 0.00316, "ibp": 0.03, "crown-ibp": 0.03}
    )
    word_epochs: Mapping[str, int] = field(default_factory=lambda: {"ibp": 40})
    word_tests: int = 100
    budgets: tuple[int, ...] = (1, 2)
    language: str = ""
    word_shape: tuple[int, int] = (8, 8)
    word_model: Mapping[str, Any] = field(default_factory=lambda: {"heads": 2, "ff": 32})
    tune: bool = False

    def shifted(self, by: int) -> "CertifiedBounds":
        """The same with all reported seeds higher by a number."""
        seeds, flat_seeds = (tuple(seed + by for seed in old) for old in (self.seeds, self.flat_seeds))
        return replace(self, seeds=seeds, flat_seeds=flat_seeds)

    def image_options(self, task: Task) -> dict[str, dict[str, float]]:
        """Kind of training -> its learning rate on a task, {"lr": ...}."""
        return {kind: {"lr": task.rate(kind)} for kind in self.kinds}

    def word_options(self) -> dict[str, dict[str, float]]:
        """Kind of training -> its learning rate on sentences, {"lr": ...}."""
        kinds = ("natural", "ibp", "crown-ibp")
        return {kind: {"lr": self.word_rates.get(kind, self.word_recipe.lr)} for kind in kinds}


GRID = {
    "images": (0.003, 0.01, 0.03),
    "decay": (0.001, 0.00316, 0.01, 0.0316),
    "words": (0.01, 0.03, 0.1),
}
"""Learning rates, and weight decay of `flat`, that the sweeps start from."""


CNN = {"widths": (16, 32), "kernel": 3, "strides": (1, 2), "hidden": 100}
CNN7 = {"width": 64, "hidden": 512}

DIGITS = Task(
    "digits",
    0.1,
    0.1,
    "small_cnn",
    Recipe(epochs=40, batch_size=64, lr=1e-2, schedule="onecycle", grad_clip=8.0),
    CNN,
    rates={"natural": 0.0003, "pgd_at": 0.0003},
    curve=(0.0, 0.025, 0.05, 0.075, 0.1),
    costly=60,
    halfway=150,
)


def _other(model: str, **options: Any) -> Task:
    recipe = Recipe(epochs=15, batch_size=64, lr=1e-2, schedule="onecycle", grad_clip=8.0)
    return Task("digits", 0.05, 0.05, model, recipe, {"hidden": 32, **options})


OTHERS = (_other("densenet", blocks=(1, 1), growth=4), _other("resnext", blocks=(1, 1), width=4))

CPU = CertifiedBounds(seeds=(0, 1, 2, 3, 4), tasks=(DIGITS,), others=OTHERS)
"""Recorded in notebooks/results/cpu.json."""

QUICK = CertifiedBounds(
    seeds=(0, 1, 2),
    tasks=(
        Task(
            "digits",
            0.1,
            0.1,
            "mlp",
            Recipe(epochs=15, batch_size=64, lr=1e-2, schedule="onecycle", grad_clip=8.0),
            {"widths": (64, 32)},
            rates={"natural": 0.000949, "ibp": 0.03, "fused": 0.0949, "crown-ibp": 0.0949},
            test_limit=200,
            curve=(0.0, 0.05, 0.1),
            costly=60,
            halfway=100,
        ),
    ),
    examples=1,
    audit_steps=5,
    alpha_steps=5,
    classes=(10, 100),
    repeats=1,
    flat_seeds=(30, 31, 32),
    flat_recipe=Recipe(
        epochs=400, batch_size=100, lr=1.0, optimizer=torch.optim.SGD, schedule="onecycle", grad_clip=1.0
    ),
    level=0.15,
    words=200,
    word_epochs={"natural": 20, "ibp": 20, "crown-ibp": 10},
    word_tests=30,
    budgets=(2,),
)
"""Stored in the notebook: about a minute on two cores.

Perceptrons in place of the convolutional network, fewer epochs and examples, chosen by their time on seeds 1000 to 1002
and 2000 to 2002, and no DenseNet or ResNeXt. Learning rates of the perceptrons have their own sweep; those of the
transformers, and weight decay, are those chosen for `CPU`.
"""


def _benchmark(dataset: str, eps: float, eps_train: float, epochs: int, **options: Any) -> Task:
    recipe = Recipe(epochs=epochs, batch_size=256, lr=5e-4, schedule="late", grad_clip=8.0)
    options = {"curve": (0.0, eps / 2, eps), **options}
    return Task(dataset, eps, eps_train, options.pop("model", "cnn7"), recipe, options.pop("options", CNN7), **options)


def _cifar(model: str, options: Mapping[str, Any]) -> Task:
    return _benchmark("cifar10", 8 / 255, 8.8 / 255, 2000, model=model, options=options, start=0.05, length=0.4)


GPU = CertifiedBounds(
    seeds=(0, 1, 2),
    tasks=(
        _benchmark("mnist", 0.1, 0.2, 8, train_limit=20_000, test_limit=2000, start=0.1),
        _benchmark("mnist", 0.3, 0.4, 8, train_limit=20_000, test_limit=2000, start=0.1),
        _benchmark("cifar10", 2 / 255, 2.2 / 255, 12, test_limit=2000, start=0.1),
        _benchmark("cifar10", 8 / 255, 8.8 / 255, 12, test_limit=2000, start=0.1),
    ),
    kinds=("natural", "ibp", "fused"),
    large=(_benchmark("tiny_imagenet", 1 / 255, 1 / 255, 10, start=0.1),),
    classes=(10, 200, 1000),
    examples=8,
)
"""Meant for ten minutes on one GPU, with a shortened ramp; not measured yet."""

WIDE = {"depth": 10, "widen": 10, "pooling": False}

FULL = CertifiedBounds(
    seeds=(0, 1, 2, 3, 4),
    tasks=(
        _cifar("cnn7", CNN7),
        _cifar("wide_resnet", {**WIDE, "widen": 8}),
    ),
    others=(_cifar("densenet", {}), _cifar("resnext", {})),
    large=(
        _benchmark(
            "tiny_imagenet", 1 / 255, 1 / 255, 800, model="wide_resnet", options=WIDE, start=0.125, length=0.5
        ),
        _benchmark("imagenet64", 1 / 255, 1 / 255, 240, model="wide_resnet", options=WIDE, start=0.4, length=0.33),
    ),
    kinds=("natural", "ibp", "fused"),
    classes=(10, 200, 1000),
    image_shape=(3, 64, 64),
    language="sst2",
    word_shape=(32, 64),
    word_model={"heads": 4, "ff": 128},
    words=70_000,
    word_recipe=Recipe(epochs=25, batch_size=32, lr=1e-4, schedule="constant", grad_clip=10.0),
    word_rates={},
    word_epochs={},
    word_tests=872,
    budgets=(1, 2, 3, 4, 5, 6),
)  # fmt: skip
"""The networks and schedules that the authors' scripts name; days on one GPU, and only shapes are checked here."""
