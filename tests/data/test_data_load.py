"""load_images on files: layouts, options, cache."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from flatlab.data import DataNotFound, available, cache, load, load_images, sources, status
from flatlab.data.registry import ENTRIES, Entry


@pytest.fixture
def decodings(monkeypatch):
    """A list that grows by one with every decoding."""
    calls, decode = [], load.decode
    monkeypatch.setattr(load, "decode", lambda *arguments: calls.append(arguments) or decode(*arguments))
    return calls


@pytest.fixture
def read_only(root):
    yield lambda: root.chmod(0o555)
    root.chmod(0o755)


def test_parquet(toy, root, parquet, pixels):
    parquet(pixels)
    images = load_images("toy", "train", root=root)
    np.testing.assert_array_equal(images.x.numpy(), pixels.transpose(0, 3, 1, 2))
    assert images.y.tolist() == [0, 1, 1]
    assert images.y.dtype == torch.int64
    assert (images.classes, images.name, images.split, images.domains) == (("cat", "dog"), "toy", "train", None)


def test_shards_are_read_in_order(toy, root, parquet, pixels):
    parquet(pixels[2:], [1], "org/toy/plain/train-00001-of-00002.parquet")
    parquet(pixels[:2], [0, 1], "org/toy/plain/train-00000-of-00002.parquet")
    parquet(pixels, [0, 0, 0], "org/toy/plain/test-00000-of-00001.parquet")  # another split
    images = load_images("toy", "train", root=root)
    np.testing.assert_array_equal(images.x.numpy(), pixels.transpose(0, 3, 1, 2))
    assert images.y.tolist() == [0, 1, 1]


def test_more_rows_than_a_batch(monkeypatch, root, parquet):
    monkeypatch.setitem(ENTRIES, "toy", Entry("org/toy", "plain", ("a", "b"), 1, {"train": 2500}, image="img"))
    numbers = np.arange(2500)
    images = np.stack([numbers // 256, numbers % 256], 1).astype(np.uint8)[:, None]
    parquet(images, numbers % 2)
    loaded = load_images("toy", "train", root=root)
    np.testing.assert_array_equal(loaded.x.numpy(), images[:, None])
    assert loaded.y.tolist() == (numbers % 2).tolist()


def test_domains(monkeypatch, root, parquet, pixels, png):
    entry = Entry("org/toy", "plain", ("cat", "dog"), 3, {"train": 3}, domain="style", domains=("photo", "sketch"))
    monkeypatch.setitem(ENTRIES, "toy", entry)
    path = parquet(pixels, image_column="image", style=["sketch", "photo", "sketch"])
    images = load_images("toy", "train", root=root)
    assert images.domains.tolist() == [1, 0, 1]
    assert images.domain_names == ("photo", "sketch")
    assert load_images("toy", "train", root=root).domains.tolist() == [1, 0, 1]  # out of the cache

    path.unlink()
    for number, (domain, name) in enumerate([("photo", "dog"), ("sketch", "cat"), ("sketch", "dog")]):
        folder = root / "toy" / "train" / domain / name
        folder.mkdir(parents=True)
        (folder / "x.png").write_bytes(png(pixels[number]))
    images = load_images("toy", "train", root=root)
    assert (images.domains.tolist(), images.y.tolist()) == ([0, 1, 1], [1, 0, 1])
    np.testing.assert_array_equal(images.x.numpy(), pixels.transpose(0, 3, 1, 2))


def test_class_folders_equal_parquet(toy, root, parquet, class_folders, pixels):
    path = parquet(pixels)
    expected = load_images("toy", "train", root=root)
    path.unlink()
    folder = class_folders(pixels)
    (folder / "dog" / "notes.txt").write_text("not an image")
    (folder / "dog" / ".hidden.png").write_text("nor this")
    images = load_images("toy", "train", root=root)
    assert torch.equal(images.x, expected.x)
    assert torch.equal(images.y, expected.y)


def test_folder_of_your_own(root, class_folders, pixels):
    class_folders(pixels, ("pear", "fig", "fig"), "fruit/train")
    class_folders(pixels[:1], ("apple",), "fruit/test")
    train, test = (load_images("fruit", split, root=root) for split in ("train", "test"))
    assert train.classes == test.classes == ("apple", "fig", "pear")
    assert (train.y.tolist(), test.y.tolist()) == ([1, 1, 2], [0])
    with pytest.raises(DataNotFound, match="'valid'"):
        load_images("fruit", "valid", root=root)


def test_root_comes_from_the_environment_unless_given(toy, root, parquet, pixels, tmp_path, monkeypatch):
    parquet(pixels)
    monkeypatch.setenv("FLATLAB_DATA", str(root))
    assert len(load_images("toy", "train")) == len(load_images("toy", "train", root="")) == 3
    with pytest.raises(DataNotFound):
        load_images("toy", "train", root=tmp_path / "elsewhere")


def test_user_folder_is_looked_at_last(toy, root, parquet, pixels, monkeypatch, tmp_path):
    monkeypatch.setenv("FLATLAB_DATA", str(tmp_path / "empty"))
    parquet(pixels)
    cache.home().mkdir()
    root.rename(cache.home() / "data")
    assert len(load_images("toy", "train")) == 3


def test_resize_averages_and_limit_and_channels(monkeypatch, root, parquet):
    """A checkerboard reduced without antialiasing would stay black or white."""
    monkeypatch.setitem(ENTRIES, "toy", Entry("org/toy", "plain", ("a", "b"), 3, {"train": 10}, image="img"))
    board = np.indices((16, 16)).sum(0) % 2 * 255
    parquet([np.stack([board] * 3, -1).astype(np.uint8)] * 10, [0] * 6 + [1] * 4)
    small = load_images("toy", "train", root=root, size=4)
    assert small.x.shape == (10, 3, 4, 4)
    assert (small.x.int() - 127).abs().max() <= 4
    part = load_images("toy", "train", root=root, size=4, limit=5, channels=1)
    assert part.x.shape == (5, 1, 4, 4)
    assert part.y.tolist() == [0, 0, 0, 1, 1]
    assert len(load_images("toy", "train", root=root, limit=99)) == 10


def test_greyscale_set_turns_colour_files_grey(monkeypatch, root, parquet, pixels):
    monkeypatch.setitem(ENTRIES, "toy", Entry("org/toy", "plain", ("a", "b"), 1, {"train": 3}, image="img"))
    parquet(pixels)
    assert load_images("toy", "train", root=root).x.shape == (3, 1, 4, 6)


def test_cache_is_used_and_equal(toy, root, parquet, pixels, decodings):
    parquet(pixels)
    first, second = (load_images("toy", "train", root=root) for _ in range(2))
    assert len(decodings) == 1
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.y, second.y)
    files = sorted(path.name for path in (root / ".flatlab").iterdir())
    assert [name.split(".", 1)[1] for name in files] == ["json", "labels.npy", "npy"]
    load_images("toy", "train", root=root, channels=1, limit=2)  # made from the same cache
    assert len(decodings) == 1
    load_images("toy", "train", root=root, size=2)
    assert len(decodings) == 2


def test_writing_to_images_leaves_the_cache_alone(toy, root, parquet, pixels):
    parquet(pixels)
    for _ in range(2):
        images = load_images("toy", "train", root=root)
        np.testing.assert_array_equal(images.x.numpy(), pixels.transpose(0, 3, 1, 2))
        images.x.zero_()


def test_changed_source_is_decoded_again(toy, root, parquet, pixels, decodings):
    path = parquet(pixels)
    load_images("toy", "train", root=root)
    parquet(pixels[::-1])
    assert load_images("toy", "train", root=root).x[0, 0, 0, 0] == pixels[2, 0, 0, 0]
    facts = path.stat()
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))  # same size, another time
    load_images("toy", "train", root=root)
    assert len(decodings) == 3


def test_read_only_root_is_left_alone(toy, root, parquet, pixels, decodings, read_only):
    parquet(pixels)
    read_only()
    for _ in range(2):
        load_images("toy", "train", root=root)
    assert len(decodings) == 1
    assert sorted(path.name for path in root.iterdir()) == ["org"]
    assert len(list(cache.home().glob("toy-train-native-*"))) == 3


def test_nowhere_to_cache_warns_and_works(toy, root, parquet, pixels, read_only, monkeypatch):
    parquet(pixels)
    read_only()
    monkeypatch.setenv("FLATLAB_CACHE", str(root / "cache"))
    with pytest.warns(UserWarning, match="set FLATLAB_CACHE"):
        images = load_images("toy", "train", root=root)
    assert len(images) == 3


def test_full_disk_falls_back(toy, root, parquet, pixels, monkeypatch):
    parquet(pixels)
    save = cache._save

    def full(part, array):
        if root in part.parents:
            part.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(part, array)

    monkeypatch.setattr(cache, "_save", full)
    assert len(load_images("toy", "train", root=root)) == 3
    assert list((root / ".flatlab").iterdir()) == []
    assert len(list(cache.home().glob("toy-train-*"))) == 3


def test_abandoned_part_files_are_swept(toy, root, parquet, pixels):
    parquet(pixels)
    (root / ".flatlab").mkdir()
    old, new = root / ".flatlab" / ".a.npy.1-1.part", root / ".flatlab" / ".b.npy.2-2.part"
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    load_images("toy", "train", root=root)
    assert (old.exists(), new.exists()) == (False, True)


def test_writers_at_once_do_not_share_part_files(tmp_path, monkeypatch):
    """Both have written their part before either renames it."""
    arrays = cache.Arrays(np.zeros((2, 1, 3, 3), np.uint8), np.zeros(2, np.int64))
    save, barrier, parts = cache._save, threading.Barrier(2, timeout=600), []

    def save_together(part, array):
        save(part, array)
        parts.append(part.name)
        barrier.wait()

    monkeypatch.setattr(cache, "_save", save_together)
    with ThreadPoolExecutor(2) as pool:
        for written in [pool.submit(cache.write, tmp_path / "cache", "stem", arrays) for _ in range(2)]:
            written.result()
    assert len(set(parts)) == 4
    assert all(str(os.getpid()) in name for name in parts)  # threads of two processes can have one number
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["stem.json", "stem.labels.npy", "stem.npy"]


def test_two_processes_decode_at_once(root, class_folders):
    """Both wait for each other, decode, and report what they see; one complete cache is left."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 12, 12, 3), dtype=np.uint8)
    class_folders(noise, ["left", "right"] * 100, "mine/train")
    code = """
import sys, time, pathlib
from flatlab import data
from flatlab.data import cache, load
root, me, other = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
decode = load.decode
def together(*arguments):
    (root / me).touch()
    while not (root / other).exists():
        time.sleep(0.001)
    return decode(*arguments)
load.decode = together
images = data.load_images("mine", "train", root=root)
print(cache.checksum(cache.Arrays(images.x.numpy(), images.y.numpy())), data.verify("mine", "train", root=root))
"""
    pairs = (("one", "two"), ("two", "one"))
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(root), *names], stdout=subprocess.PIPE, text=True)
        for names in pairs
    ]
    said = [process.communicate(timeout=600)[0].split() for process in running]
    assert len(set(said[0] + said[1])) == 1
    assert len(said[0]) == 2
    assert len(list((root / ".flatlab").iterdir())) == 3
    by_class = np.concatenate([noise[0::2], noise[1::2]]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(load_images("mine", "train", root=root).x.numpy(), by_class)


def test_missing_data_names_layout_and_cure(tmp_path, monkeypatch):
    monkeypatch.setenv("FLATLAB_DATA", str(tmp_path / "nothing"))
    with pytest.raises(DataNotFound) as caught:
        load_images("cifar10", "train")
    message = str(caught.value)
    for part in (
        "'cifar10'",
        str(tmp_path / "nothing"),
        str(cache.home() / "data"),
        "uoft-cs/cifar10/plain_text/train-*.parquet",
        "cifar10/train/CLASS/*.png",
        "python -m flatlab data download cifar10",
        "'digits' needs no files",
    ):
        assert part in message
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("cifar", "train"), {}, "did you mean 'cifar10'"),
        (("../etc", "train"), {}, "unknown data set"),
        (("digits", "tset"), {}, "did you mean 'test'"),
        (("digits", "train"), {"size": 0}, "size"),
        (("digits", "train"), {"limit": 0}, "limit"),
        (("digits", "train"), {"limit": 2.5}, "limit"),
        (("digits", "train"), {"channels": 2}, "1 or 3"),
    ],
)
def test_bad_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        load_images(*arguments, **options)


def test_status_and_available(toy, root, parquet, pixels):
    assert {"digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "pacs"} <= set(available())
    parquet(pixels)
    lines = {(line.name, line.split): line for line in status(root)}
    assert lines["toy", "train"] == ("toy", "train", 3, 2, str(root / "org/toy/plain"))
    assert lines["digits", "test"] == ("digits", "test", 597, 10, "embedded")
    assert lines["cifar100", "train"] == ("cifar100", "train", 50_000, 100, "")


def test_registry_is_consistent():
    for name, entry in ENTRIES.items():
        assert entry.channels in (1, 3), name
        assert len(set(entry.classes)) == len(entry.classes), name
        assert not any("/" in word for word in entry.classes + entry.domains), name
        assert bool(entry.domain) == bool(entry.domains), name
    assert len(ENTRIES["cifar100"].classes) == 100
    assert list(ENTRIES["cifar100"].classes) == sorted(ENTRIES["cifar100"].classes)


def test_roots_expand_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.roots("~/data") == (tmp_path / "data",)
