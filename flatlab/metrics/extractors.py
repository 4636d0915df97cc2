"""Features of images for FID, KID and the inception score: what a network sees before its last layer.

extract = classifier_features(model)                      # or inception_v3(weights="inception.pth")
real = FIDStats(extract.name).update(extract(images))     # images (N, C, H, W), uint8

A name says which network it was, with a hash of the weights, since FIDs of different networks cannot be compared.
Images come as uint8, as stored images are: float images of a generator are to be rounded first, or FID sees the
difference (a generator's values between two levels tell it from any stored image).
"""

import hashlib
import itertools
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flatlab import checks
from flatlab.models.parts import FeatureNet
from flatlab.modes import evaluating


class Extractor:
    """Images (N, C, H, W), uint8, -> features (N, D), float64; evaluated in eval mode, without gradients, in batches.

    Args:
        network: from images, uint8, to features; a module's batches are moved to its device.
        name: what tells it from other networks, for `FIDStats`.
        batch_size: images at a time.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], name: str, *, batch_size: int = 256) -> None:
        self.network, self.name = network, name
        self.batch_size = checks.at_least("batch_size", batch_size, 1)

    def to(self, device: torch.device | str) -> "Extractor":
        """Move the network, if it is a module, to where it is to compute; returns self."""
        if isinstance(self.network, nn.Module):
            self.network.to(device)
        return self

    def __call__(self, images: Tensor | NDArray) -> Tensor:
        """Features of images.

        Raises:
            TypeError: images that are not uint8.
            ValueError: other shapes, of the images or of what the network returns.
        """
        images = torch.as_tensor(images)
        if images.dtype != torch.uint8:
            raise TypeError(f"images must be uint8 in 0..255, got {images.dtype}; round (255 * x) to uint8 first")
        if images.ndim != 4 or not len(images):
            raise ValueError(f"images must be (N, C, H, W) with N >= 1, got shape {tuple(images.shape)}")
        module = self.network if isinstance(self.network, nn.Module) else None
        device = next(itertools.chain(module.parameters(), module.buffers()), images).device if module else None
        with torch.no_grad(), evaluating(module) if module else nullcontext():
            found = [self.network(batch.to(device or batch.device)) for batch in images.split(self.batch_size)]
        rows = torch.cat(found).double()
        if rows.ndim != 2 or len(rows) != len(images):
            shapes = f"{tuple(rows.shape)} for {len(images)} images"
            raise ValueError(f"the network of {self.name!r} must return features (N, D), got {shapes}")
        return rows


def weights_hash(module: nn.Module) -> str:
    """First 12 hex digits of SHA-256 over the names, types, shapes and bytes of the module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def classifier_features(model: nn.Module, *, batch_size: int = 256) -> Extractor:
    """What a classifier of images in [0, 1] hands to its last linear layer.

    Args:
        model: a network that `flatlab.models.parts.FeatureNet` can take apart; not copied, so do not train it on.
        batch_size: see `Extractor`.
    """
    name = f"{type(model).__name__} {weights_hash(model)}"
    return Extractor(nn.Sequential(_Unit(), FeatureNet(model).featurizer), name, batch_size=batch_size)


def inception_v3(*, weights: str | Path | None = None, download: bool = False, batch_size: int = 64) -> Extractor:
    """The pool3 features (D = 2048) of the Inception-v3 that FID was defined with, as torch-fidelity converted it.

    The weights are read by torch-fidelity, with `torch.load`: take files from sources that you trust.

    Args:
        weights: file of the weights in torch-fidelity's format.
        download: without a file, let torch-fidelity fetch it.
        batch_size: see `Extractor`.

    Raises:
        ImportError: torch-fidelity is not installed.
        FileNotFoundError: no file at `weights`.
        ValueError: no weights, and no leave to download them.
    """
    if weights is None and not download:
        raise ValueError("inception_v3 needs its weights: name their file, or let it be fetched with download=True")
    if weights is not None and not Path(weights).is_file():
        raise FileNotFoundError(f"no weights at {weights}")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ImportError("inception_v3 needs torch-fidelity: pip install 'flatlab[fidelity]'") from error
    path = None if weights is None else str(weights)
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=path)
    name = f"inception-v3-compat 2048 {weights_hash(network)}"
    return Extractor(nn.Sequential(network, _First()), name, batch_size=batch_size)


class _Unit(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float() / 255


class _First(nn.Module):
    def forward(self, found: tuple[Tensor, ...]) -> Tensor:
        return found[0]
