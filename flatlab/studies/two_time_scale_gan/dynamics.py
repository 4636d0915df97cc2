"""The toys: what the theorem needs, what the paper's own toy shows, and Adam as a ball with friction."""

import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flatlab import gan
from flatlab.studies.two_time_scale_gan.settings import TwoTimeScaleGAN

GAME = (1.0, 2.0, 0.5)
"""a, b, c of the quadratic game; its critical ratio is 2."""
DECAYS = {"equal, .7": (0.7, 0.7), "equal, 1": (1.0, 1.0), "two, 1 and .7": (1.0, 0.7), "two, .9 and .6": (0.9, 0.6)}
"""Exponents of the generator's and of the critic's rate."""
SADDLE = {
    "one: .01": (1e-2, 1e-2),
    "one: .001": (1e-3, 1e-3),
    "two: .0001 and .01": (1e-4, 1e-2),
    "two: .01 and .0001": (1e-2, 1e-4),
    "one: .0001": (1e-4, 1e-4),
    "one: .009": (9e-3, 9e-3),
    "two: .001 and .01": (1e-3, 1e-2),
}
"""Rates (lr_x, lr_y) of the saddle toy: the paper's four, then ours."""
NEAR = 0.15


def _generator(cfg: TwoTimeScaleGAN) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * cfg.seeds[0] + cfg.data_seed)


def falling_steps(cfg: TwoTimeScaleGAN, game: tuple[float, float, float] = GAME) -> tuple[list[int], dict[str, Tensor]]:
    """Distances from the limit, of chains whose rates fall as the theorem wants, or both alike.

    Args:
        cfg: the settings.
        game: a, b, c.

    Returns:
        The steps looked at (W,), and name -> (chains, W).
    """
    looks = np.unique(np.geomspace(10, cfg.game_steps, 60).astype(int)).tolist()
    p, q = (torch.tensor(powers) for powers in zip(*DECAYS.values(), strict=True))
    paths = gan.quadratic_game(
        *game, 0.05, 0.05, cfg.game_steps, decay=(p, q, 100.0), runs=cfg.chains, record=looks, generator=_generator(cfg)
    )
    return looks, dict(zip(DECAYS, paths.norm(dim=-1), strict=True))


def closer(looks: Sequence[int], distances: Tensor) -> np.ndarray:
    """log10 of the last distance over that at a hundredth of the steps, one a chain.

    Args:
        looks: the steps (W,).
        distances: (chains, W); an infinite one counts as 10^300.
    """
    logs = distances.log10().clamp(max=300).nan_to_num(300)
    return (logs[:, -1] - logs[:, int(np.searchsorted(looks, looks[-1] // 100))]).numpy()


def settles(cfg: TwoTimeScaleGAN) -> pd.DataFrame:
    """Random games at random ratios of constant rates: does the critical ratio tell which of them settle?

    Ratios within a tenth of the critical one are left out; the rates are so small that the steps follow the flow, and
    there is no noise. A row has `ratio` over the critical one, and whether the distance from the limit fell.
    """
    generator = _generator(cfg)
    relative = 2 ** (4 * torch.rand(2 * cfg.games, generator=generator, dtype=torch.float64) - 2)
    relative = relative[(relative - 1).abs() > 0.1][: cfg.games]
    a, c, over = torch.rand(3, len(relative), generator=generator, dtype=torch.float64)
    a, c = 0.2 + 1.8 * a, 0.2 + 1.8 * c
    b = (a * c).sqrt() * (1.2 + 2 * over)
    critical = [gan.critical_ratio(*game) for game in torch.stack([a, b, c], 1).tolist()]
    lr_g = 1e-3 / a  # time in units of 1 / a, in which a slow game is not slow
    lr_d = relative * torch.tensor(critical, dtype=torch.float64) * lr_g
    path = gan.quadratic_game(a, b, c, lr_g, lr_d, 20_000, 0.0, record=range(0, 20_001, 100)).norm(dim=-1)
    first, last = path[:, :50].amax(1), path[:, -50:].amax(1)  # a distance swings: compare its largest values
    return pd.DataFrame({"ratio": relative, "settled": last < first, "foretold": relative > 1})


def saddle_table(cfg: TwoTimeScaleGAN) -> tuple[pd.DataFrame, Tensor]:
    """The paper's toy with noise: when a run first comes near the saddle, where it stays, and the exact deviation.

    Returns:
        One row a pair of rates and run: `hit`, the first step within 0.15 (the number of steps plus one for never),
        `tail`, the mean distance over the last fifth, and the deviation of y there over the exact one; and the paths of
        the first run (pairs, steps + 1, 2).
    """
    lr_x, lr_y = (torch.tensor(rates) for rates in zip(*SADDLE.values(), strict=True))
    paths = gan.saddle(lr_x, lr_y, cfg.saddle_steps, runs=cfg.saddle_runs, generator=_generator(cfg))
    distance = paths.norm(dim=-1)
    inside = distance < NEAR
    hits = torch.where(inside.any(-1), inside.int().argmax(-1), cfg.saddle_steps + 1)
    tail = slice(-cfg.saddle_steps // 5, None)
    tails, ends = distance[..., tail].mean(-1), paths[..., tail, 1].square().mean(-1).sqrt()
    frames = [
        pd.DataFrame(
            {"rates": name, "run": range(cfg.saddle_runs), "hit": hits[i], "tail": tails[i]}
            | {"deviation": ends[i] / gan.saddle_deviation(x, y)[1]}
        )
        for i, (name, (x, y)) in enumerate(SADDLE.items())
    ]
    return pd.concat(frames, ignore_index=True), paths[:, 0]


def flow_table(cfg: TwoTimeScaleGAN) -> pd.DataFrame:
    """The network flow: relative distance at the end, mean over the last tenth, one row a way and run."""
    n, frames = cfg.flow_steps, []
    looks = list(range(n - n // 10, n + 1, 10))
    ways = {
        "one, falling": (0.0, (0.7, 0.7, 100.0)),
        "one, falling faster": (0.0, (1.0, 1.0, 100.0)),
        "two, falling": (0.0, (1.0, 0.7, 100.0)),
        "two, reversed": (0.0, (0.7, 1.0, 100.0)),
        "one, bias .1": (0.1, (0.7, 0.7, 100.0)),
        "one, bias .5": (0.5, (0.7, 0.7, 100.0)),
    }
    for name, (bias, decay) in ways.items():
        found = gan.network_flow(
            0.05, 0.05, n, bias=bias, decay=decay, runs=cfg.flow_runs, record=looks, generator=_generator(cfg)
        )
        frames.append(pd.DataFrame({"way": name, "run": range(cfg.flow_runs), "distance": found.mean(-1)}))
    return pd.concat(frames, ignore_index=True)


def ripples(x: Tensor) -> Tensor:
    """The gradient of x^2 / 2 - cos(3 x) / 2."""
    return x + 1.5 * torch.sin(3 * x)


def ode_errors(cfg: TwoTimeScaleGAN) -> pd.DataFrame:
    """Largest distance of Adam with a frozen second moment from the ball's path, for several frictions and steps."""
    rows = []
    start = torch.linspace(2.1, 2.3, 5, dtype=torch.float64)
    for gamma in (0.3, 1.0, 3.0):
        for dt in (0.1, 0.05, 0.025, 0.0125):
            n, lr, beta1 = round(10 / dt), dt / gamma, 1 - gamma * dt
            path = gan.adam_path(ripples, start, lr=lr, betas=(beta1, 1.0), n=n, v=1.0, bias_correction=False, eps=0.0)
            ball, _ = gan.hbf_ode(ripples, start, gamma, torch.arange(n + 1) * dt)
            found = pd.DataFrame({"friction": gamma, "dt": dt, "start": start, "error": (path - ball).abs().amax(0)})
            rows.append(found)
    return pd.concat(rows, ignore_index=True)


def slopes(errors: pd.DataFrame) -> np.ndarray:
    """Log-log slope of the error in the time step, one a friction and start."""
    table = errors.pivot(index=["friction", "start"], columns="dt", values="error")
    x = np.log(table.columns.to_numpy(dtype=float))
    return np.log(table.to_numpy()) @ (x - x.mean()) / ((x - x.mean()) ** 2).sum()


def overshoots(cfg: TwoTimeScaleGAN) -> np.ndarray:
    """Random quadratics and beta1, with rates a tenth below and above the threshold: whether each did as foretold."""
    generator = _generator(cfg)
    beta = torch.empty(cfg.games, dtype=torch.float64).uniform_(0.3, 0.95, generator=generator).tolist()
    curvature = torch.randn(cfg.games, generator=generator, dtype=torch.float64).exp().tolist()
    found = []
    for b, k in zip(beta, curvature, strict=True):
        rate = torch.tensor([0.9, 1.1], dtype=torch.float64) * gan.overshoot_threshold(b) / k
        path = gan.adam_path(
            functools.partial(torch.mul, torch.tensor(k)), torch.ones(2, dtype=torch.float64), lr=rate, betas=(b, 1.0),
            n=600, v=1.0, eps=0.0, bias_correction=False,
        )  # fmt: skip
        below, above = (path.amin(0) < 0).tolist()
        found.append(above and not below)
    return np.array(found)


def correction_gaps(cfg: TwoTimeScaleGAN, beta1: float = 0.99) -> pd.DataFrame:
    """Adam in noise that holds its second moment still: how far the mean of its chains is from the ball's path.

    With and without the correction of the first moment's bias, which the paper's recursion leaves out; one row a way
    and group of chains.

    Args:
        cfg: the settings.
        beta1: of Adam.
    """
    rows, noise, groups, n, lr = [], 10.0, 10, 400, 0.02
    v = noise**2
    start = torch.full((groups, 200), 2.0, dtype=torch.float64)
    gamma, dt = gan.friction(lr, beta1, v), gan.time_step(lr, beta1, v)
    ball, _ = gan.hbf_ode(ripples, torch.tensor([2.0]), gamma, torch.arange(n + 1) * dt)
    for corrected in (False, True):
        path = gan.adam_path(
            ripples,
            start,
            lr=lr,
            betas=(beta1, 0.999),
            n=n,
            v=v,
            noise=noise,
            bias_correction=corrected,
            generator=_generator(cfg),
        )
        gaps = (path.mean(-1) - ball).abs().amax(0)
        rows += [{"corrected": corrected, "start": i, "gap": float(gap)} for i, gap in enumerate(gaps)]
    return pd.DataFrame(rows)


def passes(cfg: TwoTimeScaleGAN, betas: Sequence[float], rates: Sequence[float], noise: float = 0.3) -> pd.DataFrame:
    """Whether Adam rolls over the dip from each start left of it; one row a beta1, rate and start.

    Args:
        cfg: the settings.
        betas: beta1 of Adam.
        rates: of Adam.
        noise: in the gradient.
    """
    well, generator = gan.dip(), _generator(cfg)
    start = -4 + 3 * torch.rand(cfg.starts, generator=generator, dtype=torch.float64)
    rows = []
    for beta1 in betas:
        for lr in rates:
            path = gan.adam_path(
                well.gradient, start, lr=lr, betas=(beta1, 0.999), n=cfg.ball_steps, noise=noise, generator=generator
            )
            passed = well.basin(path[-1]) == len(well.minima) - 1
            rows.append(pd.DataFrame({"beta1": beta1, "lr": lr, "start": range(cfg.starts), "passed": passed.int()}))
    return pd.concat(rows, ignore_index=True)


def into_flat(cfg: TwoTimeScaleGAN, ways: Sequence[tuple[str, float, float]], noise: float = 0.5) -> pd.DataFrame:
    """Whether a ball ends in the flat one of two wells of equal depth, and whether the gradient flow would have.

    One row a way and start.

    Args:
        cfg: the settings.
        ways: ("Adam" or "momentum", beta1, rate).
        noise: in the gradient.
    """
    wells, generator = gan.equal_wells(), _generator(cfg)
    start = 7 * torch.rand(cfg.starts, generator=generator, dtype=torch.float64) - 3
    flow = (wells.basin(start) == 1).int()
    frames = []
    for kind, beta1, lr in ways:
        adam = kind == "Adam"
        path = gan.adam_path(
            wells.gradient, start, lr=lr, betas=(beta1, 0.999 if adam else 1.0), n=cfg.ball_steps,
            v=None if adam else 1.0, bias_correction=adam, noise=noise, generator=generator,
        )  # fmt: skip
        flat = (wells.basin(path[-1]) == 1).int()
        frames.append(
            pd.DataFrame(
                {"way": kind, "beta1": beta1, "lr": lr, "start": range(cfg.starts), "flat": flat, "flow": flow}
            )
        )
    return pd.concat(frames, ignore_index=True)
