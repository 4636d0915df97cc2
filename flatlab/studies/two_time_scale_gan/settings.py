"""Settings of 07_two_time_scale_gan.

Sizes, the grids of rates, the rates of the arms and every threshold of the claims were fixed on the selection seeds and
on tuning seeds, and rehearsed on others: never on the seeds that are reported. FIDs are taken against training images,
as the paper does; test images serve only for the floor beside them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flatlab.train import Recipe

Pair = tuple[float, float]


def crossed(*rates: float) -> tuple[Pair, ...]:
    """Every pair (lr_d, lr_g) of these rates."""
    return tuple((lr_d, lr_g) for lr_d in rates for lr_g in rates)


@dataclass(frozen=True)
class Plan:
    """Two players, the pairs of rates that are tried on them, and how long.

    Attributes:
        kind: "mlp", "dcgan" or "resnet" for images, "text mlp" or "text" for texts.
        pairs: (lr_d, lr_g).
        at: updates at which samples are scored.
        z_dim, width: of the players.
        blocks: of the convolutional players of text.
        options: of `flatlab.gan.TTUR`.
        batch_size: of a step.
        samples: scored.
    """

    kind: str
    pairs: tuple[Pair, ...]
    at: tuple[int, ...]
    z_dim: int = 16
    width: int = 64
    blocks: int = 5
    options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 64
    samples: int = 1200


@dataclass(frozen=True)
class Arm:
    """A way to train WGAN-GP: steps of the critic for each of the generator, and the rates found for it."""

    n_critic: int
    lr_d: float
    lr_g: float


@dataclass(frozen=True)
class Arms:
    """Ways to train WGAN-GP with equal numbers of operations.

    Attributes:
        plan: the players; its `pairs` and `at` are not used.
        arms: name -> arm.
        tried: rates of the generator that `tune=True` tries for each arm, at its own n_critic and ratio.
        giga: looks, in units of 10^9 floating-point operations.
        seeds: how many of the study's seeds.
    """

    plan: Plan
    arms: Mapping[str, Arm]
    tried: tuple[float, ...]
    giga: tuple[float, ...]
    seeds: int


WGAN_GP = {"loss": "wgan-gp", "betas": (0.0, 0.9)}
WGAN_TEXT = {"loss": "wgan-gp", "betas": (0.5, 0.9)}


@dataclass(frozen=True)
class TwoTimeScaleGAN:
    """Settings of one run.

    Attributes:
        seeds: of players, batches, noise, chains and starts; `select_seeds`: on which pairs of rates are chosen;
            `tuning_seeds`: on which `tune=True` finds the rates of the arms.
        data_seed: of what all seeds share.
        chains, game_steps: of the quadratic game; `games`: random games, of which each is simulated at `game_rate`.
        saddle_runs, saddle_steps: of the paper's toy; `flow_runs`, `flow_steps`: of the network flow.
        starts: of balls that meet a dip or two wells; `ball_steps`: how long.
        images, size, limits: image set, pixels a side (None: its own), and how many images of each split.
        judges, judge_model, judge_options, judge_recipe: classifiers in whose features images are judged, the first of
            them for all GANs; their architecture, and how they are trained.
        inception: file of Inception's weights in torch-fidelity's format: GANs of colour images are then judged by it.
        other: (image set, split) that contaminates; None for smooth textures.
        bias_sizes, bias_draws: of samples for the bias of FID, and how many draws of each.
        coverage: simulated pairs of generators for the interval of `fid_difference`.
        grid: the grid of rates.
        conv, conv_seeds: a second grid, with convolutional players, and how many of the seeds; None for none.
        wgan, text: arms of WGAN-GP on images and on texts.
        text_set, length: text, and characters of a window; `grams`: sizes of n-grams, the last of which is judged.
        spectrum: players whose joint spectrum is taken, and the pairs of rates that it is to sort; `spectrum_seeds`:
            how many of the seeds.
        tune: find the rates of the arms again.
    """

    seeds: tuple[int, ...]
    select_seeds: tuple[int, ...] = (100, 101, 102)
    tuning_seeds: tuple[int, ...] = (200, 201, 202)
    data_seed: int = 0
    chains: int = 100
    game_steps: int = 100_000
    games: int = 200
    saddle_runs: int = 200
    saddle_steps: int = 5000
    flow_runs: int = 50
    flow_steps: int = 20_000
    starts: int = 400
    ball_steps: int = 3000
    images: str = "digits"
    size: int | None = None
    limits: Mapping[str, int | None] = field(default_factory=lambda: {"train": None, "test": None})
    judges: int = 5
    judge_model: str = "small_cnn"
    judge_options: Mapping[str, Any] = field(default_factory=lambda: {"hidden": 64})
    judge_recipe: Recipe = field(default_factory=lambda: Recipe(epochs=40, batch_size=64, lr=3e-3))
    inception: str = ""
    other: tuple[str, str] | None = None
    bias_sizes: tuple[int, ...] = (75, 150, 300, 600)
    bias_draws: int = 100
    coverage: int = 400
    grid: Plan = field(
        default_factory=lambda: Plan("mlp", crossed(2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2), (125, 250, 500, 1000, 1500))
    )
    conv: Plan | None = field(
        default_factory=lambda: Plan("dcgan", crossed(1e-3, 3e-3), (150, 300, 600), z_dim=16, width=16)
    )
    conv_seeds: int = 5
    wgan: Arms = field(
        default_factory=lambda: Arms(
            Plan("mlp", (), (), options=WGAN_GP),
            {"5:1": Arm(5, 2e-3, 2e-3), "1:1, 3x": Arm(1, 6e-3, 2e-3), "1:1": Arm(1, 4e-3, 4e-3)},
            (5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
            (10, 20, 40, 80),
            8,
        )
    )
    text: Arms = field(
        default_factory=lambda: Arms(
            Plan("text mlp", (), (), z_dim=32, width=128, options=WGAN_TEXT, samples=2000),
            {"10:1": Arm(10, 3e-3, 3e-3), "1:1, 3x": Arm(1, 9e-4, 3e-4), "1:1": Arm(1, 1e-2, 1e-2)},
            (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
            (12, 25, 50, 100),
            5,
        )
    )
    text_set: str = "python_topics"
    length: int = 6
    grams: tuple[int, ...] = (1, 2, 3, 4)
    spectrum: Plan = field(
        default_factory=lambda: Plan("mlp", crossed(2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2), (1000,), z_dim=8, width=16)
    )
    spectrum_seeds: int = 2
    tune: bool = False


CPU = TwoTimeScaleGAN(seeds=tuple(range(8)))
"""Recorded in notebooks/results/cpu.json; 251 seconds with one thread that has a core to itself."""

QUICK = replace(
    CPU,
    seeds=(0, 1, 2, 3),
    select_seeds=(100, 101),
    game_steps=20_000,
    flow_steps=5000,
    judges=3,
    judge_recipe=Recipe(epochs=20, batch_size=64, lr=3e-3),
    bias_draws=40,
    coverage=160,
    grid=replace(CPU.grid, pairs=crossed(5e-3, 1e-2, 2e-2), at=(125, 250, 500)),
    conv=None,
    wgan=replace(CPU.wgan, giga=(5, 10), seeds=4),
    text=replace(CPU.text, giga=(15, 30), seeds=3),
    spectrum=replace(CPU.spectrum, pairs=crossed(5e-3, 1e-2, 2e-2), at=(400,)),
    spectrum_seeds=1,
)

REAL = replace(
    CPU,
    select_seeds=(100, 101),
    images="mnist",
    size=16,
    limits={"train": 20_000, "test": 5000},
    judge_recipe=Recipe(epochs=3, batch_size=64, lr=3e-3),
    other=("cifar10", "test"),
    bias_sizes=(250, 500, 1000, 2000),
    grid=Plan(
        "dcgan", ((1e-3, 1e-3), (3e-4, 3e-4), (1e-3, 3e-4), (3e-4, 1e-3)), (250, 500, 1000, 2000), z_dim=32, width=16,
        samples=2000,
    ),
    conv=None,
    wgan=Arms(
        Plan("dcgan", (), (), z_dim=32, width=16, options=WGAN_GP, samples=2000),
        {"5:1": Arm(5, 4e-3, 4e-3), "1:1, 3x": Arm(1, 6e-3, 2e-3), "1:1": Arm(1, 8e-3, 8e-3)},
        (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
        (125, 250, 500, 1000),
        8,
    ),
    text=Arms(
        Plan("text", (), (), z_dim=64, width=48, blocks=2, options=WGAN_TEXT, samples=2000),
        {"10:1": Arm(10, 4e-3, 4e-3), "1:1, 3x": Arm(1, 3e-3, 1e-3), "1:1": Arm(1, 2e-3, 2e-3)},
        (5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
        (250, 500, 1000, 2000),
        5,
    ),
    text_set="tiny_shakespeare",
    length=16,
    spectrum_seeds=3,
)  # fmt: skip
"""Recorded in notebooks/results/real.json: 32 minutes with one thread, and 6 GB for the windows of the text."""

GPU = replace(
    REAL,
    seeds=(0, 1, 2),
    select_seeds=(100,),
    images="cifar10",
    size=None,
    limits={"train": None, "test": None},
    judge_model="preact_resnet18",
    judge_options={},
    judge_recipe=Recipe(epochs=15, batch_size=128, lr=1e-3, schedule="cosine"),
    judges=3,
    other=("pacs", "train"),
    bias_sizes=(2500, 5000, 10_000),
    bias_draws=20,
    coverage=40,
    grid=Plan(
        "dcgan", ((1e-4, 1e-4), (2e-4, 2e-4), (5e-4, 5e-4), (1e-4, 5e-4), (4e-4, 1e-4)), (2500, 5000, 10_000, 15_000),
        z_dim=100, width=64, samples=10_000,
    ),
    wgan=Arms(
        Plan("resnet", (), (), z_dim=128, width=64, options=WGAN_GP, samples=10_000),
        {"5:1": Arm(5, 1e-4, 1e-4), "1:1, 3x": Arm(1, 3e-4, 1e-4), "1:1": Arm(1, 1e-4, 1e-4)},
        (5e-5, 1e-4, 2e-4),
        (50_000, 100_000, 200_000, 400_000),
        3,
    ),
    text=Arms(
        Plan("text", (), (), z_dim=128, width=256, blocks=3, options=WGAN_TEXT, samples=5000),
        {"10:1": Arm(10, 1e-4, 1e-4), "1:1, 3x": Arm(1, 3e-4, 1e-4), "1:1": Arm(1, 1e-4, 1e-4)},
        (5e-5, 1e-4, 2e-4),
        (20_000, 40_000, 80_000, 160_000),
        3,
    ),
    length=32,
    grams=(1, 2, 3, 4, 5, 6),
)  # fmt: skip
"""CIFAR-10 at 32 x 32: meant for ten minutes on one GPU, and not measured yet. The paper's rates, not tuned."""

FULL = replace(
    GPU,
    seeds=tuple(range(8)),
    select_seeds=(100, 101, 102),
    grid=replace(GPU.grid, at=(5000, 25_000, 50_000, 75_000, 100_000), samples=50_000),
    wgan=replace(
        GPU.wgan,
        plan=replace(GPU.wgan.plan, width=128, samples=50_000),
        giga=(10_000_000, 20_000_000, 40_000_000, 80_000_000),
        seeds=8,
    ),
    text=replace(
        GPU.text,
        plan=replace(GPU.text.plan, width=512, blocks=5),
        giga=(2_500_000, 5_000_000, 10_000_000, 20_000_000),
        seeds=8,
    ),
)
"""The paper's DCGAN, WGAN-GP and text players at their widths, on CIFAR-10 and Tiny Shakespeare: its faces, bedrooms
and billion words are not at hand. With `inception` its features as well. Not run."""
