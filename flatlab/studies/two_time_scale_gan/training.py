"""Every GAN that the notebook trains: grids of rates, and arms of WGAN-GP at equal operations, on images and text."""

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from flatlab import data, gan, metrics, stats
from flatlab.studies.two_time_scale_gan.settings import Arm, Arms, Pair, Plan, TwoTimeScaleGAN

Score = Callable[[Tensor], Mapping[str, float]]
SYMBOLS = " " + string.ascii_lowercase
WORST = 1.0
"""What a run that diverged counts as: log10 of a FID ten times the variance of the features, or a JSD of 1."""


class Images:
    """Training and test images, uint8 and in [-1, 1].

    Attributes:
        train, test: image sets, on `device`.
        shape, classes: of an image, and how many.
        signed: training images in [-1, 1].
    """

    def __init__(self, cfg: TwoTimeScaleGAN, *, root: str | None = None, device: str | torch.device = "cpu") -> None:
        """Load the images.

        Args:
            cfg: the settings.
            root: folder of the data; None for $FLATLAB_DATA.
            device: where to train.
        """
        self.device = torch.device(device)
        self.train, self.test = (
            replace(found, x=found.x.to(device), y=found.y.to(device))
            for found in (
                data.load_images(cfg.images, split, root=root, limit=limit, size=cfg.size)
                for split, limit in cfg.limits.items()
            )
        )
        self.shape, self.classes = tuple(self.train.x.shape[1:]), len(self.train.classes)
        self.signed = self.train.x.float() / 127.5 - 1


class Texts:
    """Windows of a text in 27 symbols, lower-case letters and a space for all that is none.

    Attributes:
        real: all windows of the training text as ones and zeros, (N, 27, length).
        floor: JSD of n-grams, by name, of as many held-out windows as are generated, which are real.
    """

    def __init__(self, cfg: TwoTimeScaleGAN, *, root: str | None = None, device: str | torch.device = "cpu") -> None:
        """Load the text.

        Args:
            cfg: the settings.
            root: folder of the data; None for $FLATLAB_DATA.
            device: where to train.
        """
        codes, held = (self._codes(cfg, split, root) for split in ("train", "validation"))
        self.real = gan.one_hot(codes.unfold(0, cfg.length, 1), len(SYMBOLS)).to(device)
        self.frequencies = {n: metrics.ngram_frequencies(codes[None], n) for n in cfg.grams}
        windows = held.unfold(0, cfg.length, 1)
        some = torch.randperm(len(windows), generator=torch.Generator().manual_seed(cfg.data_seed))
        self.floor = self.compare(windows[some[: cfg.text.plan.samples]])

    def compare(self, codes: Tensor) -> dict[str, float]:
        """JSD of the n-grams of codes (N, length) from those of the training text, by n."""
        return {f"JSD-{n}": metrics.ngram_jsd(real, codes.cpu(), n) for n, real in self.frequencies.items()}

    def score(self, samples: Tensor) -> dict[str, float]:
        """The same of generated texts (N, 27, length): the likeliest symbol at each place."""
        return self.compare(samples.argmax(1))

    @staticmethod
    def spell(samples: Tensor) -> list[str]:
        """Generated texts as strings."""
        return ["".join(SYMBOLS[code] for code in row) for row in samples.argmax(1).tolist()]

    @staticmethod
    def _codes(cfg: TwoTimeScaleGAN, split: str, root: str | None) -> Tensor:
        plain = re.sub("[^a-z]+", " ", data.load_text(cfg.text_set, split, root=root).decode().lower())
        return torch.tensor([SYMBOLS.index(character) for character in plain])


def players(plan: Plan, shape: Sequence[int], device: str | torch.device = "cpu") -> gan.Players:
    """What makes the generator and the critic of a seed; it leaves torch's global stream alone.

    Args:
        plan: which players.
        shape: (C, H, W) of an image, or (symbols, length) of a text.
        device: where they are to be.
    """

    def made(seed: int) -> tuple[nn.Module, nn.Module]:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            both = _PLAYERS[plan.kind](plan, *shape)
        return both[0].to(device), both[1].to(device)

    return made


class Contest:
    """A grid of rates: each arm chooses its pair on seeds of its own, and the chosen pairs meet on fresh ones.

    Attributes:
        selection: one row a pair, selecting seed and look.
        fresh: one row an arm, seed and look.
        chosen: arm -> what it chose, and its scores on the fresh seeds.
        sheets: arm -> samples of the first fresh seed.
    """

    def __init__(
        self, plan: Plan, images: Images, score: Score, *, select_seeds: Sequence[int], seeds: Sequence[int]
    ) -> None:
        """Train.

        Args:
            plan: players, pairs, looks.
            images: to learn.
            score: of samples in [-1, 1]: its "log" chooses and is compared.
            select_seeds: of the runs that choose; `seeds`: of the others.
            seeds: of the fresh runs.
        """
        run = partial(
            gan.lr_grid, players(plan, images.shape, images.device), images.signed, at=plan.at, score=score,
            batch_size=plan.batch_size, samples=plan.samples, options=plan.options,
        )  # fmt: skip
        rows = run(plan.pairs, seeds=select_seeds).rows
        best = {arm: pair for arm, (pair, _) in gan.best_pairs(rows, "log", seeds=select_seeds).items()}
        found = run(list(dict.fromkeys(best.values())), seeds=seeds)
        self.selection, tested = pd.DataFrame(rows), pd.DataFrame(found.rows)
        pairs = pd.MultiIndex.from_frame(tested[["lr_d", "lr_g"]])
        self.fresh = pd.concat([tested[pairs == pair].assign(arm=arm) for arm, pair in best.items()])
        self.chosen = gan.select_then_test(rows + found.rows, "log", select_seeds=select_seeds, test_seeds=seeds)
        self.sheets = {arm: found.sheets[*pair, seeds[0]] for arm, pair in best.items()}

    def logs(self, arm: str, look: int | None = -1) -> np.ndarray:
        """log10 of FID over tr C, one number a fresh seed, `WORST` at most and for a run that diverged.

        Args:
            arm: which.
            look: its number; None for the best look of each run, as the paper has it, also of one that diverged later.
        """
        table = self.fresh[self.fresh["arm"] == arm].pivot(index="seed", columns="update", values="log")
        values = table.min(axis=1) if look is None else table.iloc[:, look]
        return filled(values.to_numpy(dtype=float))

    def summary(self) -> pd.DataFrame:
        """Arm by arm: its rates, and FID over tr C where it was chosen, on fresh seeds (geometric means), at best."""
        rows = {
            arm: {"lr_d": chosen.lr_d, "lr_g": chosen.lr_g, "choosing seeds": 10**chosen.selected}
            | {"fresh seeds": 10 ** self.logs(arm).mean(), "best fresh run": 10 ** self.logs(arm).min()}
            for arm, chosen in self.chosen.items()
        }
        return pd.DataFrame(rows).T

    def less(self, a: str, b: str, look: int | None = -1) -> stats.Estimate | None:
        """log10 FID of one arm less that of another, paired over fresh seeds; None where an arm has no pairs."""
        if a not in self.chosen or b not in self.chosen:
            return None
        return stats.paired_difference(self.logs(a, look), self.logs(b, look))


def arms(found: Arms, real: Tensor, score: Score, seeds: Sequence[int]) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Train each arm, and look at equal numbers of operations.

    Args:
        found: the arms.
        real: images or texts, (N, ...) in [-1, 1].
        score: of samples.
        seeds: of the runs.

    Returns:
        One row an arm, seed and look, with `giga` operations; and samples of the first seed by arm.
    """
    frames, sheets = [], {}
    for name, arm in found.arms.items():
        made = arm_grid(found, arm, real, score, seeds, [(arm.lr_d, arm.lr_g)])
        frames.append(pd.DataFrame(made.rows).assign(arm=name))
        sheets[name] = made.sheets[arm.lr_d, arm.lr_g, seeds[0]]
    return pd.concat(frames, ignore_index=True), sheets


def arm_grid(
    found: Arms, arm: Arm, real: Tensor, score: Score, seeds: Sequence[int], pairs: Sequence[Pair]
) -> gan.Grid:
    """Pairs of rates at an arm's steps of the critic, looked at where the arms' operations are spent.

    Args:
        found: the arms it is one of.
        arm: for its steps of the critic.
        real, score, seeds: as in `arms`.
        pairs: (lr_d, lr_g).
    """
    plan = found.plan
    make = players(plan, real.shape[1:], real.device)
    options = {**plan.options, "n_critic": arm.n_critic}
    alone, both = gan.TTUR(*make(0), lr_g=arm.lr_g, lr_d=arm.lr_d, **options).operations(real[: plan.batch_size])
    round_of = alone * (arm.n_critic - 1) + both
    looks = [max(1, round(giga * 1e9 / round_of)) * arm.n_critic for giga in found.giga]
    made = gan.lr_grid(
        make, real, pairs, seeds=seeds, at=looks, score=score, batch_size=plan.batch_size, samples=plan.samples,
        options=options,
    )  # fmt: skip
    giga = dict(zip(looks, found.giga, strict=True))
    return replace(made, rows=[row | {"giga": giga[row["update"]]} for row in made.rows])


def filled(values: np.ndarray) -> np.ndarray:
    """`WORST` for runs that diverged, and for whatever is worse."""
    return np.minimum(np.nan_to_num(values, nan=WORST), WORST)


def ahead(rows: pd.DataFrame, a: str, b: str, column: str, giga: float) -> stats.Estimate:
    """A number of one arm less that of another at equal operations, paired over seeds.

    Args:
        rows: of `arms`.
        a, b: names of the arms.
        column: the number.
        giga: which look.
    """
    return stats.paired_difference(*(filled(by_seed(rows, column, arm=name, giga=giga)) for name in (a, b)))


def by_seed(rows: pd.DataFrame, column: str, **where: Any) -> np.ndarray:
    """One value a seed, in the order of the seeds, of the rows where the columns have the values asked for.

    Args:
        rows: with a column `seed`, each seed once where the others match.
        column: which values.
        **where: column -> value.
    """
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return rows.sort_values("seed")[column].to_numpy(dtype=float)


def _image_players(generator: type, critic: type) -> Callable[..., tuple[nn.Module, nn.Module]]:
    def made(plan: Plan, channels: int, size: int, _: int) -> tuple[nn.Module, nn.Module]:
        given = {"norm": False} if plan.kind == "dcgan" and plan.options.get("loss") == "wgan-gp" else {}
        return generator(size, channels, plan.z_dim, plan.width), critic(size, channels, plan.width, **given)

    return made


def _text_players(generator: type, critic: type) -> Callable[..., tuple[nn.Module, nn.Module]]:
    def made(plan: Plan, symbols: int, length: int) -> tuple[nn.Module, nn.Module]:
        size = {"width": plan.width, **({"blocks": plan.blocks} if plan.kind == "text" else {})}
        return generator(length, symbols, plan.z_dim, **size), critic(length, symbols, **size)

    return made


_PLAYERS = {
    "mlp": _image_players(gan.MLPGenerator, gan.MLPDiscriminator),
    "dcgan": _image_players(gan.DCGANGenerator, gan.DCGANDiscriminator),
    "resnet": _image_players(gan.ResNetGenerator, gan.ResNetDiscriminator),
    "text mlp": _text_players(gan.MLPTextGenerator, gan.MLPTextDiscriminator),
    "text": _text_players(gan.TextGenerator, gan.TextDiscriminator),
}
