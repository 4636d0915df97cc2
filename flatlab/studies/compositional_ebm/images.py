"""Images: densities in whitened principal components, their likelihoods, what they call unlikely, and samples of them.

The model is p(z) ~ q(z) exp g(z) with g smoothly capped, so that no importance weight exceeds e^cap: the noise q is the
base as well. All methods see the same data, noise, batches and, for each seed, the same first weights.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import data, ebm, metrics, models, train
from flatlab.studies.compositional_ebm.planar import LOSSES
from flatlab.studies.compositional_ebm.settings import CompositionalEBM
from flatlab.studies.tuning import choose

HARD = ("blur", "mix", "noise", "flip")
"""Corruptions of test images that are not told apart at a glance."""


@dataclass(frozen=True)
class Learned:
    """What a loss learned with a noise, for S seeds; NaN for a run that diverged, or that the draws do not cover.

    Attributes:
        models: log p + log Z, one a seed.
        log_z, ess: (S,) by importance sampling from the noise, or by annealing from it where that has fewer than
            300 effective draws and the larger standard error; and the effective draws behind it.
        nll: (S, N) negative log-likelihoods of the test images in whitened coordinates, in nats.
        seconds: of training all seeds side by side.
    """

    models: list[ebm.TiltedModel]
    log_z: np.ndarray
    ess: np.ndarray
    nll: np.ndarray
    seconds: float


class Images:
    """A data set in whitened coordinates, other sets to hold against it, and a classifier whose features judge samples.

    Attributes:
        z, test: training and test images (N, dims).
        others: name -> images that are not of the set (M, dims).
        floor: Fréchet distance of the test features from as many training features.
    """

    def __init__(
        self, cfg: CompositionalEBM, *, root: str | None = None, device: str = "cpu", tuning: bool = False
    ) -> None:
        """Load and whiten; for `tuning` a fifth of the training images stands in for the test images.

        Args:
            cfg: the settings.
            root: folder of the data; None for $FLATLAB_DATA.
            device: where to train.
            tuning: leave the test images alone.
        """
        self.cfg, self.device, self.root = cfg, device, root
        self._noises: dict[str, ebm.Noise] = {}
        self._pools: dict[str, Tensor] = {}
        generator = torch.Generator().manual_seed(cfg.data_seed)
        x, test = (self._continuous(cfg.images, split, limit, generator) for split, limit in cfg.limits.items())
        self.shape = tuple(x.shape[1:])
        if tuning:
            order = torch.randperm(len(x), generator=generator)
            x, test = x[order[len(x) // 5 :]], x[order[: len(x) // 5]]
        self.whitening = ebm.Whitening.fit(x, dims=cfg.dims).to(device)
        others = [(name, split) for name, split in cfg.foreign if name != cfg.images]
        foreign = {name: self._continuous(name, split, len(test), generator, self.shape) for name, split in others}
        self.z, self.test = self._whitened(x), self._whitened(test)
        self.others = {name: self._whitened(images) for name, images in (corrupted(test, generator) | foreign).items()}
        self.classifier = self._classifier()
        self.real = self.features(self.test)
        some = torch.randperm(len(self.z), generator=generator)[: len(test)]
        self.floor = metrics.fid(self.real, self.features(self.z[some.to(device)]), warn=False)

    def noise(self, name: str) -> ebm.Noise:
        """A noise fitted to the training images, once: Gaussian, GMM, or flow, of which draws are cached."""
        if name not in self._noises:
            cfg, z = self.cfg, self.z.cpu()
            fitted: dict[str, Callable[[], ebm.Noise]] = {
                "Gaussian": lambda: ebm.GaussianNoise.fit(z),
                "GMM": lambda: ebm.GMMNoise.fit(z, cfg.components, reg=0.01, seed=cfg.data_seed),
                "flow": lambda: ebm.FlowNoise.fit(self.z, seed=cfg.data_seed, **cfg.flow),
            }
            found = fitted[name]().to(self.device)
            draws = torch.Generator(self.device).manual_seed(cfg.data_seed)
            cached = name == "flow"
            self._noises[name] = ebm.CachedNoise(found, cfg.cached, generator=draws) if cached else found
        return self._noises[name]

    def fit(self, method: str, name: str, *, seeds: Sequence[int] | None = None, rate: float | None = None) -> Learned:
        """Train networks with a loss, and take their likelihoods.

        Args:
            method: of `planar.LOSSES`.
            name: of the noise, see `noise`; it is the base of the model, too.
            seeds: of the networks; None takes the settings'.
            rate: of the optimizer; None takes the settings' of this method and noise.
        """
        cfg, noise = self.cfg, self.noise(name)
        base = plain(noise)
        goal = ebm.objective(LOSSES[method](noise, cfg.image_noise), base=base, cap=cfg.cap)
        recipe = replace(cfg.image_recipe, lr=rate or cfg.image_rates[method, name])
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fewer than 2 effective")  # what it says shows in `ess`
            nets = train.fit_seeds(
                self.network, data.Points(self.z), goal, recipe, seeds=seeds or cfg.seeds, device=self.device
            )
        seconds = time.perf_counter() - start
        fitted = [ebm.TiltedModel(net, base, cap=cfg.cap) for net in nets]
        log_z, ess, nll = zip(*(self._likelihood(model, name) for model in fitted), strict=True)
        return Learned(fitted, np.array(log_z), np.array(ess), np.stack(nll), seconds)

    def network(self, seed: int) -> nn.Module:
        """An untrained network over the whitened coordinates."""
        return models.build("mlp", (self.cfg.dims,), 1, seed=seed, options=dict(self.cfg.image_net))

    def auroc(self, model: ebm.TiltedModel) -> Mapping[str, Mapping[str, float]]:
        """Part of the score ("f", "g" or "log q") -> other set -> AUROC of the test images against it."""
        parts: dict[str, Callable[[Tensor], Tensor]] = {"f": model, "g": model.tilt, "log q": model.base.log_prob}
        return {
            part: {name: ebm.ood_auroc(score, self.test, other) for name, other in self.others.items()}
            for part, score in parts.items()
        }

    def samples(self, model: ebm.TiltedModel, seed: int) -> ebm.Chains:
        """As many chains of MALA as there are test images, from draws of the base."""
        generator = torch.Generator(self.device).manual_seed(seed)
        start = model.base.sample(len(self.test), generator=generator)
        return ebm.mala(model, start, self.cfg.chain_steps, self.cfg.chain_eps, generator=generator)

    def pixels(self, z: Tensor) -> Tensor:
        """Whitened coordinates as images (N, C, H, W) in [0, 1]."""
        return self.whitening.inverse(z).clamp(0, 1)

    def features(self, z: Tensor) -> Tensor:
        """What the classifier sees in images, before its last layer: (N, F)."""
        body = nn.Sequential(*list(self.classifier.children())[:-1])
        with torch.no_grad():
            return torch.cat([body(self.pixels(part)) for part in z.split(4096)])

    def frechet(self, z: Tensor) -> float:
        """Fréchet distance of samples from the test images, in the classifier's features."""
        return metrics.fid(self.real, self.features(z), warn=False)  # every set of samples is as large

    def _likelihood(self, model: ebm.TiltedModel, name: str) -> tuple[float, float, np.ndarray]:
        cfg, nothing = self.cfg, np.full(len(self.test), np.nan)
        if not all(bool(p.isfinite().all()) for p in model.parameters()):
            return np.nan, np.nan, nothing
        found = ebm.log_z_of(ebm.evaluated(model.tilt, self._pool(name)))  # the base is the noise: log w = g
        if found.ess < 300:
            generator = torch.Generator(self.device).manual_seed(cfg.data_seed + 2)
            chains = ebm.ais(
                model, model.base, cfg.annealed, temperatures=cfg.temperatures, eps=cfg.chain_eps, generator=generator
            )
            found = min(found, chains, key=lambda one: one.se)
        if found.ess < 100:  # what nll_snis refuses, too
            return np.nan, found.ess, nothing
        return found.log_z, found.ess, (found.log_z - ebm.evaluated(model, self.test)).cpu().numpy()

    def _pool(self, name: str) -> Tensor:
        """The draws of a noise on which every model's log Z is estimated, made once."""
        if name not in self._pools:
            generator = torch.Generator(self.device).manual_seed(self.cfg.data_seed + 1)
            sizes = [min(50_000, self.cfg.draws - start) for start in range(0, self.cfg.draws, 50_000)]
            base = plain(self.noise(name))
            self._pools[name] = torch.cat([base.sample(size, generator=generator) for size in sizes])
        return self._pools[name]

    def _continuous(
        self, name: str, split: str, limit: int | None, generator: torch.Generator, shape: tuple[int, ...] = ()
    ) -> Tensor:
        """Images (N, C, H, W) of their own shape, or of the one given, dequantised, in [0, 1)."""
        channels, size = (shape[0], shape[1]) if shape else (None, None)
        x = data.load_images(name, split, root=self.root, limit=limit, size=size, channels=channels).x
        if name == "digits":  # made of 17 grey values, 0 to 16
            return ebm.dequantize(((x.int() * 16 + 127) // 255).to(torch.uint8), levels=17, generator=generator)
        return ebm.dequantize(x, generator=generator)

    def _whitened(self, x: Tensor) -> Tensor:
        return self.whitening.transform(x.to(self.device))

    def _classifier(self) -> nn.Module:
        """A small convolutional network that tells the classes of the training images apart."""
        cfg = self.cfg
        images = data.load_images(cfg.images, "train", root=self.root, limit=cfg.limits["train"])
        net = models.build(
            "small_cnn", images.x.shape[1:], len(images.classes), seed=cfg.data_seed, options={"hidden": 32}
        ).to(self.device)
        train.fit(net, images, train.cross_entropy, cfg.judge_recipe, seeds=cfg.data_seed)
        return net


def corrupted(x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Images (N, C, H, W) in [0, 1] made unlike themselves, by name.

    Args:
        x: the images.
        generator: of noise and of partners.
    """
    n, pixels = len(x), x[0].numel()
    window = x.shape[-1] // 8 * 2 + 1
    smooth = F.avg_pool2d(F.pad(x, [window // 2] * 4, mode="replicate"), window, 1)
    order = torch.randperm(pixels, generator=generator)
    return {
        "blur": smooth,
        "mix": (x + x[torch.randperm(n, generator=generator)]) / 2,
        "noise": (x + 0.3 * torch.randn(x.shape, generator=generator)).clamp(0, 1),
        "flip": x.flip(2),
        "permuted": x.flatten(1)[:, order].view_as(x),
        "uniform": torch.rand(x.shape, generator=generator),
    }


def plain(noise: ebm.Noise) -> ebm.Noise:
    """A noise itself, or what a cache holds draws of."""
    held = noise.noise if isinstance(noise, ebm.CachedNoise) else noise
    assert isinstance(held, ebm.Noise)
    return held


def tuned_rates(cfg: CompositionalEBM, show: Callable[[object], object], **where: Any) -> dict[tuple[str, str], float]:
    """Rates by loss and noise with the best mean NLL on training images held out, on the tuning seeds.

    Args:
        cfg: the settings.
        show: of tables, such as IPython's `display`.
        **where: `root` and `device` of `Images`.
    """
    images = Images(cfg, tuning=True, **where)

    def score(pair: str, options: dict[str, Any], seeds: tuple[int, ...]) -> np.ndarray:
        method, name = pair.split(" | ")
        return images.fit(method, name, seeds=seeds, rate=options["lr"]).nll.mean(1)

    grid = {" | ".join(pair): {"lr": [0.5 * rate, rate, 2 * rate]} for pair, rate in cfg.image_rates.items()}
    found = choose("images", score, grid, {}, tune=True, seeds=cfg.tuning_seeds, reported=cfg.seeds, show=show)
    return {pair: found[" | ".join(pair)]["lr"] for pair in cfg.image_rates}
