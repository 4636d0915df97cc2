"""Random trials of what must never happen, each with a seed of its own: series of what `experiments` measures once."""

from collections.abc import Mapping

import torch
from torch import nn

from flatlab import bounds, data, models
from flatlab.studies.certified_bounds import synonyms
from flatlab.studies.certified_bounds.experiments import Method, RandomNetwork, attainment, every_set, gradient_error
from flatlab.studies.certified_bounds.settings import CertifiedBounds


def planar_net(seed: int = 0) -> nn.Module:
    """A random perceptron from two inputs, (N, 1, 1, 2), to two outputs, (N, 2)."""
    return models.build("mlp", (1, 1, 2), 2, seed=seed, options={"widths": (12, 12)})


class Trials:
    """All trials of a run.

    Args:
        cfg: networks and inputs, draws of weights for each, and the number of the other trials.
        methods: name -> how outputs are bounded, as in `RandomNetwork.trial`.
        shift: of all seeds.
        device: where to compute.
    """

    def __init__(
        self, cfg: CertifiedBounds, methods: Mapping[str, Method], *, shift: int = 0, device: torch.device
    ) -> None:
        self.cfg, self.methods, self.shift, self.device = cfg, methods, shift, device
        self.numbers = [shift + 200 + number for number in range(cfg.trials)]
        self.nets = [RandomNetwork(network, cfg.examples, device=device) for network in cfg.networks]
        self.words = next(net for net in self.nets if net.network.model == "text_transformer")

    def region(self, seed: int) -> tuple[str, bounds.Box]:
        """A set of one of eight kinds by turns, around other sentences for each seed, and its kind."""
        around = self.words.inputs(seed)
        found = every_set(around, self.words.network.eps, generator=_generator(seed))
        return list(found.items())[seed % len(found)]

    def of_networks(self) -> list[dict[str, str | float]]:
        """`RandomNetwork.trial` of every network and draw, in rows that begin with "network", its label."""
        drawn = [(net, self.shift + 10 * n + row) for row, net in enumerate(self.nets) for n in range(self.cfg.draws)]
        steps = self.cfg.audit_steps
        return [{"network": net.network.label} | net.trial(s, self.methods, steps=steps) for net, s in drawn]

    def of_sets(self) -> list[dict[str, str | float]]:
        """The same of the first transformer on a `region` for each trial, in rows that begin with its kind, "set"."""
        made: list[dict[str, str | float]] = []
        for seed in self.numbers:
            kind, region = self.region(seed)
            made.append({"set": kind} | self.words.trial(seed, self.methods, steps=self.cfg.audit_steps, region=region))
        return made

    def enumeration(self) -> list[float]:
        """`synonyms.enumeration_gap` of five functions of two sentences for each trial, of up to 1, 2 or 3 words."""
        tasks = [(s, data.synonym_task(2, seed=s, split="test")) for s in self.numbers]
        return [synonyms.enumeration_gap(task, 1 + s % 3, rows=5, generator=_generator(s)) for s, task in tasks]

    def attainment(self) -> list[float]:
        """`experiments.attainment` of ten functions on a `region` for each trial."""
        shape = (10, self.cfg.examples, *self.words.network.shape)
        drawn = [(s, torch.randn(shape, generator=_generator(s + 1)).to(self.device)) for s in self.numbers]
        return [attainment(self.region(s)[1], a) for s, a in drawn]

    def gradients(self) -> list[float]:
        """`experiments.gradient_error` of lower bounds by IBP, CROWN-IBP or CROWN of a planar net, for each trial."""
        return [self._gradient_error(s, ("IBP", "CROWN-IBP", "CROWN")[s % 3]) for s in self.numbers]

    def _gradient_error(self, seed: int, method: str) -> float:
        net, at = planar_net(seed).double(), torch.rand(3, 1, 1, 2, generator=_generator(seed)).double()
        made = lambda: bounds.Bounds(bounds.Program(net, at), at, bounds.LpBall(at, 0.1))  # noqa: E731
        value = lambda: self.methods[method](made())[0].sum()  # noqa: E731
        return gradient_error(value, list(net.parameters()), generator=_generator(seed + 1))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
