"""Where data lie: roots that look alike, folders that may not be read, and what is no file among files."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flatlab.data import DataCorrupt, DataNotFound, cache, load_images, load_sentences, load_text, status, verify
from flatlab.dg import load_domains


@pytest.fixture
def at_once() -> Iterator[None]:
    """A test that waits for the writer of a pipe fails."""

    def stop(*_: Any) -> None:
        raise TimeoutError("a reader waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


class TestRoots:
    @pytest.fixture
    def twins(self, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
        """Two roots that may not be written, with files of the same names, sizes and times but other pixels."""
        from PIL import Image

        found = (tmp_path / "one", tmp_path / "two")
        for value, root in enumerate(found):
            file = root / "mine" / "train" / "cat" / "0.png"
            file.parent.mkdir(parents=True)
            Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file, compress_level=0)
            os.utime(file, ns=(10**18, 10**18))
            root.chmod(0o555)
        yield found
        for root in found:
            root.chmod(0o755)

    def test_twins_do_not_share_a_cache(self, twins: tuple[Path, Path]) -> None:
        facts = [(root / "mine/train/cat/0.png").stat() for root in twins]
        assert facts[0].st_size == facts[1].st_size
        for _ in range(2):
            for value, root in enumerate(twins):
                assert load_images("mine", "train", root=root).x.unique().tolist() == [value]
        assert len(list(cache.home().glob("mine-train-native-*.json"))) == 2
        assert verify("mine", "train", root=twins[0]) != verify("mine", "train", root=twins[1])

    def test_a_root_by_another_name_is_the_same(self, twins: tuple[Path, Path], tmp_path: Path, monkeypatch) -> None:
        (tmp_path / "link").symlink_to(twins[1])
        monkeypatch.chdir(tmp_path)
        for root in (twins[1], tmp_path / "link", "two", "one/../two"):
            assert load_images("mine", "train", root=root).x.unique().tolist() == [1]
        assert len(list(cache.home().glob("mine-train-native-*.json"))) == 1

    def test_names_of_any_bytes(self, tmp_path: Path, png: Callable[..., bytes]) -> None:
        folder = tmp_path / os.fsdecode(b"r\xff\xfe") / "mine" / "train" / "cat"
        try:
            folder.mkdir(parents=True)
        except OSError:
            pytest.skip("this file system takes names in UTF-8 alone")
        (folder / os.fsdecode(b"\xff.png")).write_bytes(png(np.zeros((4, 4, 3), np.uint8)))
        assert len(load_images("mine", "train", root=folder.parents[2])) == 1


LOADERS: dict[str, Callable[[Path], Any]] = {
    "images": lambda root: load_images("cifar10", "train", root=root),
    "own images": lambda root: load_images("mine", "train", root=root),
    "text": lambda root: load_text("tiny_shakespeare", "train", root=root),
    "sentences": lambda root: load_sentences("sst2", "train", root=root),
    "domains": lambda root: load_domains("office_home", root=root, size=8),
    "status": status,
}


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
class TestUnreadable:
    def test_a_root_that_is_a_file(self, load: Callable[[Path], Any], tmp_path: Path) -> None:
        (tmp_path / "root").write_text("no folder")
        with pytest.raises(DataNotFound, match=r"/root is no folder: set FLATLAB_DATA or root= to the folder"):
            load(tmp_path / "root")

    def test_a_root_that_may_not_be_read(self, load: Callable[[Path], Any], root: Path, monkeypatch) -> None:
        """The user of a test may read everything: the system is made to say no."""
        allowed = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != root and allowed(path, mode))
        with pytest.raises(PermissionError, match=rf"{root} may not be read: change its permissions, or name another"):
            load(root)


def test_a_folder_of_parquet_that_may_not_be_read_is_not_a_missing_one(toy, root: Path, parquet, pixels, monkeypatch):
    folder, listed = parquet(pixels).parent, os.scandir
    iterdir = Path.iterdir

    def refuse(path: Any) -> None:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))

    # Both ways in which pathlib lists a folder.
    monkeypatch.setattr(os, "scandir", lambda path=".": refuse(path) or listed(path))
    monkeypatch.setattr(Path, "iterdir", lambda path: refuse(path) or iterdir(path))
    with pytest.raises(PermissionError, match="org/toy/plain"):
        load_images("toy", "train", root=root)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


ODD = {
    "pipe": pipe,
    "socket": a_socket,
    "device": lambda path: path.symlink_to(os.devnull),
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes in folders")
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.usefixtures("at_once")
class TestOddFiles:
    def test_among_images(self, kind: str, toy, root: Path, class_folders, pixels) -> None:
        odd = class_folders(pixels) / "dog" / "9.png"
        ODD[kind](odd)
        for call in (load_images, verify):
            with pytest.raises(DataCorrupt, match=rf"{odd} is a {kind} where a file of data is expected: remove it"):
                call("toy", "train", root=root)
        odd.unlink() if kind != "folder" else odd.rmdir()
        assert len(load_images("toy", "train", root=root)) == 3

    def test_among_parquet_files(self, kind: str, toy, root: Path, parquet, pixels) -> None:
        odd = parquet(pixels).with_name("train-00001-of-00001.parquet")
        ODD[kind](odd)
        with pytest.raises(DataCorrupt, match=rf"{odd} is a {kind}"):
            load_images("toy", "train", root=root)

    def test_instead_of_a_text(self, kind: str, root: Path) -> None:
        odd = root / "karpathy/tiny_shakespeare/input.txt"
        odd.parent.mkdir(parents=True)
        ODD[kind](odd)
        with pytest.raises(DataCorrupt, match=rf"{odd} is a {kind}"):
            load_text("tiny_shakespeare", "train", root=root)

    @pytest.mark.parametrize("name", ["data/train-0.parquet", "synonyms.json"])
    def test_among_sentences(self, kind: str, name: str, root: Path) -> None:
        import pyarrow as pa
        from pyarrow.parquet import write_table

        folder = root / "stanfordnlp/sst2"
        (folder / "data").mkdir(parents=True)
        for split in ("train", "validation"):
            write_table(pa.table({"sentence": ["a b"], "label": [1]}), folder / f"data/{split}-0.parquet")
        (folder / "synonyms.json").write_text("{}")
        (folder / name).unlink()
        ODD[kind](folder / name)
        with pytest.raises(DataCorrupt, match=rf"{folder / name} is a {kind}"):
            load_sentences("sst2", "train", root=root)

    def test_among_corrupted_images(self, kind: str, root: Path, monkeypatch) -> None:
        from flatlab.data import ImageSet
        from flatlab.dg import load

        clean = ImageSet(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.arange(2), ("a", "b"))
        monkeypatch.setattr(load, "load_images", lambda *_, **__: clean)
        odd = root / "CIFAR-10-C" / "fog.npy"
        odd.parent.mkdir()
        ODD[kind](odd)
        with pytest.raises(DataCorrupt, match=rf"{odd} is a {kind}"):
            load_domains("cifar10_c", root=root)
