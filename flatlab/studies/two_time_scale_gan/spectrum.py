"""The spectrum of trained games: does it say which pairs of rates fail?

Two small players are trained, and the Jacobian of their joint vector field is looked at where training stopped, as the
optimizer scales it: each weight by its rate over the root of Adam's second moment. A leading real part above zero says
that steps in those proportions part from each other there.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flatlab import gan
from flatlab.studies.two_time_scale_gan.settings import Pair, Plan
from flatlab.studies.two_time_scale_gan.training import Images, Score, filled, players


def trained_game(plan: Plan, images: Images, pair: Pair, seed: int) -> tuple[gan.TTUR, gan.Game, Tensor]:
    """Players trained at a pair of rates, their game on a fixed batch in float64, and Adam's scale of each weight.

    The scale is 1 over the root of the corrected second moment: rates are to be multiplied by it.

    Args:
        plan: players, and how long.
        images: to learn.
        pair: (lr_d, lr_g).
        seed: of the run.
    """
    pick = torch.Generator().manual_seed(seed)
    G, D = players(plan, images.shape, images.device)(seed)
    found = gan.TTUR(G, D, lr_d=pair[0], lr_g=pair[1], seed=seed, **plan.options)
    for _ in range(plan.at[-1]):
        found.step(images.signed[torch.randint(len(images.signed), (plan.batch_size,), generator=pick)])
    roots = []
    for player in (found.critic, found.generator):
        for p in player.parameters:
            state = player.optimizer.state[p]
            second = state["exp_avg_sq"] / (1 - found.betas[1] ** float(state["step"]))
            roots.append(second.sqrt().flatten().double() + 1e-8)
    batch = images.signed[torch.randint(len(images.signed), (512,), generator=pick)].double()
    z = torch.randn(512, plan.z_dim, generator=pick, dtype=torch.float64).to(images.device)
    loss = gan.LOSSES[found.loss]
    game = gan.Game(
        found.D.double(),
        found.G.double(),
        lambda D, G: loss.critic(D(batch).flatten(), D(G(z)).flatten()).mean(),
        lambda D, G: loss.generator(D(batch).flatten(), D(G(z)).flatten()).mean(),
    )
    return found, game, 1 / torch.cat(roots)


def leading(game: gan.Game, scale: Tensor, pair: Pair) -> float:
    """The largest real part of the spectrum at a pair of rates, in units of 1 / step.

    Args:
        game: the players where they stand.
        scale: of each weight.
        pair: (lr_d, lr_g).
    """
    found = gan.leading_eigenvalues(game.field, game.point, k=2, scale=scale * game.rates(*pair), tol=1e-3)
    return float(found[0].real)


def table(plan: Plan, images: Images, score: Score, base: Pair, seeds: Sequence[int]) -> pd.DataFrame:
    """For each pair: the leading real part where a run at the base pair ended, and how well runs at the pair itself do.

    Args:
        plan: players and pairs.
        images: to learn.
        score: of samples.
        base: the pair at which the game is trained whose spectrum is taken.
        seeds: of the runs.
    """
    rows = gan.lr_grid(
        players(plan, images.shape, images.device), images.signed, plan.pairs, seeds=seeds, at=plan.at, score=score,
        batch_size=plan.batch_size, samples=plan.samples, options=plan.options,
    ).rows  # fmt: skip
    games = {seed: trained_game(plan, images, base, seed)[1:] for seed in seeds}
    ends = [leading(*games[row["seed"]], (row["lr_d"], row["lr_g"])) for row in rows]
    return pd.DataFrame(rows).assign(leading=ends)


def points(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds of `table`, one row a pair: `leading`, `log` of FID, `ratio`, and `per rate`.

    Twice the rates have twice the eigenvalues: `per rate` is the leading part over the geometric mean of both.
    """
    table = table.assign(log=filled(table["log"].to_numpy()))
    found = table.groupby(["lr_d", "lr_g"], as_index=False)[["leading", "log"]].mean()
    found["ratio"] = (found["lr_d"] / found["lr_g"]).round(3)
    found["per rate"] = found["leading"] / np.sqrt(found["lr_d"] * found["lr_g"])
    return found
