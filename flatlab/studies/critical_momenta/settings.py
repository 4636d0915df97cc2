"""Settings of 05_critical_momenta.

Learning rates were chosen on validation data with the tuning seeds (`tune=True` in the notebook repeats it), never on
test data or on the seeds that are reported. Each grid grew until its best value was inside.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from flatlab import optim
from flatlab.train import Recipe, crop_flip


@dataclass(frozen=True)
class Method:
    """An optimizer to study.

    Attributes:
        name: its label in tables and figures.
        optimizer: its name in `flatlab.optim`.
        options: of the optimizer, beyond the learning rate.
    """

    name: str
    optimizer: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CriticalMomenta:
    """Settings of one run.

    Attributes:
        starts: starting points on each test function; `toy_steps`: steps from each.
        rates, sharpness: the grid of learning rates and basins over which escape is judged.
        dataset, label_noise, train_limit, test_limit, model, model_options, image_recipe: the image task; `held_out`
            training images are for validation.
        level: training loss at which curvatures are compared.
        text, windows, length, text_model, text_options, text_recipe: the text task.
        late_windows, late_epochs: the little text that is trained on for long.
        seeds: of the networks that are reported; `tuning_seeds`: of those that choose learning rates.
        images, texts, continual: names of the methods that learn images, text, and tasks in sequence.
        variants: names of variants of Adam that learn images, each without and with the memory ("_cm").
        many: of the methods that learn images, those that do so from every seed, as the variants do.
        few: how many of the seeds the others have, and how many have their curvature measured.
        tasks: in sequence; `sequences`: how many such sequences are tried.
        readers: of the seeds, how many learn text; `late_readers`: how many learn little text for long.
        tuned: task -> method -> learning rate.
        tune: whether to repeat the choice of learning rates.
    """

    seeds: tuple[int, ...]
    starts: int = 256
    toy_steps: int = 500
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    sharpness: tuple[float, ...] = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
    dataset: str = "digits"
    label_noise: float = 0.2
    held_out: int = 400
    train_limit: int | None = None
    test_limit: int | None = None
    model: str = "mlp"
    model_options: Mapping[str, Any] = field(default_factory=lambda: {"widths": (128, 64)})
    image_recipe: Recipe = field(
        default_factory=lambda: Recipe(epochs=20, batch_size=32, schedule="cosine", grad_clip=None)
    )
    curvature_points: int = 500
    level: float = 1.0
    text: str = "python_topics"
    windows: int = 6400
    length: int = 32
    text_model: str = "char_lstm"
    text_options: Mapping[str, Any] = field(default_factory=lambda: {"width": 64})
    text_recipe: Recipe = field(
        default_factory=lambda: Recipe(epochs=1, batch_size=32, schedule="cosine", grad_clip=1.0)
    )
    late_windows: int = 320
    late_epochs: int = 40
    images: tuple[str, ...] = ("adam", "c0", "cg", "cm", "cm99", "cm_corrected", "sam", "sam_cm")
    texts: tuple[str, ...] = ("adam", "c0", "cg", "cm", "cm_corrected", "sam")
    continual: tuple[str, ...] = ("adam", "c0", "cg", "cm")
    variants: tuple[str, ...] = ("adamw", "amsgrad", "nadam")
    many: tuple[str, ...] = ("adam", "c0", "cm")
    few: int = 10
    tasks: int = 5
    sequences: int = 20
    readers: int = 5
    late_readers: int = 5
    tuned: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: TUNED)
    tune: bool = False
    tuning_seeds: tuple[int, ...] = (100, 101)

    def method(self, name: str) -> Method:
        """The method with this label."""
        return METHODS[name]

    def factory(self, name: str) -> Callable[..., torch.optim.Optimizer]:
        """Makes the optimizer of the method with this label, called as factory(params, lr=...)."""
        method = METHODS[name]
        return partial(optim.info(method.optimizer).factory, **method.options)

    def learning_rates(self, task: str, names: Iterable[str]) -> dict[str, dict[str, float]]:
        """What `tuned` has for these methods on a task, as options: method -> {"lr": ...}."""
        return {name: {"lr": self.tuned[task][name]} for name in names}


_METHODS = (
    Method("adam", "adam"),
    Method("sgd", "sgd", {"momentum": 0.9}),
    Method("c0", "adam_cm", {"capacity": 0}),
    Method("c0_corrected", "adam_cm", {"capacity": 0, "init": "corrected"}),
    Method("cg", "adam_cg", {"capacity": 5}),
    Method("cm", "adam_cm"),
    Method("cm_corrected", "adam_cm", {"init": "corrected"}),
    Method("cm20_corrected", "adam_cm", {"init": "corrected", "capacity": 20}),
    Method("cm99_corrected", "adam_cm", {"init": "corrected", "decay": 0.99}),
    Method("cg99", "adam_cg", {"capacity": 5, "decay": 0.99}),
    Method("cm99", "adam_cm", {"decay": 0.99}),
    Method("sam", "sam_adam"),
    Method("sam_cm", "sam_adam_cm"),
    Method("adamw", "adamw", {"weight_decay": 0.1}),
    Method("adamw_cm", "adam_cm", {"weight_decay": 0.1}),
    Method("amsgrad", "adam", {"amsgrad": True}),
    Method("amsgrad_cm", "adam_cm", {"amsgrad": True}),
    Method("nadam", "nadam"),
    Method("nadam_cm", "nadam_cm"),
)
METHODS = {method.name: method for method in _METHODS}
"""c0 is critical momenta without a memory: Adam with its second moment from the momentum. "corrected" starts with one
learning rate, the others with up to ten."""

GRID = {
    "escape": CriticalMomenta.rates,
    "toys": (0.03, 0.1, 0.3, 1.0),
    "images": (0.0003, 0.001, 0.003, 0.01),
    "texts": (0.003, 0.01, 0.03),
    "continual": (0.0003, 0.001, 0.003),
}
"""Learning rates that the sweeps start from; that of the escape is fixed."""

TUNED: dict[str, dict[str, float]] = {
    "escape": {"adam": 1.0, "cm": 0.1},
    "levy": {"adam": 3.22, "sam": 3.22, "c0": 0.3, "cg": 1.0, "cm": 0.3, "cm_corrected": 0.3},
    "ackley": {"adam": 0.3, "sam": 0.3, "c0": 0.1, "cg": 0.3, "cm": 0.1, "cm_corrected": 0.1},
    "goldstein_price": {"adam": 0.1, "sam": 0.1, "c0": 0.03, "cg": 0.1, "cm": 0.03, "cm_corrected": 0.03},
    "images": {
        "adam": 0.01,
        "c0": 0.001,
        "cg": 0.01,
        "cm": 0.003,
        "cm99": 0.001,
        "cm_corrected": 0.003,
        "sam": 0.01,
        "sam_cm": 0.003,
        "adamw": 0.01,
        "adamw_cm": 0.003,
        "amsgrad": 0.01,
        "amsgrad_cm": 0.003,
        "nadam": 0.01,
        "nadam_cm": 0.003,
    },
    "texts": {"adam": 0.03, "c0": 0.01, "cg": 0.03, "cm": 0.01, "cm_corrected": 0.01, "sam": 0.03},
    "continual": {"adam": 0.00949, "c0": 0.003, "cg": 0.003, "cm": 0.001},
}
"""What the sweeps chose on the embedded data with the `cpu` preset."""

CPU = CriticalMomenta(seeds=tuple(range(30, 60)))
"""Recorded in notebooks/results/cpu.json: three minutes with one thread of a server's CPU, six with the sweeps."""

QUICK = CriticalMomenta(
    seeds=(30, 31, 32, 33),
    starts=64,
    images=("adam", "c0", "cg", "cm", "sam"),
    texts=("adam", "cm"),
    windows=960,
    late_windows=160,
    late_readers=2,
    continual=("adam", "cm"),
    sequences=10,
)
"""Stored in the notebook: a minute on the same machine."""

GPU = CriticalMomenta(
    seeds=(10, 11, 12),
    starts=1000,
    dataset="cifar10",
    label_noise=0.0,
    held_out=5000,
    model="preact_resnet18",
    model_options={},
    image_recipe=Recipe(epochs=15, batch_size=128, schedule="cosine", grad_clip=None, augment=crop_flip, amp=True),
    curvature_points=2000,
    level=0.8,
    text="tiny_shakespeare",
    windows=30_000,
    length=64,
    text_model="char_gpt",
    text_options={"width": 128, "layers": 4, "context": 64},
    text_recipe=Recipe(epochs=4, batch_size=64, schedule="onecycle", grad_clip=1.0),
    images=("adam", "c0", "cg", "cm", "sam", "sam_cm"),
    variants=(),
    texts=("adam", "c0", "cm", "sam"),
)
"""Meant for ten minutes on one GPU, and not measured yet."""

FULL = CriticalMomenta(
    seeds=(10, 11, 12, 13, 14),
    starts=1000,
    dataset="cifar100",
    label_noise=0.0,
    held_out=5000,
    model="preact_resnet18",
    model_options={},
    image_recipe=Recipe(epochs=200, batch_size=128, schedule="cosine", grad_clip=None, augment=crop_flip, amp=True),
    curvature_points=2000,
    level=0.5,
    text="ptb",
    windows=100_000,
    length=128,
    text_options={"width": 512, "layers": 2},
    text_recipe=Recipe(epochs=40, batch_size=64, schedule="cosine", grad_clip=0.25),
    tune=True,
)
"""Networks of the size that the paper trains, with all learning rates tuned; only shapes are checked here."""
