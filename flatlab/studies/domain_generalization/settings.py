"""Settings of 06_domain_generalization.

Every method had its learning rate and its own strength chosen from a grid of twelve to sixteen points, by its accuracy
on domains that are neither sources nor targets: digits turned the other way, on the tuning seeds. So no target was
looked at, but the kind of change is the targets' own. What was found there is used on all other digits, too. Selection
of checkpoints sees held-out parts of sources alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flatlab.studies.domain_generalization.worlds import Method, Task

ANGLES = (0, 15, 30, 45)
GRIDS: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "ERM": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "weight_decay": (0.0, 1e-4, 1e-2)},
    "ERM, 6x steps": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "weight_decay": (0.0, 1e-4, 1e-2)},
    "SAM": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "rho": (0.05, 0.1, 0.2, 0.4)},
    "UDIM": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "rho_x": (0.5, 1.0, 2.0, 4.0)},
    "adversarial": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "rho_x": (0.5, 1.0, 2.0, 4.0)},
    "ASAM": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "rho": (0.2, 0.5, 1.0)},
    "GSAM": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "rho": (0.05, 0.1, 0.2, 0.4)},
    "SAGM": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "rho": (0.05, 0.1, 0.2, 0.4)},
    "GroupDRO": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "eta": (1e-3, 1e-2, 1e-1)},
    "IRM": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "lam": (0.1, 1.0, 10.0)},
    "VREx": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "lam": (0.1, 1.0, 10.0)},
    "CORAL": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "lam": (0.1, 1.0, 10.0)},
    "MMD": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "lam": (0.1, 1.0, 10.0)},
    "Mixup": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "alpha": (0.1, 0.2, 0.5)},
    "Fishr": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "lam": (1.0, 100.0, 1000.0)},
    "SWAD": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "start": (0.1, 0.25, 0.5, 0.75)},
}
"""What is tried of each method: four learning rates times three or four strengths, and more past the end of a grid."""


def leave_one_out(names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """All but one of the names, for each of them."""
    return tuple(tuple(other for other in names if other != name) for name in names)


ROTATED: Mapping[str, Any] = {"dataset": "digits", "angles": ANGLES}
MIRRORED: Mapping[str, Any] = {"dataset": "digits", "angles": (0, -15, -30, -45)}
NAMES = tuple(map(str, ANGLES))

ADVERSARIAL: Mapping[str, Any] = {
    "rho": 0.0, "second_order": False, "warmup": 0.0, "terms": "loss", "lam": 1.0, "rho_x": 2.0,
}  # fmt: skip
"""The loss at x plus the loss at x + rho_x grad L / |grad L|: adversarial training, with nothing of SAM."""

SINGLE = {
    "ERM": Method("ERM", 1e-2, weight_decay=1e-2),
    "ERM, 6x steps": Method("ERM", 1e-2, length=6),
    "SAM": Method("SAM", 3e-3, {"rho": 0.2}),
    "UDIM": Method("UDIM", 1e-2, {"rho": 0.05, "rho_x": 2.0}),
    "adversarial": Method("UDIM", 1e-2, ADVERSARIAL, length=1.6),
}
"""For one source. "ERM, 6x steps" makes as many operations as UDIM, "adversarial" takes as long."""

FAMILY = {
    "SAGM": Method("SAGM", 1e-2, {"rho": 0.2}),
    "GSAM": Method("GSAM", 1e-2, {"rho": 0.05}),
    "ASAM": Method("ASAM", 3e-3, {"rho": 1.0}),
}
"""Other bases of UDIM, for one source."""

OUT = {
    "ERM": Method("ERM", 1e-2, weight_decay=1e-4),
    "ERM, 6x steps": Method("ERM", 1e-2, length=6, weight_decay=1e-4),
    "SAM": Method("SAM", 1e-2, {"rho": 0.1}),
    "UDIM": Method("UDIM", 1e-2, {"rho": 0.05, "rho_x": 1.0}),
    "adversarial": Method("UDIM", 1e-2, {**ADVERSARIAL, "rho_x": 1.0}, length=1.6),
    "GroupDRO": Method("GroupDRO", 1e-2, {"eta": 1.0}),
    "IRM": Method("IRM", 1e-2, {"lam": 1.0, "anneal": 40}),
    "VREx": Method("VREx", 1e-2, {"lam": 10.0, "anneal": 40}),
    "CORAL": Method("CORAL", 1e-2, {"lam": 1.0}),
    "MMD": Method("MMD", 1e-2, {"lam": 1.0}),
    "Mixup": Method("Mixup", 1e-2, {"alpha": 0.5}),
    "Fishr": Method("Fishr", 1e-2, {"lam": 1.0, "anneal": 40}),
    "SWAD": Method("SWAD", 3e-2, {"start": 0.25}),
}
"""For three sources and one target. Penalties reach their weight after a fifth of the steps, as UDIM's does."""


def _some(methods: Mapping[str, Method], *names: str) -> dict[str, Method]:
    return {name: methods[name] for name in names}


@dataclass(frozen=True)
class DomainGeneralization:
    """Settings of one run.

    Attributes:
        seeds: of domains, splits, networks and order; `few`: how many of them the side experiments have;
            `tuning_seeds`: on which options were chosen.
        single: training on one domain; `methods`: of it, by label.
        out: training on all domains but one; `out_methods`: of it.
        shift: training on clean images, testing on corrupted ones of each of `severities`; `shift_methods`.
        photos: photographs and drawings, or None; `photo_methods`; `photo_seeds`: how many.
        coloured: the negative control; `coloured_methods`.
        normed: networks with BatchNorm, for the control of test batches.
        family: other bases of UDIM. ablations: parts of it, see `variants`.
        rho_xs, lams: of the sensitivity to either, rho_x in standard deviations of a pixel.
        development, development_out: domains on which options were chosen, for one source and for several.
        grids: label -> option -> what is tried of it.
        lengths: of the perturbations whose gain is measured, in standard deviations of a pixel.
        points: weights near each network at which the inequalities of the bound are looked at.
        repeats: of ten steps, when steps are timed.
        slice_span, slice_n: half width of the slices through landscapes, and points on each axis.
        tune: choose the options again.
    """

    seeds: tuple[int, ...]
    few: int
    single: Task
    out: Task
    shift: Task
    normed: Task
    methods: Mapping[str, Method] = field(default_factory=lambda: SINGLE)
    out_methods: Mapping[str, Method] = field(default_factory=lambda: OUT)
    shift_methods: Mapping[str, Method] = field(default_factory=lambda: SINGLE)
    photos: Task | None = None
    photo_methods: Mapping[str, Method] = field(default_factory=dict)
    photo_seeds: int = 0
    coloured: Task = field(
        default_factory=lambda: Task("coloured", (("0.9", "0.8"),), {"dataset": "digits"}, batch_size=64)
    )
    coloured_methods: Mapping[str, Method] = field(default_factory=lambda: _some(OUT, "ERM", "SAM", "UDIM", "IRM"))
    family: Mapping[str, Method] = field(default_factory=lambda: FAMILY)
    ablations: tuple[str, ...] = ("first order", "norm term", "variance term", "random direction", "not perturbed")
    severities: tuple[int, ...] = (1, 3, 5)
    rho_xs: tuple[float, ...] = (0.5, 1.0, 8.0)
    lams: tuple[float, ...] = (0.1, 10.0)
    development: Task | None = None
    development_out: Task | None = None
    tuning_seeds: tuple[int, ...] = (100, 101, 102, 103, 104)
    grids: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=lambda: GRIDS)
    lengths: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    points: int = 40
    repeats: int = 20
    slice_span: float = 15.0
    slice_n: int = 15
    tune: bool = False


CPU = DomainGeneralization(
    seeds=tuple(range(20)),
    few=10,
    single=Task("rotated", (("0",),), ROTATED),
    out=Task("rotated", leave_one_out(NAMES)[::3], ROTATED, batch_size=96),
    shift=Task("corrupted", (("clean",),), {"dataset": "digits", "disjoint": False}),
    normed=Task(
        "corrupted",
        (("clean",),),
        {"dataset": "digits", "disjoint": False},
        "small_cnn",
        {"widths": (8, 16), "hidden": 32, "norm": "batch"},
    ),
    development=Task("rotated", (("0",),), MIRRORED),
    development_out=Task("rotated", (("0", "-15", "-30"),), MIRRORED, batch_size=96),
)
"""Recorded in notebooks/results/cpu.json: twelve minutes with one thread of a server's CPU, beside other work.

Of several sources, the targets are both ends of the range of angles.
"""

QUICK = replace(
    CPU,
    seeds=tuple(range(5)),
    few=3,
    out_methods=_some(OUT, "ERM", "SAM", "UDIM", "adversarial", "CORAL"),
    shift_methods=_some(SINGLE, "ERM", "SAM", "UDIM"),
    family=_some(FAMILY, "SAGM"),
    ablations=("norm term", "random direction"),
    severities=(1, 5),
    rho_xs=(8.0,),
    lams=(10.0,),
    lengths=(0.1, 1.0, 3.0),
    slice_n=9,
)

_MNIST = {"dataset": "mnist", "limit": 2000}
_NET: Mapping[str, Any] = {"widths": (8, 16), "hidden": 64}
_SMALL: Mapping[str, Any] = {"widths": (16, 32), "kernel": 3, "strides": (2, 2), "hidden": 64}
_TURNED = Task("rotated", (("0",),), {**ROTATED, **_MNIST}, "small_cnn", _NET, 300, 64, 100)
_OUT = replace(_TURNED, sources=leave_one_out(NAMES), batch_size=96)
_SHIFT = Task("cifar10_c", (("clean",),), {"limit": 10_000}, "small_cnn", _SMALL, 400, 64, 100)
_PACS = ("art_painting", "cartoon", "photo", "sketch")

_RATES = (1e-3, 3e-3)
_COARSE: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "ERM": {"lr": _RATES, "weight_decay": (1e-4, 1e-2)},
    "ERM, 6x steps": {"lr": _RATES, "weight_decay": (1e-4, 1e-2)},
    "SAM": {"lr": _RATES, "rho": (0.05, 0.2)},
    "UDIM": {"lr": _RATES, "rho_x": (2.0, 8.0)},
    "adversarial": {"lr": _RATES, "rho_x": (2.0, 8.0)},
}


_TURNING = {
    "ERM": Method("ERM", 9e-3, weight_decay=1e-4),
    "ERM, 6x steps": Method("ERM", 3e-3, length=6, weight_decay=1e-4),
    "SAM": Method("SAM", 3e-3, {"rho": 0.05}),
    "UDIM": Method("UDIM", 9e-3, {"rho": 0.05, "rho_x": 8.0}),
    "adversarial": Method("UDIM", 3e-3, {**ADVERSARIAL, "rho_x": 8.0}, length=1.6),
}
"""For MNIST; of "ERM, 6x steps" a third of ERM's rate, which was not tried."""
_PICTURING = {
    "ERM": Method("ERM", 1e-3),
    "SAM": Method("SAM", 1e-3, {"rho": 0.05}),
    "UDIM": Method("UDIM", 1e-3, {"rho": 0.05, "rho_x": 8.0}),
}
"""For CIFAR-10 and PACS: strengths as on MNIST; the better of two rates on held-out source images of CIFAR-10."""

REAL = replace(
    CPU,
    seeds=tuple(range(10)),
    few=5,
    single=_TURNED,
    methods=_TURNING,
    out=replace(_OUT, sources=_OUT.sources[::3]),
    out_methods=_some(_TURNING, "ERM", "SAM", "UDIM", "adversarial"),
    shift=_SHIFT,
    shift_methods=_PICTURING,
    normed=replace(_SHIFT, network_options={**_SMALL, "norm": "batch"}),
    photos=Task(
        "pacs",
        tuple((name,) for name in _PACS),
        {"size": 48, "limit": 1000},
        "small_cnn",
        {"widths": (16, 32, 64), "hidden": 64},
        steps=120,
        batch_size=32,
        eval_every=60,
    ),
    photo_methods=_PICTURING,
    photo_seeds=3,
    family={},
    ablations=(),
    rho_xs=(),
    lams=(),
    development=replace(_TURNED, options={**MIRRORED, **_MNIST}),
    development_out=replace(_OUT, sources=(("0", "-15", "-30"),), options={**MIRRORED, **_MNIST}),
    tuning_seeds=(100, 101),
    grids=_COARSE,
)
"""Rotated MNIST, CIFAR-10 under corruptions, PACS; recorded in notebooks/results/real.json: 41 minutes, one thread."""


def _benchmark(lr: float, rho_x: float, weight_decay: float) -> dict[str, Method]:
    """The methods of a benchmark's network, at options that nobody has tuned here."""
    found = {
        "ERM": Method("ERM", lr),
        "ERM, 6x steps": Method("ERM", lr, length=6),
        "SAM": Method("SAM", lr, {"rho": 0.05}),
        "UDIM": Method("UDIM", lr, {"rho": 0.05, "rho_x": rho_x}),
        "adversarial": Method("UDIM", lr, {**ADVERSARIAL, "rho_x": rho_x}, length=1.6),
        "SAGM": Method("SAGM", lr, {"rho": 0.05}),
    }
    return {name: replace(method, weight_decay=weight_decay) for name, method in found.items()}


_SCRATCH = _benchmark(0.05, 4.0, 5e-4)
_RESNET = Task(
    "pacs",
    tuple((name,) for name in _PACS),
    {"size": 64},
    "preact_resnet18",
    {"width": 32, "norm": "group"},
    steps=500,
    batch_size=96,
    eval_every=100,
    optimizer="sgd",
    schedule="cosine",
    augment=True,
)

GPU = replace(
    CPU,
    seeds=(0, 1, 2),
    few=3,
    single=_RESNET,
    methods=_some(_SCRATCH, "ERM", "ERM, 6x steps", "SAM", "UDIM", "adversarial"),
    out=replace(_RESNET, sources=leave_one_out(_PACS), batch_size=192),
    out_methods=_some(_SCRATCH, "ERM", "SAM", "SAGM", "UDIM", "adversarial"),
    shift=replace(_RESNET, domains="cifar10_c", sources=(("clean",),), options={}, steps=3000, batch_size=128),
    shift_methods=_some(_SCRATCH, "ERM", "SAM", "UDIM"),
    normed=replace(
        _RESNET,
        domains="cifar10_c",
        sources=(("clean",),),
        options={},
        network_options={"width": 32, "norm": "batch"},
        steps=1000,
        batch_size=128,
    ),
    family=_some(_SCRATCH, "SAGM"),
    ablations=(),
    rho_xs=(),
    lams=(),
    development=None,
    development_out=None,
)
"""PACS at 64 x 64 in both protocols, and CIFAR-10 under corruptions: meant for ten minutes on a GPU, not measured."""

_PRETRAINED = _benchmark(3e-5, 16.0, 1e-4)
_PAPER = Task(
    "pacs",
    tuple((name,) for name in _PACS),
    {"size": 224},
    "timm/resnet50",
    {"pretrained": True, "drop_rate": 0.0},
    steps=5000,
    batch_size=48,
    eval_every=300,
    augment=True,
    batch_norm="frozen",
)

FULL = replace(
    GPU,
    single=_PAPER,
    methods=_some(_PRETRAINED, "ERM", "ERM, 6x steps", "SAM", "UDIM", "adversarial"),
    out=replace(_PAPER, sources=leave_one_out(_PACS)),
    out_methods=_some(_PRETRAINED, "ERM", "SAM", "SAGM", "UDIM", "adversarial"),
    shift=replace(GPU.shift, steps=20_000),
    normed=replace(GPU.normed, steps=5000),
    family=_some(_PRETRAINED, "SAGM"),
)
"""The released code's rate, decay, batch and steps, for a ResNet-50 of timm whose BatchNorm is frozen for all methods.

The length of the perturbation is ours: the code's own is of another norm. timm fetches the pretrained weights.
"""
