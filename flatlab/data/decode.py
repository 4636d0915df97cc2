"""From files to one array: read parquet or image files, decode, check every row.

One thread: images of 32 x 32 take about 0.1 ms each, and threads that hand the interpreter's lock to and fro for so
little made 50,000 of them half again as slow.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flatlab.data.cache import Arrays
from flatlab.data.errors import DataCorrupt
from flatlab.data.registry import Entry
from flatlab.data.sources import Source, regular

if TYPE_CHECKING:
    from PIL import Image

_DAMAGED = "the file is damaged or incomplete: delete it and fetch it again"


def decode(source: Source, entry: Entry, size: int | None, rows: int | None = None) -> Arrays:
    """Decode every image to uint8 (N, C, H, W).

    Args:
        source: the files.
        entry: columns, channels, classes and domains.
        size: side to which every image is resized; None leaves them, and asks that all have one size.
        rows: how many a complete copy has, if known.

    Raises:
        DataCorrupt: for a damaged file, a wrong number of rows, a label or domain that does not exist.
        ValueError: for images of different sizes without `size`.
    """
    count = _count(source)
    if rows is not None and count != rows:
        raise DataCorrupt(
            f"{source.where} holds {count:,} rows where a complete copy has {rows:,}: files are missing, truncated or "
            "altered; delete them and fetch them again (for a part of a set use limit=, or a folder with its own name)"
        )
    x: NDArray[np.uint8] | None = None
    y = np.empty(count, dtype=np.int64)
    domains = np.empty(count, dtype=np.int64) if entry.domains else None
    for row, (where, data, label, domain) in enumerate(_rows(source, entry)):
        pixels = _pixels(where, data, entry.channels, size)
        if x is None:
            x = np.empty((count, *pixels.shape), dtype=np.uint8)
        if pixels.shape != x.shape[1:]:
            (height, width), (first_height, first_width) = pixels.shape[1:], x.shape[2:]
            raise ValueError(
                f"{where} is {height} x {width} pixels where the images before it are {first_height} x {first_width}: "
                "pass size= to resize all to one size"
            )
        x[row], y[row] = pixels, _label(where, label, entry)
        if domains is not None:
            domains[row] = _domain(where, domain, entry)
    if x is None:
        raise DataCorrupt(f"{source.where} holds no images; {_DAMAGED}")
    return Arrays(x, y, domains)


def resize(image: "Image.Image", size: int) -> "Image.Image":
    """Resize to size x size with Pillow's triangle filter, which widens with the reduction and so does not alias.

    An image that is not square is squeezed, not cropped.
    """
    from PIL import Image

    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)


def resize_array(x: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize single-channel images (N, 1, H, W) to (N, 1, size, size) as `resize` does."""
    from PIL import Image

    return np.stack([np.asarray(resize(Image.fromarray(pixels), size)) for pixels in x[:, 0]])[:, None]


def count_rows(path: Path) -> int:
    """Rows of a parquet file according to its footer, which a truncated file lacks."""
    with _parquet(path) as file:
        return int(file.metadata.num_rows)


def _count(source: Source) -> int:
    return sum(map(count_rows, source.parquet)) if source.parquet else len(source.images)


def _rows(source: Source, entry: Entry) -> Iterator[tuple[str, bytes | None, Any, Any]]:
    """Yield where a row stands (for messages), its encoded image, label and domain."""
    for path, label, domain in source.images:
        yield str(path), path.read_bytes(), label, domain
    for path in source.parquet:
        yield from _parquet_rows(path, entry)


def _parquet_rows(path: Path, entry: Entry) -> Iterator[tuple[str, bytes | None, Any, Any]]:
    import pyarrow as pa

    columns = [entry.image, entry.label, *([entry.domain] if entry.domain else [])]
    with _parquet(path) as file:
        missing = set(columns) - set(file.schema_arrow.names)
        if missing:
            raise DataCorrupt(
                f"{path} lacks the columns {', '.join(sorted(missing))} (it has {', '.join(file.schema_arrow.names)}); "
                "is it another data set?"
            )
        batches = file.iter_batches(batch_size=1024, columns=columns)
        start = 0
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise DataCorrupt(f"{path} cannot be read after row {start} ({error}); {_DAMAGED}") from error
            if batch is None:
                return
            images = batch.column(entry.image)
            if pa.types.is_struct(images.type):
                images = images.field("bytes")
            labels = batch.column(entry.label).to_pylist()
            domains = batch.column(entry.domain).to_pylist() if entry.domain else [None] * len(labels)
            for row, (data, label, domain) in enumerate(zip(images.to_pylist(), labels, domains, strict=True), start):
                yield f"row {row} of {path}", data, label, domain
            start += len(labels)


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    regular(path)
    try:
        return ParquetFile(path)
    except (PermissionError, FileNotFoundError):
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataCorrupt(f"{path} ({path.stat().st_size:,} bytes) is not a parquet file; {_DAMAGED}") from error


def _pixels(where: str, data: bytes | None, channels: int, size: int | None) -> NDArray[np.uint8]:
    """Decode one image to (C, H, W)."""
    from PIL import Image

    if not data:
        raise DataCorrupt(f"{where} holds no image bytes; {_DAMAGED}")
    mode = "L" if channels == 1 else "RGB"
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.mode[0] in "IF":
                raise DataCorrupt(f"{where} has pixels of mode {image.mode!r}: convert the images to 8 bits a channel")
            converted = image if image.mode == mode else image.convert(mode)
            pixels = np.asarray(converted if size is None else resize(converted, size))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataCorrupt(f"{where} is not a readable PNG or JPEG image ({error}); {_DAMAGED}") from error
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _label(where: str, label: Any, entry: Entry) -> int:
    if not isinstance(label, int) or not 0 <= label < len(entry.classes):
        raise DataCorrupt(f"{where} has the label {label!r}: labels must lie in 0..{len(entry.classes) - 1}")
    return label


def _domain(where: str, domain: Any, entry: Entry) -> int:
    if isinstance(domain, int):
        return domain  # from a folder's name, and known already
    if domain not in entry.domains:
        raise DataCorrupt(f"{where} has the domain {domain!r}: domains are {', '.join(entry.domains)}")
    return entry.domains.index(domain)
