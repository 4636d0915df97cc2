"""download with the hub replaced by a folder; nothing here uses the network."""

import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import utils

from flatlab.data import DataCorrupt, DownloadFailed, download, load_images
from flatlab.data.registry import ENTRIES, Entry


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that lists `files` and hands out `content`; records what was asked for."""
    state = SimpleNamespace(files=[], content=None, fetched=[], bars_off=None, error=None)

    def dataset_info(self, repo, *, timeout):
        if state.error is not None:
            raise state.error
        assert (repo, timeout <= 10) == ("org/toy", True)
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in state.files])

    def hf_hub_download(repo, filename, *, repo_type, local_dir, etag_timeout):
        assert (repo, repo_type) == ("org/toy", "dataset")
        state.fetched.append(filename)
        state.bars_off = utils.are_progress_bars_disabled()
        target = local_dir / filename
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(state.content, target)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return state


FILE = "plain/train-00000-of-00001.parquet"


@pytest.fixture
def filled(hub, toy, parquet, pixels):
    hub.content = parquet(pixels, file="hub.parquet")
    hub.files = [FILE, "README.md", "plain/valid-00000-of-00001.parquet", "other/train-00000-of-00001.parquet"]
    return hub


def test_fetches_only_the_parquet_files_of_the_set(filled, tmp_path):
    target = tmp_path / "new" / "folder"
    assert download("toy", target) == target / "org/toy/plain"
    assert filled.fetched == [FILE]
    assert len(load_images("toy", "train", root=target)) == 3


def test_goes_to_flatlab_data(filled, tmp_path, monkeypatch):
    monkeypatch.setenv("FLATLAB_DATA", str(tmp_path / "data"))
    assert download("toy") == tmp_path / "data" / "org/toy/plain"
    assert len(load_images("toy", "train")) == 3


def test_without_settings_load_finds_what_download_left(filled):
    download("toy")
    assert len(load_images("toy", "train")) == 3


@pytest.mark.parametrize("progress", [False, True])
def test_progress_bars_are_as_asked_and_restored(filled, tmp_path, progress):
    assert not utils.are_progress_bars_disabled()
    download("toy", tmp_path / "new", progress=progress)
    assert filled.bars_off == (not progress)
    assert not utils.are_progress_bars_disabled()


@pytest.mark.parametrize("error", [ConnectionError("no route to host\nand more"), RuntimeError("no route to host")])
def test_unreachable_hub(filled, tmp_path, error):
    filled.error = error
    with pytest.raises(DownloadFailed, match=r"'toy' \(org/toy\).*no route to host\. Check the network.*plain/\*"):
        download("toy", tmp_path / "new")
    assert not utils.are_progress_bars_disabled()


def test_offline_mode_fails_at_once(toy, tmp_path, monkeypatch):
    """With the real client: it refuses before it opens a connection."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadFailed, match="HF_HUB_OFFLINE"):
        download("toy", tmp_path / "new")


def test_hub_without_the_files(filled, tmp_path):
    filled.files = ["README.md"]
    with pytest.raises(DownloadFailed, match="no plain/"):
        download("toy", tmp_path / "new")


def test_incomplete_download(filled, tmp_path, monkeypatch):
    monkeypatch.setitem(ENTRIES, "toy", Entry("org/toy", "plain", ("cat", "dog"), 3, {"train": 4}, image="img"))
    with pytest.raises(DataCorrupt, match="3 rows of 'train' where 4"):
        download("toy", tmp_path / "new")


def test_refusals(filled, tmp_path):
    with pytest.raises(ValueError, match="embedded"):
        download("digits")
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        download("mnits")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    with pytest.raises(PermissionError, match="root= or FLATLAB_DATA"):
        download("toy", locked)
    assert filled.fetched == []
