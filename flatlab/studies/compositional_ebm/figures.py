"""Figures that only this notebook draws, on axes that it makes."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from flatlab import plots
from flatlab.plots import Axes
from flatlab.studies.compositional_ebm.mean_estimation import Finish
from flatlab.studies.compositional_ebm.planar import Fitted
from flatlab.studies.compositional_ebm.settings import Noise


def hiding(axes: Sequence[Axes], curves: pd.DataFrame, steps: pd.DataFrame) -> None:
    """Curvatures by distance, the cost of MECO's estimate beside them, and iterations of exact descent.

    Args:
        axes: three.
        curves: of `landscape.curvatures`.
        steps: of `landscape.iterations`.
    """
    curves[["NCE, low", "eNCE, low", "MLE"]].plot(ax=axes[0], logy=True, ylabel="least curvature at the optimum")
    axes[1].semilogy(curves.index, 1 / curves["NCE, low"], label="1 / NCE's curvature")
    axes[1].semilogy(curves.index, curves["1 + V"], label="1 + V of MECO, q = N(0, 1)")
    axes[1].semilogy(curves.index, curves["1 + V, best s"], label="1 + V of MECO, best width")
    axes[1].set(xlabel="R", ylim=(0.5, 1e20))
    axes[1].legend(loc="upper left")
    steps.plot(ax=axes[2], logy=True, marker="o", ylabel="iterations of exact descent")


def advantage(ax: Axes, gap: np.ndarray, distances: Sequence[float], widths: Sequence[float]) -> None:
    """How many more draws NCE needs than MECO, a cell for each distance and width.

    Args:
        ax: where to draw.
        gap: (distances, widths) log10 of the ratio of draws.
        distances, widths: R and s.
    """
    shades = ax.imshow(gap, cmap="RdBu_r", vmin=-1.5, vmax=1.5, origin="lower", aspect="auto")
    for (i, j), value in np.ndenumerate(gap):
        words, colour = f"{10 ** abs(value):.2g}x" if value else "-", "white" if abs(value) > 1 else "black"
        ax.text(j, i, words, ha="center", va="center", color=colour)
    ax.set(xticks=range(len(widths)), xticklabels=[f"{s:g}" for s in widths], xlabel="width s of the noise")
    ax.set(yticks=range(len(distances)), yticklabels=[f"{R:g}" for R in distances], ylabel="R")
    ax.figure.colorbar(shades, ax=ax, label="log10 of NCE's draws over MECO's")


def rates(ax: Axes, finish: Finish, case: tuple[float, Noise], names: Sequence[str]) -> None:
    """Errors at the end of the race over the learning rate, in one case.

    Args:
        ax: where to draw.
        finish: of the race.
        case: distance and noise.
        names: of the methods.
    """
    at = finish.cases.index(case)
    for name in names:
        ax.loglog(finish.rates[name], finish.errors[name][:, at, finish.tuning :, -1].mean(1), "o-", label=name)
    ax.axhline(0.1, color="black", linewidth=0.8)
    ax.set(xlabel="learning rate", ylabel="error at the end", ylim=(0.01, 30))
    ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))


def law(ax: Axes, looks: np.ndarray, scaled: np.ndarray, labels: Sequence[str]) -> None:
    """T m MSE over 1 + V by the steps T, with 95 % intervals.

    Args:
        ax: where to draw.
        looks: the steps (T,).
        scaled: (cases, replicas, T).
        labels: one a case.
    """
    for label, part in zip(labels, scaled, strict=True):
        ax.errorbar(looks, part.mean(0), 1.96 * part.std(0) / len(part) ** 0.5, marker="o", label=label)
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set(xscale="log", xlabel="steps T", ylabel="T m MSE / (1 + V)")
    ax.set_xticks(looks, labels=[str(look) for look in looks])
    ax.minorticks_off()
    ax.legend(fontsize="small")


def noises(ax: Axes, by_noise: Mapping[tuple[str, str], Fitted], methods: Sequence[str], truth: float) -> None:
    """NLL less that of the truth, a row a noise, a colour a method, a dot a seed.

    Args:
        ax: where to draw.
        by_noise: (method, noise) -> networks.
        methods: in the order of colours.
        truth: NLL of the density itself.
    """
    rows = list(dict.fromkeys(noise for _, noise in by_noise))
    for (method, noise), fitted in by_noise.items():
        place, row = methods.index(method), rows.index(noise)
        excess = np.clip(fitted.nll.mean(1) - truth, 1e-3, 10)
        height = np.full(len(excess), row + 0.2 * (place - 1))
        ax.plot(excess, height, "o", color=plots.PALETTE[place], label="" if row else method)
    ax.set(yticks=range(len(rows)), yticklabels=rows, xscale="log")
    ax.set_xlabel("NLL less that of the truth, nats (clipped at 10)")
    ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
