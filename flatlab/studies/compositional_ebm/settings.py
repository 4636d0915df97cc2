"""Settings of 03_compositional_ebm.

Learning rates, the cap, the share of the defensive mixture and every threshold of the claims were fixed on the tuning
seeds (the share of the mixture on 100 to 103), with other points of the densities and with training images held out:
never on the seeds that are reported, nor on test images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from flatlab.train import Recipe


@dataclass(frozen=True)
class Noise:
    """N(0, s^2), or a mixture of it with `share` of N(0, wide^2)."""

    s: float
    share: float = 0.0
    wide: float = 1.0

    def __str__(self) -> str:
        return f"s = {self.s:g}" + (f", {self.share:.0%} of {self.wide:g}" if self.share else "")


MIXTURES = ((2.0, Noise(2.0, 0.25, 8.0)), (4.0, Noise(4.0, 0.25, 8.0)), (4.0, Noise(1.0, 0.25, 8.0)),
            (8.0, Noise(1.0, 0.25, 8.0)))  # fmt: skip
"""Distances and defensive mixtures: two where the noise was good already, two where it was not."""


def _adam(**options: Any) -> Recipe:
    return Recipe(schedule="cosine", grad_clip=None, **options)


@dataclass(frozen=True)
class CompositionalEBM:
    """Settings of one run.

    Attributes:
        seeds: of training sets and draws in one dimension, of networks and draws elsewhere; `tuning_seeds`: on which
            settings were fixed, and learning rates of the race are.
        data_seed: of points of the plane, of noise added to images, and of the fitted noises.
        distances: of data and noise at which exact descent is run, for at most `most_iterations`.
        race_distances, widths: R and s of the race; it also has `MIXTURES`. `race_steps`, `race_batch`: its steps, and
            data and draws in each; `sgd_rates`, `ngd_rates`: its grids.
        law_cases: (R, s) on which the law of the variance is checked; `law_steps`, `replicas`: with how many.
        planar_sets, planar_methods: densities of the plane, and losses; `planar_noises`: tried on the first of them.
        planar_points, planar_test: of each density; `planar_batch`: data, and draws, a step; `planar_cells`: of the
            grid for log Z, on each axis; `planar_net`, `planar_recipe`, `planar_rates`: network, and how it is trained.
        images, limits: image set, and how many of each split.
        dims: whitened principal components kept.
        foreign: (image set, split) of other images, brought to the size and the channels of these.
        noises: fitted to the images, the best last; `components` of the GMM; `flow`: options of its fit; `cached`:
            draws of it that are kept.
        cap: of g, in nats; `image_noise`: draws a step.
        image_net, image_recipe: network, and how it is trained; `image_rates`: by loss and noise.
        judge_recipe: of the classifier in whose features samples are judged.
        draws: for log Z of a model of images by importance sampling; `annealed`, `temperatures`: chains of annealed
            importance sampling, and their steps; `chain_steps`, `chain_eps`: of MALA.
        tune: choose the rates of the networks again.
    """

    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...] = (100, 101)
    data_seed: int = 0
    distances: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    most_iterations: int = 12_000
    race_distances: tuple[float, ...] = (1.0, 2.0, 4.0, 6.0, 8.0)
    widths: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    race_steps: int = 2000
    race_batch: int = 64
    sgd_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
    ngd_rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
    law_cases: tuple[tuple[float, float], ...] = ((0.5, 1.0), (1.0, 1.0), (1.0, 2.0), (2.0, 3.0))
    law_steps: int = 6400
    replicas: int = 1600
    planar_sets: tuple[str, ...] = ("8gaussians", "rings", "pinwheel")
    planar_methods: tuple[str, ...] = ("NCE", "eNCE", "MECO", "MECO, gamma 1", "SNL", "PCD", "DSM")
    planar_noises: tuple[str, ...] = ("wide", "box", "narrow", "narrow + wide", "GMM", "GMM + wide")
    planar_points: int = 9984
    planar_test: int = 5000
    planar_batch: int = 256
    planar_cells: int = 400
    planar_net: Mapping[str, Any] = field(
        default_factory=lambda: {"widths": (64, 64), "activation": "silu", "fourier": 32, "scale": 2.0}
    )
    planar_recipe: Recipe = field(default_factory=lambda: _adam(epochs=20, batch_size=256))
    planar_rates: Mapping[str, float] = field(
        default_factory=lambda: (
            dict.fromkeys(("NCE", "eNCE", "MECO", "MECO, gamma 1", "SNL", "DSM"), 1e-2) | {"PCD": 2e-2}
        )
    )
    images: str = "digits"
    limits: Mapping[str, int | None] = field(default_factory=lambda: {"train": None, "test": None})
    dims: int = 16
    foreign: tuple[tuple[str, str], ...] = ()
    noises: tuple[str, ...] = ("Gaussian", "GMM")
    components: int = 10
    flow: Mapping[str, Any] = field(default_factory=dict)
    cached: int = 100_000
    cap: float = 6.0
    image_noise: int = 512
    image_net: Mapping[str, Any] = field(default_factory=lambda: {"widths": (128, 128), "activation": "silu"})
    image_recipe: Recipe = field(default_factory=lambda: _adam(epochs=70, batch_size=120, optimizer=torch.optim.AdamW))
    image_rates: Mapping[tuple[str, str], float] = field(
        default_factory=lambda: {
            ("NCE", "Gaussian"): 1.6e-2,
            ("MECO", "Gaussian"): 8e-3,
            ("MECO, gamma 1", "Gaussian"): 4e-3,
            ("NCE", "GMM"): 8e-3,
            ("MECO", "GMM"): 8e-3,
            ("MECO, gamma 1", "GMM"): 8e-3,
        }
    )
    judge_recipe: Recipe = field(default_factory=lambda: Recipe(epochs=40, batch_size=64, lr=3e-3))
    draws: int = 400_000
    annealed: int = 600
    temperatures: int = 300
    chain_steps: int = 150
    chain_eps: float = 0.25
    tune: bool = False

    @property
    def cases(self) -> tuple[tuple[float, Noise], ...]:
        """All distances and noises of the race."""
        return (*((R, Noise(s)) for R in self.race_distances for s in self.widths), *MIXTURES)


CPU = CompositionalEBM(seeds=(0, 1, 2, 3, 4, 5))
"""Recorded in notebooks/results/cpu.json: six minutes with one thread of a server's CPU, beside other work."""

QUICK = CompositionalEBM(
    seeds=(0, 1, 2),
    distances=(2.0, 4.0, 8.0),
    most_iterations=5000,
    race_distances=(2.0, 4.0, 8.0),
    race_steps=800,
    sgd_rates=(1e-3, 1e-2, 0.1, 1.0, 10.0),
    ngd_rates=(1e-2, 0.1, 1.0),
    law_cases=((0.5, 1.0), (1.0, 2.0)),
    law_steps=1600,
    replicas=400,
    planar_sets=("8gaussians", "pinwheel"),
    planar_methods=("NCE", "MECO", "MECO, gamma 1", "PCD"),
    planar_noises=("wide", "narrow", "narrow + wide", "GMM", "GMM + wide"),
    planar_cells=200,
    planar_recipe=_adam(epochs=8, batch_size=256),
    image_recipe=_adam(epochs=25, batch_size=120, optimizer=torch.optim.AdamW),
    image_rates={(m, q): 8e-3 for q in ("Gaussian", "GMM") for m in ("NCE", "MECO")},
    draws=50_000,
    annealed=500,
    temperatures=200,
    chain_steps=100,
)

REAL = replace(
    CPU,
    seeds=tuple(range(10)),
    images="mnist",
    limits={"train": 20_000, "test": 2000},
    dims=32,
    foreign=(("cifar10", "test"), ("pacs", "train")),
    noises=("Gaussian", "GMM", "flow"),
    components=20,
    flow={"layers": 8, "width": 128, "epochs": 40, "batch_size": 256, "lr": 1e-3},
    image_recipe=_adam(epochs=20, batch_size=125, optimizer=torch.optim.AdamW),
    image_rates={
        ("NCE", "Gaussian"): 1.6e-2,
        ("MECO", "Gaussian"): 8e-3,
        ("MECO, gamma 1", "Gaussian"): 2.5e-4,
        ("NCE", "GMM"): 1.6e-2,
        ("MECO", "GMM"): 1.6e-2,
        ("MECO, gamma 1", "GMM"): 8e-3,
        ("NCE", "flow"): 8e-3,
        ("MECO", "flow"): 1.6e-2,
        ("MECO, gamma 1", "flow"): 2e-3,
    },
    judge_recipe=Recipe(epochs=3, batch_size=64, lr=3e-3),
    draws=1_000_000,
    annealed=1500,
)
"""Recorded in notebooks/results/real.json: 28 minutes with one thread, from MNIST in 32 components."""

GPU = replace(
    REAL,
    race_steps=20_000,
    replicas=5000,
    planar_sets=("8gaussians", "rings", "checkerboard", "moons", "pinwheel"),
    planar_points=102_400,
    planar_batch=1024,
    planar_recipe=_adam(epochs=200, batch_size=1024),
    planar_net={"widths": (256,) * 4, "activation": "silu", "fourier": 64, "scale": 2.0},
    limits={"train": None, "test": None},
    dims=64,
    components=20,
    flow={"layers": 8, "width": 256, "epochs": 60, "batch_size": 1024, "lr": 1e-3},
    cap=10.0,
    image_noise=2048,
    image_net={"widths": (512,) * 3, "activation": "silu"},
    image_recipe=_adam(epochs=170, batch_size=512, optimizer=torch.optim.AdamW),
    draws=1_000_000,
    annealed=5000,
    temperatures=1000,
)
"""MNIST in 64 components, or CIFAR-10 with images="cifar10": meant for ten minutes on one GPU, and not measured yet."""

FULL = replace(
    GPU,
    distances=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0),
    most_iterations=1_000_000,
    race_distances=(1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0),
    widths=(1.0, 2.0, 4.0, 8.0, 16.0, 32.0),
    images="cifar10",
    dims=128,
)
"""As far as the paper's abstract says: its data sets, networks and rates for images are not known to us."""
