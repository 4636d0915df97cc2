"""Figure functions return what they drew, from the data they were given."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch

mpl.use("Agg")

import matplotlib.pyplot as plt

from flatlab import plots
from flatlab.flatness import Plane

FRAME = pd.DataFrame(
    {"method": ["b", "b", "a", "a"], "kind": ["k", "k", "l", "l"], "u": [3.0, 5.0, 1.0, 2.0], "v": [0.1, 0.2, 0.3, 0.4]}
)


@pytest.fixture(autouse=True)
def clean():
    with mpl.rc_context():
        plots.theme()
        yield
    plt.close("all")


def test_method_dots_sorts_by_the_mean() -> None:
    ax = plots.method_dots(FRAME, "u")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_legend() is not None


def test_method_scatter_draws_means() -> None:
    ax = plots.method_scatter(FRAME, "u", "v", log=True)
    points = [line.get_xydata()[0] for line in ax.lines if len(line.get_xydata()) == 1]
    assert any(np.allclose(p, (4.0, 0.15)) for p in points)
    assert {t.get_text() for t in ax.texts} == {"a", "b"}


def test_landscapes_share_one_colour_scale() -> None:
    axis = torch.linspace(-1, 1, 5)
    planes = {name: Plane(torch.rand(5, 5) * scale, axis, axis) for name, scale in (("flat", 0.1), ("steep", 10.0))}
    axes = plots.landscape_row(planes, xlabel="b", ylabel="a", label="log p")
    limits = [tuple(c.get_clim()) for ax in axes for c in ax.collections if hasattr(c, "levels") and c.filled]
    assert len(limits) == 2
    assert limits[0] == limits[1]


def test_landscapes_stand_in_rows() -> None:
    axis = torch.linspace(-1, 1, 5)
    planes = {name: Plane(torch.rand(5, 5), axis, axis) for name in "abc"}
    axes = plots.landscape_row(planes, xlabel="b", ylabel="a", label="log p", columns=2)
    assert [ax.get_subplotspec().rowspan.start for ax in axes] == [0, 0, 1]
    assert [ax.get_subplotspec().colspan.start for ax in axes] == [0, 1, 0]


def test_a_kind_keeps_its_colour_when_others_are_left_out() -> None:
    frame = FRAME.assign(kind=pd.Categorical(FRAME["kind"], ["k", "l"]))
    whole, part = plots._colours(frame["kind"]), plots._colours(frame["kind"][frame["method"] == "a"])
    assert part == {"l": whole["l"]}


def test_one_legend_per_figure() -> None:
    _, axes = plt.subplots(1, 2)
    assert plots.method_dots(FRAME, "u", ax=axes[0]).get_legend() is not None
    assert plots.method_dots(FRAME, "v", ax=axes[1]).get_legend() is None


def test_image_grid_hides_what_is_left_over() -> None:
    axes = plots.image_grid(torch.rand(3, 1, 4, 4), ["x", "y", "z"], columns=2)
    assert axes.shape == (2, 2)
    assert [len(ax.images) for ax in axes.flat] == [1, 1, 1, 0]


def test_a_map_of_shares_keeps_its_limits_whatever_the_line() -> None:
    ax = plots.share_map(np.eye(2, 3), (10, 100, 1000), (0.1, 1), line=(100, 1, 0.001))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["10", "100", "1000"]
    assert ax.collections[0].get_array().shape == (2, 3)
    assert ax.get_ylim() == pytest.approx((-1.5, 0.5))
    assert ax.lines[0].get_ydata().tolist() == pytest.approx([2, 0, -3])


def test_seed_lines_with_and_without_groups() -> None:
    assert plots.seed_lines(FRAME, "u", "v").lines
    assert plots.seed_lines(FRAME, "u", "v", hue="kind").get_legend() is not None


def test_the_polygon_of_a_square_is_its_four_corners() -> None:
    directions = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.7, 0.7]])
    corners = plots.support_polygon(directions, torch.tensor([-1.0, -1.0, -1.0, -1.0, -9.0]))
    assert torch.equal(corners[0], corners[-1])
    assert {tuple(c) for c in corners.round().tolist()} == {(-1, -1), (1, -1), (1, 1), (-1, 1)}


def test_density_rows_share_the_scale_of_their_first_panel() -> None:
    rows = {"a": {"truth": torch.eye(3), "model": 2 * torch.eye(3)}, "b": {"truth": 5 * torch.ones(3, 3)}}
    axes = plots.density_rows(rows)
    assert axes.shape == (2, 2)
    assert [image.get_clim() for ax in axes[0] for image in ax.images] == [(0, 1), (0, 1)]
    assert axes[1, 0].images[0].get_clim() == (0, 5)
    assert [ax.get_title(loc="left") for ax in axes.flat] == ["a: truth", "model", "b: truth", ""]
    assert not axes[1, 1].images
    plt.close("all")


def test_interval_rows_stand_in_the_order_of_the_frame_with_their_ends() -> None:
    frame = pd.DataFrame({"value": [1.0, -2.0], "low": [0.5, -2.5], "high": [2.0, -1.0]}, index=["one", "two"])
    ax = plots.interval_rows(frame, zero=0.25)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]
    assert ax.yaxis_inverted()
    marks, _, (bars,) = ax.containers[0]
    assert marks.get_xdata().tolist() == [1.0, -2.0]
    assert [segment[:, 0].tolist() for segment in bars.get_segments()] == [[0.5, 2.0], [-2.5, -1.0]]
    assert any(list(line.get_xdata()) == [0.25, 0.25] for line in ax.lines)
