"""The real sets, where FLATLAB_DATA names a folder that has them."""

import json
import os

import pytest
import torch

from flatlab.data import DataNotFound, cache, load_images, sources
from flatlab.data.registry import ENTRIES

ROOT = os.environ.get("FLATLAB_DATA", "")
pytestmark = pytest.mark.skipif(not ROOT, reason="FLATLAB_DATA is not set")

MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
PACS_DOMAINS = {"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929}


@pytest.fixture
def load(monkeypatch):
    """Load from the real folder, but cache in the test's own."""
    monkeypatch.setattr(cache, "folders", lambda root: (cache.home(),))

    def loaded(name, split, **options):
        try:
            return load_images(name, split, root=ROOT, **options)
        except DataNotFound as error:
            pytest.skip(str(error))

    return loaded


def test_mnist_counts(load):
    images = load("mnist", "test")
    assert images.x.shape == (10_000, 1, 28, 28)
    assert torch.bincount(images.y).tolist() == MNIST_TEST
    assert abs(float(images.float()[0].mean()) - 0.1325) < 0.001


def test_cifar10_counts_and_mean(load):
    images = load("cifar10", "test")
    assert images.x.shape == (10_000, 3, 32, 32)
    assert torch.bincount(images.y).tolist() == [1000] * 10
    mean = images.float()[0].mean(dim=(0, 2, 3))
    torch.testing.assert_close(mean, torch.tensor([0.494, 0.485, 0.450]), atol=0.005, rtol=0)


def test_pacs_domains(load):
    images = load("pacs", "train", size=16)
    counts = torch.bincount(images.domains).tolist()
    assert dict(zip(images.domain_names, counts, strict=True)) == PACS_DOMAINS


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "fashion_mnist", "svhn", "pacs"])
def test_class_names_are_those_of_the_files(name):
    """The hub writes the names of the labels into the file's schema."""
    from pyarrow.parquet import read_schema

    source = sources.find(name, ENTRIES[name], "train", ROOT)
    if source is None or not source.parquet:
        pytest.skip(f"{name} is not under FLATLAB_DATA")
    features = json.loads(read_schema(source.parquet[0]).metadata[b"huggingface"])["info"]["features"]
    names = [word.split("/")[0].replace(" - ", "-").strip() for word in features[ENTRIES[name].label]["names"]]
    assert tuple(names) == ENTRIES[name].classes
