"""Images, text and tasks in sequence, learned by the optimizers of the notebook, and what is measured of them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flatlab import data, flatness, models, train
from flatlab.studies.critical_momenta.experiments import TaskSequence, fit_task_sequences
from flatlab.studies.critical_momenta.settings import CriticalMomenta

SHARPEST = 1e3
"""Top eigenvalue that a network counts for which never came down to the level."""
LOST = 10.0
"""Nats a character that a diverged reader counts for."""


class ImageTask:
    """Images of which some training labels are wrong, and networks that learn them.

    Attributes:
        whole, test_set: images with their own labels.
        train_set: training images, `cfg.label_noise` of them with a random label.
        held_out: training images kept for the choice of learning rates.
    """

    def __init__(self, cfg: CriticalMomenta, *, root: str = "", device: torch.device) -> None:
        self.cfg, self.device = cfg, device
        self.whole = data.load_images(cfg.dataset, "train", root=root or None, limit=cfg.train_limit)
        self.test_set = data.load_images(cfg.dataset, "test", root=root or None, limit=cfg.test_limit)
        clean, self.held_out = data.holdout(self.whole, cfg.held_out, seed=0)
        self.train_set = data.noisy_labels(clean, cfg.label_noise, seed=0)

    def network(self, seed: int) -> nn.Module:
        """The untrained network of a seed."""
        shape, classes = tuple(self.train_set.x.shape[1:]), len(self.test_set.classes)
        return models.build(self.cfg.model, shape, classes, seed=seed, options=self.cfg.model_options)

    def fit(
        self, name: str, lr: float, seeds: Sequence[int], callbacks: Sequence[train.Callback] = ()
    ) -> list[nn.Module]:
        """A trained network a seed.

        Args:
            name: of a method of the settings.
            lr: its learning rate.
            seeds: of networks and batches.
            callbacks: that watch.
        """
        recipe = dataclasses.replace(self.cfg.image_recipe, optimizer=self.cfg.factory(name), lr=lr)
        options: dict[str, Any] = {"seeds": seeds, "device": self.device, "callbacks": callbacks}
        return train.fit_seeds(self.network, self.train_set, train.cross_entropy, recipe, **options)

    def score(self, name: str, options: dict[str, Any], seeds: tuple[int, ...]) -> list[float]:
        """For `flatlab.train.sweep`: the cross-entropy on held-out images."""
        nets = self.fit(name, options["lr"], seeds)
        return [train.evaluate_loss(net, *self.held_out.float(self.device)).loss for net in nets]

    def below(self) -> train.FirstBelow:
        """A callback that keeps networks as they first came down to the level of the settings."""
        return train.FirstBelow(self.network(0), *self.train_set.float(self.device), self.cfg.level)

    def top_eigenvalue(self, net: nn.Module) -> float:
        """Of the Hessian of the training loss, on the first `cfg.curvature_points` images."""
        count = min(self.cfg.curvature_points, len(self.train_set))
        x, y = self.train_set.subset(range(count)).float(self.device)
        loss = flatness.over_parameters(net, lambda model: nn.functional.cross_entropy(model(x), y))
        generator = torch.Generator().manual_seed(0)
        return float(flatness.top_eigenvalues(loss, k=1, generator=generator).values[0])

    def measure(self, seed: int, net: nn.Module, at_level: nn.Module | None) -> dict[str, float]:
        """One row of numbers about a trained network.

        Args:
            seed: of the network.
            net: at the end of training.
            at_level: as it first came down to the level, or None if it never did.

        Returns:
            "distance" from the start, "curvature" and "curvature at level" (`SHARPEST` if it never came down),
            "train loss", "test loss", "accuracy".
        """
        row = {"distance": train.distance(net, self.network(seed)), "curvature": self.top_eigenvalue(net)}
        row["train loss"] = train.evaluate_loss(net, *self.train_set.float(self.device)).loss
        row["test loss"], row["accuracy"] = train.evaluate_loss(net, *self.test_set.float(self.device))
        row["curvature at level"] = SHARPEST if at_level is None else self.top_eigenvalue(at_level)
        return row

    def hits(self, nets: Sequence[nn.Module]) -> NDArray[np.bool_]:
        """Which test images each network classifies rightly, (networks, N)."""
        found = [train.evaluate_samples(net, *self.test_set.float(self.device))[1].bool() for net in nets]
        return torch.stack(found).numpy()

    def in_sequence(
        self, name: str, lr: float, seeds: Sequence[int]
    ) -> tuple[list[float], list[tuple[TaskSequence, nn.Module]]]:
        """`fit_task_sequences` of all training images by a method of the settings at a learning rate."""
        factory = self.cfg.factory(name)
        return fit_task_sequences(
            self.network, self.whole, self.cfg.tasks, factory, lr=lr, seeds=seeds, device=self.device
        )

    def sequence_score(self, name: str, options: dict[str, Any], seeds: tuple[int, ...]) -> list[float]:
        """For `flatlab.train.sweep`: the error along each sequence."""
        return [1 - hits for hits in self.in_sequence(name, options["lr"], seeds)[0]]

    def kept(self, ends: Sequence[tuple[TaskSequence, nn.Module]]) -> NDArray[np.float64]:
        """In which share of its tasks each network at the end of its sequence has each test image right, (runs, N)."""
        images = self.test_set.float(self.device)
        return torch.stack([sequence.kept(net, *images) for sequence, net in ends]).numpy()


class TextTask:
    """Windows of a text, and networks that read them character by character.

    Attributes:
        parts: "train", "validation" and "test" text.
        windows: all windows of each part.
        samples: the training windows that are learned from.
    """

    def __init__(self, cfg: CriticalMomenta, *, root: str = "", device: torch.device) -> None:
        self.cfg, self.device = cfg, device
        names = ("train", "validation", "test")
        self.parts = {part: data.load_text(cfg.text, part, root=root or None) for part in names}
        self.windows = {part: text.windows(cfg.length) for part, text in self.parts.items()}
        whole = self.windows["train"]
        chosen = torch.randperm(len(whole.x), generator=torch.Generator().manual_seed(0))[: cfg.windows]
        self.samples = data.Windows(whole.x[chosen], whole.y[chosen])

    def network(self, seed: int) -> nn.Module:
        """The untrained reader of a seed."""
        symbols = len(self.parts["train"].alphabet)
        return models.build(self.cfg.text_model, (self.cfg.length,), symbols, seed=seed, options=self.cfg.text_options)

    def fit(
        self,
        name: str,
        lr: float,
        seeds: Sequence[int],
        callbacks: Sequence[train.Callback] = (),
        *,
        samples: data.Windows | None = None,
        epochs: int | None = None,
    ) -> list[nn.Module]:
        """A trained reader a seed.

        Args:
            name, lr, seeds, callbacks: as in `ImageTask.fit`.
            samples: other windows than the task's.
            epochs: other than the recipe's.
        """
        recipe = dataclasses.replace(
            self.cfg.text_recipe,
            optimizer=self.cfg.factory(name),
            lr=lr,
            epochs=self.cfg.text_recipe.epochs if epochs is None else epochs,
        )
        options: dict[str, Any] = {"seeds": seeds, "device": self.device, "callbacks": callbacks}
        chosen = self.samples if samples is None else samples
        return train.fit_seeds(self.network, chosen, train.next_token, recipe, **options)

    def losses(self, part: str, net: nn.Module, limit: int = 1000) -> NDArray[np.float64]:
        """Nats a character on 50 stretches of the first `limit` windows of a part, (50,); `LOST` if it diverged."""
        pieces: tuple[Tensor, Tensor] = (self.windows[part].x[:limit], self.windows[part].y[:limit])
        each = train.evaluate_samples(net, *(piece.to(self.device) for piece in pieces))[0]
        means = [float(stretch.mean()) for stretch in each.tensor_split(50)]
        return np.nan_to_num(np.array(means), nan=LOST, posinf=LOST)

    def score(self, name: str, options: dict[str, Any], seeds: tuple[int, ...]) -> list[float]:
        """For `flatlab.train.sweep`: the validation loss."""
        return [float(self.losses("validation", net).mean()) for net in self.fit(name, options["lr"], seeds)]

    def late_curve(self, name: str, lr: float, seed: int) -> list[float]:
        """The validation loss after each of `cfg.late_epochs` epochs on the first `cfg.late_windows` windows alone."""
        count = self.cfg.late_windows
        little = data.Windows(self.samples.x[:count], self.samples.y[:count])
        watch = train.Recorder(lambda state: float(self.losses("validation", state.model, limit=200).mean()))
        self.fit(name, lr, (seed,), [watch], samples=little, epochs=self.cfg.late_epochs)
        return watch.values
