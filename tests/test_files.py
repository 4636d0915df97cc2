"""Files appear whole or not at all."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from flatlab import files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_disk)
        with pytest.raises(OSError, match=f"cannot write {path}: No space left"):
            files.write_text(path, "new")
    with pytest.raises(TypeError), files.replacing(path) as part:
        part.write_text("half") and part.write_text(None)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_missing_folders_are_made_and_bytes_are_kept(tmp_path):
    with files.replacing(tmp_path / "a" / "b.bin") as part:
        part.write_bytes(b"\x00\xff")
        assert not (tmp_path / "a" / "b.bin").exists()
        assert not files.abandoned(part)
    assert (tmp_path / "a" / "b.bin").read_bytes() == b"\x00\xff"


def test_threads_that_write_one_file_have_parts_of_their_own(tmp_path):
    together, parts = threading.Barrier(2, timeout=600), []

    def write(text):
        with files.replacing(tmp_path / "a") as part:
            part.write_text(text)
            parts.append(part.name)
            together.wait()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write, text) for text in "xy"]:
            done.result()
    assert len(set(parts)) == 2
    assert (tmp_path / "a").read_text() in ("x", "y")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
