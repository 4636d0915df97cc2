"""Figures that only this notebook draws, on axes that it makes."""

from collections.abc import Mapping, Sequence

import torch

from flatlab import plots, test_functions
from flatlab.optim import theory
from flatlab.plots import Axes
from flatlab.studies.critical_momenta.escape import Escapes


def stability(axes: Sequence[Axes], capacities: Sequence[int], threshold: Mapping[float, Sequence[float]]) -> None:
    """The largest stable curvature by capacity, and walks just below and above it.

    Args:
        axes: two.
        capacities: of the memory.
        threshold: beta1 -> the largest stable curvature for each capacity.
    """
    for beta, row in threshold.items():
        axes[0].plot(range(len(capacities)), row, marker="o", label=rf"$\beta_1$ = {beta}")
    axes[0].set(xlabel="capacity C", ylabel=r"largest stable $\mu$")
    axes[0].set_xticks(range(len(capacities)), [str(c) for c in capacities])
    plots.log_axis(axes[0], "y").legend()
    for factor in (0.9, 1.1):
        walk = theory.simulate_quadratic(factor * threshold[0.9][capacities.index(5)], 5, 0.9, 150)
        axes[1].plot(walk, label=f"{factor} of the threshold")
    axes[1].set(xlabel="step", ylabel="distance to the minimum")
    axes[1].legend()


def escapes(axes: Sequence[Axes], found: Escapes, names: Sequence[str]) -> None:
    """The surface, and a map for each method of the share of starts that leave its sharp basin.

    Args:
        axes: one more than methods, five a row.
        found: of the escapes.
        names: of the methods.
    """
    cfg, at = found.cfg, torch.linspace(-3, 3, 600, dtype=torch.float64)
    for s in cfg.sharpness[::2]:
        axes[0].plot(at, test_functions.two_basins(1, s)(at[:, None]), label=f"s = {s:g}")
    axes[0].set(title="f(x)", xlabel="x", xlim=(-3, 6))
    axes[0].legend(fontsize="x-small", loc="lower right")
    for ax, name in zip(axes[1:], names, strict=True):
        line = found.predicted(name)
        plots.share_map(found.shares(name), cfg.sharpness, cfg.rates, line=line, ax=ax).set_title(name)
    axes[7].set_xlabel("sharpness s")
    axes[5].set_ylabel("learning rate")
    axes[0].figure.colorbar(axes[1].collections[0], ax=axes, label="share of starts that leave", shrink=0.8)
