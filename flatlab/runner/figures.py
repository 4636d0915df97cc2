"""Pictures of executed notebooks as files: those of a recorded run, and those that a notebook shows from there.

A recorded run keeps its figures as `notebooks/results/<preset>/<notebook>/<cell id>.png`, each a palette PNG of at most
`LIMIT` bytes. Notebooks show them by relative Markdown links; an executed copy lies in another folder, so what it links
to is copied beside it.
"""

import base64
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flatlab.files import replacing
from flatlab.runner import notebooks
from flatlab.runner.notebooks import StudyError

LIMIT = 60_000
"""Bytes of one recorded figure: all of a preset stay light enough to be kept in a repository."""
MOST = 8
"""Recorded figures of one notebook."""


def recorded_figures(path: Path, shown: Collection[str] = ()) -> dict[str, bytes]:
    """File name -> palette PNG of at most `MOST` figures of an executed notebook, in its order.

    A file is named after its cell, "c4.png"; the second picture of a cell is "c4-2.png". Of more than `MOST` figures,
    those named in `shown` are kept, then the first others.

    Raises:
        StudyError: a cell with a picture has no usable id, a picture cannot be read, or one that is shown is not there.
    """
    found = dict(_pictures(path))
    if missing := sorted(set(shown) - found.keys()):
        raise StudyError(f"{path} makes no {', '.join(missing)}, which is shown as recorded: correct the link")
    if len(shown) > MOST:
        raise StudyError(f"{len(shown)} recorded figures of {path} are shown, but only {MOST} are kept: show fewer")
    others = [name for name in found if name not in shown]
    kept = {*shown, *others[: MOST - len(shown)]}
    figures = {}
    for name in (name for name in found if name in kept):
        try:
            figures[name] = small_png(base64.b64decode(found[name]))
        except (OSError, ValueError) as error:
            raise StudyError(f"{path}: the picture {name} cannot be recorded: {error}") from error
    return figures


def shown_figures(texts: Iterable[str], preset: str, name: str) -> set[str]:
    """File names of the recorded figures of notebook `name` that Markdown texts show: "results/cpu/01_x/c4.png"."""
    pattern = re.compile(rf"results/{re.escape(preset)}/{re.escape(name)}/([\w-]+\.png)\)")
    return {file for text in texts for file in pattern.findall(text)}


def keep_figures(figures: Mapping[str, bytes], folder: Path) -> None:
    """Write recorded figures into their folder, and remove what an earlier record left there."""
    for name, png in figures.items():
        _write(folder / name, png)
    for old in list(folder.glob("*.png")):
        if old.name not in figures:
            old.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def carry_linked(notebook: Mapping[str, Any], source: Path, target: Path) -> None:
    """Copy the pictures and pages that a notebook in folder `source` links to, so that its links hold in `target`.

    These are PNG and Markdown files under `source`. What is not there, or cannot be copied, is left out: a link is dead
    then, and no run lost.
    """
    root = source.resolve()
    for linked in linked_files(notebook, root):
        with suppress(OSError):
            _write(target / linked.relative_to(root), linked.read_bytes())


def linked_files(notebook: Mapping[str, Any], root: Path) -> list[Path]:
    """The PNG and Markdown files under the folder `root`, given resolved, that a notebook in it links to."""
    links = re.findall(r"\]\(([^()\s:#]+\.(?:png|md))[)#]", "\n".join(markdown_texts(notebook)))
    found = dict[Path, None]()
    for link in links:
        with suppress(OSError, ValueError, RuntimeError):  # too long, a zero byte, a circle of links: no file of ours
            path = (root / link).resolve()
            if path.is_relative_to(root) and path.is_file():
                found[path] = None
    return list(found)


def markdown_texts(notebook: Mapping[str, Any]) -> list[str]:
    """The Markdown cells of a notebook."""
    return [notebooks.source(cell) for cell in notebook["cells"] if cell.get("cell_type") == "markdown"]


def small_png(png: bytes, limit: int = LIMIT) -> bytes:
    """The picture on white as a palette PNG of at most `limit` bytes: with fewer colours first, then with fewer pixels.

    The same picture gives the same bytes.

    Raises:
        OSError: not a picture.
        ValueError: too large for `limit` even at a twentieth of its width.
    """
    from PIL import Image  # not needed by the other commands

    with Image.open(io.BytesIO(png)) as opened:
        drawn = opened.convert("RGBA")
    full = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")
    for step in range(20):
        size = (max(1, round(full.width * 0.85**step)), max(1, round(full.height * 0.85**step)))
        scaled = full.resize(size, Image.Resampling.LANCZOS) if step else full
        for colours in (256, 128, 64, 32):
            palette = scaled.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            file = io.BytesIO()
            palette.save(file, "PNG", optimize=True)
            if file.tell() <= limit:
                return file.getvalue()
    raise ValueError(f"{full.width} x {full.height} pixels do not fit into {limit} bytes: draw a smaller figure")


def _pictures(path: Path) -> Iterator[tuple[str, str]]:
    """File name and base64 text of every PNG in the outputs of a notebook."""
    for cell in notebooks.load(path)["cells"]:
        outputs = [output.get("data", {}).get("image/png") for output in cell.get("outputs", ())]
        for count, png in enumerate(filter(None, outputs), 1):
            name = cell.get("id", "")
            if not re.fullmatch(r"[\w-]+", name, re.ASCII):
                raise StudyError(f"{path}: a cell with a picture has the id {name!r}: save the notebook in format 4.5")
            yield f"{name}-{count}.png" if count > 1 else f"{name}.png", "".join(png)


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as part:
        part.write_bytes(content)
