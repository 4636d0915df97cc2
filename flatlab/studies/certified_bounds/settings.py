"""Settings of 04_certified_bounds.

Learning rates were chosen by the verified error on held-out training images, with seeds 100 and 101, never on test
images or on the seeds that are reported; each grid grew until its best value was inside.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from flatlab.train import Recipe


@dataclass(frozen=True)
class Network:
    """An untrained network whose bounds are checked.

    Attributes:
        label, model, options: its name in tables, and how `flatlab.models` builds it.
        shape: of one input.
        eps: radius of the L_inf ball around each input.
    """

    label: str
    model: str
    shape: tuple[int, ...]
    eps: float
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Task:
    """Certified training on one data set.

    Attributes:
        dataset, train_limit, test_limit: images; their number, all if None.
        eps, eps_train: radius that is certified, and that is trained for.
        model, options: of the network.
        recipe: how each network is trained; `rates`: learning rate by kind of training, else the recipe's.
        start, length: of the radius's ramp, as shares of training.
        curve: radii of the figure, which shows three seeds and 150 images.
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

    @property
    def name(self) -> str:
        """Label in tables."""
        return f"{self.dataset} {self.eps:.3g} {self.model}"


NETWORKS = (
    Network("MLP", "mlp", (1, 8, 8), 0.05, {"widths": (64, 64)}),
    Network("CNN", "small_cnn", (1, 8, 8), 0.05, {"widths": (8, 16), "kernel": 3, "strides": (1, 2), "hidden": 32}),
    Network("CNN-7, BatchNorm", "cnn7", (1, 8, 8), 0.02, {"width": 4, "hidden": 32}),
    Network("DenseNet", "densenet", (3, 8, 8), 0.01, {"blocks": (2, 2, 2), "growth": 4, "hidden": 16}),
    Network("ResNeXt", "resnext", (3, 8, 8), 0.01, {"width": 4, "hidden": 16}),
    Network("WideResNet", "wide_resnet", (3, 8, 8), 0.005, {"depth": 10, "widen": 1, "hidden": 16, "pooling": False}),
    Network("PreActResNet-18", "preact_resnet18", (3, 8, 8), 0.002, {"width": 4}),
    Network("LSTM", "text_lstm", (6, 8), 0.05, {"vocabulary": 10, "hidden": 16}),
    Network("Transformer", "text_transformer", (6, 8), 0.02, {"vocabulary": 10, "heads": 2, "ff": 16}),
    Network(
        "Transformer, LayerNorm",
        "text_transformer",
        (6, 8),
        0.02,
        {"vocabulary": 10, "heads": 2, "ff": 16, "norm": "full"},
    ),
)
"""Four classes, random weights: every kind of layer, none of them trained to be easy."""


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
    Flat("ordinary", 0.001),
    Flat("sam", 0.01, rho=0.2),
    Flat("certified 0.05", 0.01, weight_eps=0.05),
    Flat("certified 0.1", 0.01, weight_eps=0.1),
)
"""Weight decay, the radius of SAM and the recipe had the lowest loss on held-out images, with seeds 100 to 103."""


@dataclass(frozen=True)
class CertifiedBounds:
    """Settings of one run.

    Attributes:
        seeds: of the networks that are reported.
        networks, examples: whose bounds are checked, and on how many random inputs.
        audit_steps: of the attack on each bound; `alpha_steps`: of the optimised slopes.
        tasks, kinds: certified training: data, and how networks are trained.
        classes: numbers of classes for the cost of loss fusion; `repeats`: how often each step is timed.
        image_shape: of the images of that network.
        shots: images per class for training on weight balls, `flat` in ways and by `flat_recipe`; `ball`: the radius
            that is tested, around each weight matrix.
        words, word_recipe, word_rates, word_epochs: sentences of the synonym task, how a model is trained, and learning
            rates and epochs by kind of training, where they differ: IBP gets twice the epochs, as its steps take half
            the time; `word_tests`: sentences that are verified; `budgets`: substitutions allowed.
        language: name of sentences on the disk, whose word vectors are trained; empty for the made-up language.
        word_shape, word_model: words of a sentence and numbers of a word, and further options of the transformer.
    """

    seeds: tuple[int, ...]
    tasks: tuple[Task, ...]
    kinds: tuple[str, ...] = ("natural", "pgd_at", "ibp", "fused", "crown-ibp")
    networks: tuple[Network, ...] = NETWORKS
    examples: int = 4
    audit_steps: int = 20
    alpha_steps: int = 20
    classes: tuple[int, ...] = (10, 100, 1000)
    repeats: int = 5
    image_shape: tuple[int, int, int] = (3, 32, 32)
    shots: int = 10
    flat: tuple[Flat, ...] = FLAT
    flat_recipe: Recipe = field(
        default_factory=lambda: Recipe(
            epochs=500, batch_size=100, lr=1.0, optimizer=torch.optim.SGD, schedule="onecycle", grad_clip=1.0
        )
    )
    ball: float = 0.1
    words: int = 500
    word_recipe: Recipe = field(
        default_factory=lambda: Recipe(epochs=20, batch_size=32, lr=1e-2, schedule="onecycle", grad_clip=10.0)
    )
    word_rates: Mapping[str, float] = field(default_factory=lambda: {"ibp": 0.03, "crown-ibp": 0.05})
    word_epochs: Mapping[str, int] = field(default_factory=lambda: {"ibp": 40})
    word_tests: int = 100
    budgets: tuple[int, ...] = (1, 2)
    language: str = ""
    word_shape: tuple[int, int] = (8, 8)
    word_model: Mapping[str, Any] = field(default_factory=lambda: {"heads": 2, "ff": 32})


CNN = {"widths": (16, 32), "kernel": 3, "strides": (1, 2), "hidden": 100}
CNN7 = {"width": 64, "hidden": 512}

DIGITS = Task(
    "digits",
    0.1,
    0.1,
    "small_cnn",
    Recipe(epochs=40, batch_size=64, lr=1e-2, schedule="onecycle", grad_clip=8.0),
    CNN,
    curve=(0.0, 0.025, 0.05, 0.1, 0.15),
)

CPU = CertifiedBounds(seeds=(0, 1, 2, 3, 4), tasks=(DIGITS,))
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
            test_limit=200,
            curve=(0.0, 0.05, 0.1, 0.15),
        ),
    ),
    examples=2,
    audit_steps=5,
    alpha_steps=5,
    classes=(10, 100),
    repeats=1,
    flat=tuple(way for way in FLAT if way.name != "certified 0.05"),
    flat_recipe=Recipe(
        epochs=200, batch_size=100, lr=1.0, optimizer=torch.optim.SGD, schedule="onecycle", grad_clip=1.0
    ),
    words=200,
    word_epochs={"natural": 20, "ibp": 20, "crown-ibp": 10},
    word_tests=30,
    budgets=(2,),
)
"""Stored in the notebook: about a minute on two cores.

Perceptrons in place of the convolutional network, fewer epochs and examples, chosen by their time on seeds 1000 to 1002
and 2000 to 2002. Learning rates are those chosen for `CPU`, not tuned anew for the perceptron.
"""


def _benchmark(dataset: str, eps: float, eps_train: float, epochs: int, **options: Any) -> Task:
    recipe = Recipe(epochs=epochs, batch_size=256, lr=5e-4, schedule="late", grad_clip=8.0)
    return Task(dataset, eps, eps_train, options.pop("model", "cnn7"), recipe, options.pop("options", CNN7), **options)


GPU = CertifiedBounds(
    seeds=(0, 1, 2),
    tasks=(
        _benchmark("mnist", 0.1, 0.2, 8, train_limit=20_000, test_limit=2000, start=0.1),
        _benchmark("mnist", 0.3, 0.4, 8, train_limit=20_000, test_limit=2000, start=0.1),
        _benchmark("cifar10", 2 / 255, 2.2 / 255, 12, test_limit=2000, start=0.1),
        _benchmark("cifar10", 8 / 255, 8.8 / 255, 12, test_limit=2000, start=0.1),
    ),
    kinds=("natural", "ibp", "fused"),
    classes=(10, 200, 1000),
    examples=8,
)
"""Meant for ten minutes on one GPU, with a shortened ramp; not measured yet."""

FULL = CertifiedBounds(
    seeds=(0, 1, 2, 3, 4),
    tasks=(
        *(
            _benchmark(
                "cifar10", 8 / 255, 8.8 / 255, 2000, model=model, options=options, start=0.05, length=0.4
            )
            for model, options in (
                ("cnn7", CNN7),
                ("densenet", {}),
                ("wide_resnet", {"depth": 10, "widen": 8, "pooling": False}),
                ("resnext", {}),
            )
        ),
        _benchmark(
            "tiny_imagenet", 1 / 255, 1 / 255, 800, model="wide_resnet",
            options={"depth": 10, "widen": 10, "pooling": False}, start=0.125, length=0.5,
        ),
        _benchmark(
            "imagenet64", 1 / 255, 1 / 255, 240, model="wide_resnet",
            options={"depth": 10, "widen": 10, "pooling": False}, start=0.4, length=0.33,
        ),
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
