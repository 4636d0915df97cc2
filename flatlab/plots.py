"""The theme and the few figure functions that notebooks share. Each returns the Axes it drew on and shows nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike
from torch import Tensor

from flatlab.flatness import Plane

PALETTE = sns.color_palette("colorblind")


def theme() -> None:
    """Set seaborn's theme for a notebook: quiet grid, small PNGs, no chart junk."""
    sns.set_theme(context="notebook", style="ticks", palette="colorblind", font_scale=0.85)
    plt.rcParams.update(
        {
            "figure.dpi": 80,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "axes.titlelocation": "left",
            "legend.frameon": False,
        }
    )


def image_grid(x: Tensor, titles: Sequence[str] = (), *, columns: int = 10, size: float = 0.9) -> np.ndarray:
    """Images in rows.

    Args:
        x: (N, C, H, W) in [0, 1], or uint8.
        titles: one for each image, or none.
        columns: images in a row.
        size: of an image, in inches.
    """
    rows = -(-len(x) // columns)
    _, axes = plt.subplots(rows, columns, figsize=(size * columns, (size + 0.25 * bool(titles)) * rows), squeeze=False)
    for index, ax in enumerate(axes.flat):
        ax.axis("off")
        if index < len(x):
            image = x[index].detach().cpu().movedim(0, -1).numpy()
            ax.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", interpolation="nearest")
            if titles:
                ax.set_title(titles[index], fontsize="small", loc="center")
    return axes


def density_rows(rows: Mapping[str, Mapping[str, Tensor]], *, size: float = 2.4) -> np.ndarray:
    """Densities of the plane, a row for each target; all in a row on the colour scale of its first one.

    Args:
        rows: name of the row -> name of the panel -> (n, n) values, the first row of them lowest.
        size: of a panel, in inches.
    """
    wide = max(len(row) for row in rows.values())
    _, axes = plt.subplots(len(rows), wide, figsize=(size * wide, (size + 0.2) * len(rows)), squeeze=False)
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        most = float(next(iter(row.values())).max())
        for ax in line:
            ax.axis("off")
        for ax, (title, values) in zip(line, row.items(), strict=False):
            ax.imshow(values.numpy(), origin="lower", vmin=0, vmax=most)
            ax.set_title(f"{name}: {title}" if ax is line[0] else title)
    return axes


def landscape_row(
    planes: Mapping[str, Plane],
    *,
    xlabel: str,
    ylabel: str,
    label: str,
    limits: tuple[float, float] | None = None,
    columns: int | None = None,
) -> np.ndarray:
    """Landscapes side by side on ONE colour scale: a scale per panel would make every landscape look alike.

    Args:
        planes: name -> plane with values (n, n) over the axes a (down) and b (across).
        xlabel, ylabel: of the axes b and a.
        label: of the colour bar.
        limits: of the colour scale; the extremes of all planes by default.
        columns: panels in a row; by default all stand in one.

    Returns:
        The panels' axes, in the order of the planes.
    """
    values = {name: np.asarray(plane.values.detach().cpu(), dtype=float) for name, plane in planes.items()}
    low, high = limits or (min(v.min() for v in values.values()), max(v.max() for v in values.values()))
    levels = np.linspace(low, high, 21)
    wide = len(planes) if columns is None else columns
    rows = -(-len(planes) // wide)
    _, axes = plt.subplots(
        rows, wide, figsize=(2.6 * wide + 0.8, 2.6 * rows + 0.3), sharex=True, sharey=True, squeeze=False
    )
    for ax, (name, plane) in zip(axes.flat, planes.items(), strict=False):
        a, b = plane.a.cpu().numpy(), plane.b.cpu().numpy()
        shades = ax.contourf(b, a, values[name], levels=levels, cmap="viridis", extend="both")
        ax.contour(b, a, values[name], levels=levels[::2], colors="white", linewidths=0.4, alpha=0.6)
        ax.plot(0, 0, "o", color="white", markeredgecolor="black", markersize=5)
        ax.set(title=name, aspect="equal")
    for ax in axes.flat[len(planes) :]:
        ax.axis("off")
    for ax in axes[-1]:
        ax.set_xlabel(xlabel)
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    axes[0, 0].figure.colorbar(shades, ax=list(axes.flat), label=label, shrink=0.85, ticks=MaxNLocator(6))
    return axes.ravel()[: len(planes)]


def method_dots(
    frame: pd.DataFrame, value: str, *, by: str = "method", hue: str = "kind", ax: Axes | None = None
) -> Axes:
    """One row per method, sorted by its mean: a small dot per seed, a large one for the mean.

    Args:
        frame: one row per method and seed.
        value: the column that is drawn.
        by: the column of methods.
        hue: the column that colours stand for.
        ax: where to draw; None for a new figure.
    """
    ax = ax or plt.subplots(figsize=(6, 0.28 * frame[by].nunique() + 0.8))[1]
    order = list(frame.groupby(by)[value].mean().sort_values().index)
    colours = _colours(frame[hue])
    for row, name in enumerate(order):
        part = frame[frame[by] == name]
        colour = colours[part[hue].iloc[0]]
        ax.plot(part[value], [row] * len(part), ".", color=colour, alpha=0.5)
        ax.plot(part[value].mean(), row, "D", color=colour, markersize=6)
    ax.set_yticks(range(len(order)), order)
    ax.set_xlabel(value)
    ax.grid(axis="x", alpha=0.4)
    _legend(ax, colours)
    return ax


def method_scatter(
    frame: pd.DataFrame,
    x: str,
    y: str,
    *,
    by: str = "method",
    hue: str = "kind",
    log: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """One labelled point per method at its means, with bars of one standard deviation over the seeds.

    Args:
        frame: one row per method and seed.
        x, y: the columns that are drawn.
        by, hue, ax: as in `method_dots`.
        log: a logarithmic x axis.
    """
    ax = ax or plt.subplots(figsize=(6, 4.2))[1]
    colours = _colours(frame[hue])
    for name, part in frame.groupby(by, sort=False):
        colour = colours[part[hue].iloc[0]]
        mean, spread = part[[x, y]].mean(), part[[x, y]].std().fillna(0)
        ax.errorbar(mean[x], mean[y], xerr=spread[x], yerr=spread[y], fmt="o", color=colour, elinewidth=1, markersize=5)
        ax.annotate(str(name), (mean[x], mean[y]), xytext=(5, 4), textcoords="offset points", fontsize="x-small")
    if log:
        log_axis(ax, "x")
    ax.set(xlabel=x, ylabel=y)
    ax.grid(alpha=0.3)
    _legend(ax, colours)
    return ax


def seed_lines(
    frame: pd.DataFrame, x: str, y: str, *, hue: str | None = None, color: str | None = None, ax: Axes | None = None
) -> Axes:
    """Mean over the seeds at each x, with a 95 % bootstrap band.

    Args:
        frame: one row per seed and x.
        x, y: the columns that are drawn.
        hue: the column that tells several lines apart, or None for one line.
        color: of the one line.
        ax: where to draw; None for a new figure.
    """
    ax = ax or plt.subplots(figsize=(5, 3.2))[1]
    look = {"style": hue, "markers": True, "dashes": False} if hue else {"marker": "o", "color": color}
    sns.lineplot(frame, x=x, y=y, hue=hue, errorbar=("ci", 95), seed=0, ax=ax, **look)
    ax.grid(alpha=0.3)
    return ax


def interval_rows(frame: pd.DataFrame, *, zero: float = 0.0, ax: Axes | None = None) -> Axes:
    """Estimates with their intervals, one under the other in the order of the frame, and a line where nothing differs.

    Args:
        frame: columns "value", "low" and "high"; the index names the rows.
        zero: where the line stands.
        ax: where to draw; None for a new figure.
    """
    ax = ax or plt.subplots(figsize=(6, 0.28 * len(frame) + 0.8))[1]
    rows = range(len(frame))
    ends = [frame["value"] - frame["low"], frame["high"] - frame["value"]]
    ax.errorbar(frame["value"], rows, xerr=ends, fmt="D", markersize=5, elinewidth=1.5)
    ax.axvline(zero, color="black", linewidth=0.8)
    ax.set_yticks(rows, list(frame.index))
    ax.invert_yaxis()
    ax.grid(axis="x", alpha=0.4)
    return ax


def descent_paths(
    value: Callable[[Tensor], Tensor],
    box: tuple[float, float],
    path: Tensor,
    minimum: Tensor,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Paths over the contours of a function of two variables; dots: ends, star: the minimum.

    Args:
        value: the function, (..., 2) -> (...).
        box: ends of both axes.
        path: (T, S, 2) the points of S paths.
        minimum: (2,) where the star is drawn.
        ax: where to draw; None for a new figure.
    """
    ax = ax or plt.subplots(figsize=(3.5, 3.5))[1]
    axis = torch.linspace(*box, 120, dtype=path.dtype)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    ax.contourf(axis, axis, value(grid), levels=24, cmap="Greys_r", alpha=0.75)
    ax.plot(*path.unbind(-1), linewidth=0.8)
    ax.plot(*path[-1].T, "o", color="black", markersize=3)
    ax.plot(*minimum, "*", color="red", markersize=10)
    ax.set(xlim=box, ylim=box, xticks=[], yticks=[])
    return ax


def share_map(
    shares: ArrayLike,
    x: Sequence[float],
    y: Sequence[float],
    *,
    line: Sequence[float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Shares in [0, 1] as colours over two quantities of rising orders of magnitude, a cell for each pair.

    Args:
        shares: (rows, columns).
        x: of the columns, positive.
        y: of the rows, positive.
        line: a y for each x, drawn dashed as far as it lies in the map; None for no line.
        ax: where to draw; None for a new figure.
    """
    ax = ax or plt.subplots(figsize=(3, 2.8))[1]
    columns, rows = np.log10(x), np.log10(y)
    ax.pcolormesh(columns, rows, np.asarray(shares), vmin=0, vmax=1, shading="nearest", cmap="cividis")
    ax.set(xticks=columns, yticks=rows, xticklabels=[f"{v:g}" for v in x], yticklabels=[f"{v:g}" for v in y])
    ax.tick_params(labelsize="x-small")
    if line is not None:
        limits = ax.get_ylim()
        ax.plot(columns, np.log10(line), "--", color="red", linewidth=2)
        ax.set_ylim(limits)
    return ax


def support_polygon(directions: Tensor, low: Tensor) -> Tensor:
    """Corners (M + 1, 2), in order and closed, of all points z with <directions[i], z> >= low[i].

    Args:
        directions: (N, 2), all around.
        low: (N,), such that some point satisfies all of them.
    """
    a, b = directions.double(), low.detach().double()
    i, j = torch.triu_indices(len(a), len(a), 1)
    pairs = torch.stack([a[i], a[j]], dim=1)
    crossing = torch.linalg.det(pairs).abs() > 1e-6
    ends = torch.stack([b[i], b[j]], dim=1)[crossing]
    corners = torch.linalg.solve(pairs[crossing], ends[..., None])[..., 0]
    corners = corners[(corners @ a.T >= b - 1e-6).all(dim=1)]
    turn = torch.atan2(*(corners - corners.mean(0)).flip(1).T).argsort()
    return corners[torch.cat([turn, turn[:1]])]


def log_axis(ax: Axes, which: Literal["x", "y"]) -> Axes:
    """Make an axis logarithmic with plain numbers at 1, 2 and 5 times powers of ten."""
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    return ax


def _colours(kinds: pd.Series) -> dict[str, tuple[float, float, float]]:
    """Colour of each kind that is present; a categorical column keeps its colours when rows are left out."""
    present = dict.fromkeys(kinds)
    order = list(kinds.cat.categories) if isinstance(kinds.dtype, pd.CategoricalDtype) else list(present)
    return {kind: PALETTE[order.index(kind) % len(PALETTE)] for kind in order if kind in present}


def _legend(ax: Axes, colours: Mapping[str, tuple[float, float, float]]) -> None:
    """Name the colours, unless another panel of the figure has a legend already."""
    figure = ax.get_figure()
    if figure is not None and any(panel.get_legend() for panel in figure.axes if panel is not ax):
        return
    handles = [ax.plot([], [], "o", color=colour, label=kind)[0] for kind, colour in colours.items()]
    ax.legend(handles=handles, fontsize="x-small", loc="best")
