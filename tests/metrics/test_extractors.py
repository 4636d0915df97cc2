"""Features of images: batches and modes, names by weights, classifiers, a stand-in for torch-fidelity's Inception."""

import copy
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flatlab import models
from flatlab.metrics import Extractor, FIDStats, classifier_features, fid, inception_v3, weights_hash

IMAGES = torch.randint(256, (23, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def classifier(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(144, 5), nn.Linear(5, 3)
    )


def test_any_callable_makes_features() -> None:
    batches = []

    def pixels(batch: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert batch.dtype == torch.uint8
        batches.append(len(batch))
        return batch.flatten(1).float()

    extract = Extractor(pixels, "pixels", batch_size=10)
    found = extract(IMAGES)
    assert (extract.name, batches) == ("pixels", [10, 10, 3])
    assert found.dtype == torch.float64
    assert torch.equal(found, IMAGES.flatten(1).double())
    assert torch.equal(extract(IMAGES.numpy()), found)


def test_what_a_classifier_hands_to_its_last_layer() -> None:
    model = classifier().train()
    model[1].eval()
    extract = classifier_features(model, batch_size=5)
    found = extract(IMAGES)
    assert [layer.training for layer in model] == [True, False, *[True] * 5], "modes are as they were"
    model.eval()
    with torch.no_grad():
        expected = model[:-1](IMAGES.float() / 255)
        torch.testing.assert_close(model[-1](found.float()), model(IMAGES.float() / 255))
    assert found.shape == (23, 5)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected.double())
    assert extract.name == f"Sequential {weights_hash(model)}"


def test_networks_of_the_registry_and_their_statistics() -> None:
    one, other = (classifier_features(models.build("small_cnn", (1, 8, 8), 10, seed=seed)) for seed in (0, 1))
    assert one.name != other.name
    a, b = (FIDStats(extract.name).update(extract(IMAGES)) for extract in (one, other))
    with pytest.raises(ValueError, match="cannot be compared"):
        fid(a, b, warn=False)
    assert fid(a, FIDStats(one.name).update(one(IMAGES)), warn=False) < 1e-6


def test_a_hash_of_names_types_shapes_and_bytes() -> None:
    layer = nn.Linear(3, 2)
    first = weights_hash(layer)
    assert len(first) == 12
    assert int(first, 16) >= 0
    assert weights_hash(copy.deepcopy(layer).eval()) == first
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight[1, 2] = torch.nextafter(other.weight[1, 2], torch.tensor(9.0))
    turned = copy.deepcopy(layer)
    turned.weight = nn.Parameter(layer.weight.reshape(3, 2))
    typed = copy.deepcopy(layer)
    typed.weight = nn.Parameter(layer.weight.detach().view(torch.int32), requires_grad=False)
    changed = [other, turned, typed, nn.Sequential(layer), nn.BatchNorm1d(2)]
    assert len({first, *map(weights_hash, changed)}) == 6
    assert weights_hash(layer.bfloat16()) != first
    strided = nn.Linear(3, 2)
    strided.load_state_dict(other.state_dict())
    strided.weight = nn.Parameter(other.weight.detach().T.contiguous().T)
    assert weights_hash(strided) == weights_hash(other), "how they lie in memory does not matter"
    buffered = nn.BatchNorm1d(2)
    before = weights_hash(buffered)
    buffered.running_mean += 1
    assert weights_hash(buffered) != before


def test_bad_images_and_networks_are_refused() -> None:
    extract = classifier_features(classifier())
    with pytest.raises(TypeError, match=r"images must be uint8 in 0..255, got torch.float32; round"):
        extract(IMAGES / 255)
    for bad in (IMAGES[0], IMAGES[:0]):
        with pytest.raises(ValueError, match=r"images must be \(N, C, H, W\) with N >= 1"):
            extract(bad)
    with pytest.raises(ValueError, match=r"'maps' must return features \(N, D\), got \(23, 1, 8, 8\) for 23 images"):
        Extractor(lambda batch: batch.float(), "maps")(IMAGES)
    with pytest.raises(ValueError, match=r"'half' must return .* got \(12, 64\) for 23 images"):
        Extractor(lambda batch: batch[::2].flatten(1), "half", batch_size=22)(IMAGES[: 22 + 1])
    with pytest.raises(ValueError, match="batch_size must be an integer >= 1, got 0"):
        Extractor(nn.Flatten(), "flat", batch_size=0)
    with pytest.raises(TypeError, match="no .classifier"):
        classifier_features(nn.Sequential(nn.Flatten(), nn.ReLU()))


class Inception(nn.Module):
    """As torch-fidelity's: features as a tuple, weights from a file or from the network."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None) -> None:
        super().__init__()
        self.asked = (name, features_list, feature_extractor_weights_path)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        assert images.dtype == torch.uint8
        assert not self.training
        return (self.scale * images.flatten(1).float(),)


def test_the_inception_network_of_torch_fidelity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = "torch_fidelity.feature_extractor_inceptionv3"
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, place, types.SimpleNamespace(FeatureExtractorInceptionV3=Inception))
    weights = tmp_path / "inception.pth"
    weights.touch()
    extract = inception_v3(weights=weights, batch_size=7)
    assert extract.batch_size == 7
    assert extract.network[0].asked == ("inception-v3-compat", ["2048"], str(weights))
    assert extract.name == f"inception-v3-compat 2048 {weights_hash(extract.network[0])}"
    assert torch.equal(extract(IMAGES), 2 * IMAGES.flatten(1).double())
    assert inception_v3(download=True).network[0].asked[2] is None
    with pytest.raises(ValueError, match="name their file, or let it be fetched with download=True"):
        inception_v3()
    with pytest.raises(FileNotFoundError, match=r"no weights at .*missing\.pth"):
        inception_v3(weights=tmp_path / "missing.pth")
    monkeypatch.setitem(sys.modules, place, None)
    with pytest.raises(ImportError, match=r"needs torch-fidelity: pip install 'flatlab\[fidelity\]'"):
        inception_v3(download=True)


def test_a_network_is_moved_and_a_function_is_left_alone() -> None:
    extract = classifier_features(classifier())
    assert extract.to("meta") is extract
    assert isinstance(extract.network, nn.Module)
    assert all(p.is_meta for p in extract.network.parameters())
    plain = Extractor(lambda batch: batch.flatten(1).float(), "pixels").to("meta")
    assert plain(IMAGES).shape == (23, 64)
