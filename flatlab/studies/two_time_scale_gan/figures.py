"""Figures that only this notebook draws, on axes that it makes."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flatlab import gan, metrics, plots
from flatlab.plots import Axes
from flatlab.studies.two_time_scale_gan.dynamics import GAME, SADDLE
from flatlab.studies.two_time_scale_gan.settings import TwoTimeScaleGAN
from flatlab.studies.two_time_scale_gan.training import Contest


def phases(axes: Sequence[Axes], ratios: Sequence[float]) -> None:
    """The flow of the quadratic game, and a path from (1, 0), one axes a ratio of the critic's rate."""
    a, b, c = GAME
    theta, w = np.meshgrid(np.linspace(-1.5, 1.5, 30), np.linspace(-1.5, 1.5, 30))
    for ax, ratio in zip(axes, ratios, strict=True):
        path = gan.quadratic_game(a, b, c, 1e-3, ratio * 1e-3, 12_000, 0.0)
        field = a * theta - b * w, ratio * (b * theta - c * w)
        ax.streamplot(theta, w, *field, color="0.75", density=0.7, linewidth=0.7)
        ax.plot(*path[path.norm(dim=1) < 2.2].T, lw=2)
        ax.plot(0, 0, "*", color="red", markersize=10)
        ax.set(xlabel="generator", ylabel="critic", title=f"critic's rate / generator's = {ratio:g}")
        ax.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))


def falling(ax: Axes, looks: Sequence[int], distances: Mapping[str, Tensor]) -> None:
    """Median distances (chains, W) from the limit at the steps `looks`, a line for each way in which rates fall.

    Args:
        ax: where to draw.
        looks: the steps (W,).
        distances: by name, as `dynamics.falling_steps` returns them.
    """
    for name, distance in distances.items():
        ax.loglog(looks, distance.median(0).values.clamp(max=1e6), label=name)
    ax.set(xlabel="step", ylabel="distance from the limit (clipped at 1e6)", title="falling rates")
    ax.legend(fontsize="x-small", title="scales", title_fontsize="x-small")


def saddles(axes: Sequence[Axes], paths: Tensor, medians: pd.DataFrame) -> None:
    """A run of each of the paper's pairs of rates; and for all pairs when they come near, and how near they stay.

    Args:
        axes: two.
        paths: (pairs, steps + 1, 2), as `dynamics.saddle_table` returns them.
        medians: columns `hit` and `tail`, by pair.
    """
    for name, path in list(zip(SADDLE, paths, strict=True))[:4]:
        axes[0].plot(path.norm(dim=1)[::10], label=name, lw=0.8)
    axes[0].set(xlabel="tens of steps", ylabel="distance from the saddle")
    axes[0].legend(fontsize="x-small")
    for marker, (rates, row) in zip("oXsPD*^", medians.iterrows(), strict=True):
        axes[1].plot(row["hit"], row["tail"], marker, markersize=8, label=str(rates))
    near = "first step within 0.15 (rightmost: never)"
    axes[1].set(xscale="log", yscale="log", xlabel=near, ylabel="distance at the end")
    axes[1].legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))


def balls(axes: Sequence[Axes], cfg: TwoTimeScaleGAN, errors: pd.DataFrame, flat: pd.DataFrame) -> None:
    """Adam against the ball's path, on the way over a dip and into two wells, and where many starts end.

    Args:
        axes: four.
        cfg: for the length of paths.
        errors, flat: of `dynamics.ode_errors` and `dynamics.into_flat`.
    """
    for gamma, rows in errors.groupby("friction"):
        axes[0].loglog(rows.groupby("dt")["error"].mean(), "o-", label=f"friction {gamma:g}")
    axes[0].set(xlabel="time step", ylabel="farthest from the ball's path")
    axes[0].set_xticks([0.0125, 0.025, 0.05, 0.1], ["1/80", "1/40", "1/20", "1/10"])
    axes[0].minorticks_off()
    x = torch.linspace(-3.2, 3.2, 400, dtype=torch.float64)
    for ax, well, start in zip(axes[1:3], (gan.dip(), gan.equal_wells()), (-3.0, -2.8), strict=True):
        ax.plot(x, well.value(x), color="black", lw=1)
        for beta, colour, lift in ((0.0, "tab:blue", 0.02), (0.9, "tab:orange", 0.05)):
            begin = torch.tensor([start], dtype=torch.float64)
            path = gan.adam_path(well.gradient, begin, lr=0.03, betas=(beta, 0.999), n=cfg.ball_steps)[:, 0]
            ax.plot(path[::6], well.value(path[::6]) + lift, ".", color=colour, ms=3)
            ax.plot(path[-1], well.value(path[-1]) + lift, "o", color=colour, label=f"beta1 = {beta:g}")
        ax.set(xlabel="position", ylabel="loss")
    for ax in axes[:2]:
        ax.legend(fontsize="x-small")
    shares = flat.groupby(["way", "beta1", "lr"], sort=False)[["flat", "flow"]].mean()
    axes[3].barh([f"{way}, {beta:g}, {lr:g}" for way, beta, lr in shares.index], shares["flat"], alpha=0.7)
    axes[3].axvline(shares["flow"].iloc[0], color="black")
    axes[3].set(xlabel="share in the flat well", xlim=(0, 1))
    axes[3].invert_yaxis()


def disturbances(axes: Sequence[Axes], spoiled: pd.DataFrame) -> None:
    """FID (left) and inception distance (right) by level, one axes a kind; `spoiled` is of `distances.disturbed`."""
    for number, (ax, (kind, rows)) in enumerate(zip(axes, spoiled.groupby("kind", sort=False), strict=True)):
        means, right = rows.groupby("place")[["FID", "IND"]].mean(), ax.twinx()
        ax.plot(means["FID"], "o-", color="tab:blue")
        right.plot(means["IND"], "s--", color="tab:orange")
        ax.set(title=kind, xlabel="level", yscale="log", ylabel="" if number else "FID (solid)")
        right.set(ylim=(0, None), ylabel="IND (dashed)" if number == len(axes) - 1 else "")


def bias(ax: Axes, biased: pd.DataFrame, covariance: Tensor) -> None:
    """FID of two samples of one distribution by their size, and what second order foretells.

    Args:
        ax: where to draw.
        biased: of `distances.bias_table`.
        covariance: (D, D) of the features.
    """
    for of, rows in biased.groupby("of"):
        found = rows.groupby("N")["FID"].agg(["mean", "std"])
        ax.errorbar(found.index, found["mean"], found["std"], fmt="o-", capsize=3, label=of)
    sizes = sorted(biased["N"].unique())
    ax.plot(sizes, [metrics.fid_bias(covariance, n, n) for n in sizes], "k--", label="formula")
    ax.set(xscale="log", yscale="log", xlabel="N", ylabel="FID, true value 0")
    ax.set_xticks(sizes, [str(n) for n in sizes])
    ax.minorticks_off()
    ax.legend(fontsize="x-small")


def differences(ax: Axes, found: pd.DataFrame) -> None:
    """Estimated differences of FIDs with their intervals over the true ones; `found` is of `distances`."""
    some = found.sort_values("truth").iloc[::4]
    ax.errorbar(some["truth"], some["value"], yerr=(some["high"] - some["low"]) / 2, fmt="o", ms=3, lw=0.8)
    ax.axline((0, 0), slope=1, color="black", lw=0.8)
    ax.set(xlabel="true difference", ylabel="estimated")


def fresh(ax: Axes, contest: Contest, floor: float) -> list[str]:
    """FID by updates of the arms on fresh seeds, and the FID of test images as a line; returns the arms' names.

    Args:
        ax: where to draw.
        contest: whose arms; "two rates" is one of the others and left out.
        floor: FID of test images.
    """
    names = [name for name in contest.sheets if name != "two rates"]
    plots.seed_lines(contest.fresh[contest.fresh["arm"].isin(names)], "update", "fid", hue="arm", ax=ax)
    ax.set(yscale="log", ylabel="FID")
    ax.axhline(floor, color="black", lw=0.8, ls=":")
    return names


def spectra(axes: Sequence[Axes], points: pd.DataFrame) -> None:
    """The leading part of the spectrum per unit of rate by the ratio of rates, and FID over it.

    Args:
        axes: two.
        points: of `spectrum.points`.
    """
    label = "leading part per unit of rate"
    axes[0].plot(points.groupby("ratio")["per rate"].mean(), "o-")
    axes[0].set_xscale("log", base=2)
    axes[0].set(xlabel="critic's rate / generator's", ylabel=label, ylim=(0, None))
    dots = axes[1].scatter(points["per rate"], points["log"], c=np.log2(points["ratio"]), cmap="viridis")
    axes[1].set(xlabel=label, ylabel="log10 of FID / tr C")
    axes[1].figure.colorbar(dots, ax=axes[1], label="log2 of the ratio")
