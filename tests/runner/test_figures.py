"""Recorded figures: which ones, how small, the same bytes each time, nothing stale; and pictures that travel along."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flatlab.runner import StudyError
from flatlab.runner.figures import (
    LIMIT,
    MOST,
    carry_linked,
    keep_figures,
    markdown_texts,
    recorded_figures,
    shown_figures,
    small_png,
)


def png(seed: int = 0, *, size: tuple[int, int] = (40, 30), alpha: bool = False) -> bytes:
    """Noise, which no compression helps."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4 if alpha else 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def executed(path: Path, *cells: tuple[str, list[bytes]]) -> Path:
    """A notebook with code cells of these ids, each with these pictures."""
    made = [
        {
            "cell_type": "code", "id": name, "metadata": {}, "source": "plot()", "execution_count": 1,
            "outputs": [{"output_type": "stream", "name": "stdout", "text": "x"}]
            + [{"output_type": "display_data", "data": {"image/png": base64.b64encode(p).decode()}} for p in pictures],
        }
        for name, pictures in cells
    ]  # fmt: skip
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": made}))
    return path


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_figures_are_named_after_their_cells_and_are_small_palettes(tmp_path: Path) -> None:
    path = executed(tmp_path / "a.ipynb", ("c1", [png(1), png(2)]), ("none", []), ("c_2-b", [png(3, alpha=True)]))
    figures = recorded_figures(path)
    assert list(figures) == ["c1.png", "c1-2.png", "c_2-b.png"]
    assert [opened(figure).mode for figure in figures.values()] == ["P"] * 3
    assert [opened(figure).size for figure in figures.values()] == [(40, 30)] * 3
    assert recorded_figures(path) == figures, "the same bytes each time"


def test_what_is_too_heavy_loses_colours_and_then_pixels() -> None:
    drawing = Image.new("RGB", (300, 200), "white")
    drawing.paste((200, 30, 30), (20, 20, 60, 60))
    file = io.BytesIO()
    drawing.save(file, "PNG")
    assert sorted(opened(small_png(file.getvalue())).convert("RGB").getcolors()) == sorted(drawing.getcolors())
    noise = png(size=(300, 200))
    fewer = small_png(noise, limit=45_000)
    assert len(fewer) <= 45_000
    assert opened(fewer).size == (300, 200)
    assert len(opened(fewer).getcolors()) < 256
    smaller = small_png(noise, limit=10_000)
    assert len(smaller) <= 10_000
    assert opened(smaller).width < 300
    assert len(small_png(png(size=(900, 700)))) <= LIMIT
    with pytest.raises(ValueError, match="300 x 200 pixels do not fit into 60 bytes"):
        small_png(noise, limit=60)


def test_transparent_ground_becomes_white() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(file, "PNG")
    assert opened(small_png(file.getvalue())).convert("RGB").getcolors() == [(64, (255, 255, 255))]


def test_of_many_figures_those_that_are_shown_come_first(tmp_path: Path) -> None:
    path = executed(tmp_path / "a.ipynb", *((f"c{i}", [png(i)]) for i in range(12)))
    assert list(recorded_figures(path)) == [f"c{i}.png" for i in range(MOST)]
    shown = {"c11.png", "c3.png", "c9.png"}
    assert list(recorded_figures(path, shown)) == [f"c{i}.png" for i in (0, 1, 2, 3, 4, 5, 9, 11)]
    with pytest.raises(StudyError, match=r"makes no c12\.png, which is shown"):
        recorded_figures(path, {"c1.png", "c12.png"})
    with pytest.raises(StudyError, match="9 recorded figures of .* are shown, but only 8 are kept"):
        recorded_figures(path, {f"c{i}.png" for i in range(9)})


def test_links_say_what_is_shown() -> None:
    texts = ["![a](results/cpu/01_a/c1.png) ![b](results/cpu/01_a/c2-2.png)\n![c](results/cpu/02_b/c3.png)"]
    texts += ["![d](results/gpu/01_a/c4.png) ![e](notebooks/results/cpu/01_a/c5.png)", "results/cpu/01_a/c6.png"]
    assert shown_figures(texts, "cpu", "01_a") == {"c1.png", "c2-2.png", "c5.png"}


@pytest.mark.parametrize("name", ["", "../c1", "c 1"])
def test_cells_without_a_usable_id_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StudyError, match="save the notebook in format 4.5"):
        recorded_figures(executed(tmp_path / "a.ipynb", (name, [png()])))


@pytest.mark.parametrize("content", [b"no picture", png()[:60], b"\x89PNG"])
def test_damaged_pictures_are_named(tmp_path: Path, content: bytes) -> None:
    path = executed(tmp_path / "a.ipynb", ("c1", [png(), content]))
    with pytest.raises(StudyError, match=r"a\.ipynb: the picture c1-2\.png cannot be recorded"):
        recorded_figures(path)


def test_an_earlier_record_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "cpu" / "01_a"
    keep_figures({"c1.png": b"1", "c2.png": b"2"}, folder)
    (folder / "notes.txt").touch()
    keep_figures({"c2.png": b"new"}, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["c2.png", "notes.txt"]
    assert (folder / "c2.png").read_bytes() == b"new"
    (folder / "notes.txt").unlink()
    keep_figures({}, folder)
    assert not folder.exists()
    keep_figures({}, folder)


def test_pictures_travel_with_a_notebook(tmp_path: Path) -> None:
    source, target = tmp_path / "notebooks", tmp_path / "out"
    (source / "results" / "cpu").mkdir(parents=True)
    (source / "results" / "cpu" / "c1.png").write_bytes(b"1")
    (tmp_path / "secret.png").write_bytes(b"2")
    links = ["results/cpu/c1.png", "results/gone.png", "../secret.png", "https://x.org/a.png", "attachment:a.png"]
    (source / "results" / "README.md").write_text("# Table")
    cells = [{"cell_type": "markdown", "source": [f"![{link}]({link})\n" for link in links]}]
    cells += [
        {"cell_type": "markdown", "source": "[all](results/README.md#01_a) [none](results/none.md) [x](01_a.ipynb)"}
    ]
    cells += [{"cell_type": "code", "source": "![x](results/cpu/c1.png)"}]
    carry_linked({"cells": cells}, source, target)
    assert sorted(str(p.relative_to(target)) for p in target.rglob("*.*")) == [
        "results/README.md",
        "results/cpu/c1.png",
    ]
    assert len(markdown_texts({"cells": cells})) == 2
    (tmp_path / "full").touch()
    carry_linked({"cells": cells}, source, tmp_path / "full")  # cannot be written, and breaks nothing
