"""Joint energy model, JEM (Grathwohl et al. 2020): the classifier trained as a density of x as well.

    L = CE(f(x + n), y) + w mean [LSE f(x_q) - LSE f(x + n)],    n ~ N(0, sigma^2),   log p(x) = LSE f(x) - log Z

x_q are samples of the model by stochastic gradient Langevin dynamics

    x <- x + lr grad LSE f(x) + std N(0, 1)

continued from a replay buffer (persistent contrastive divergence), or restarted uniformly with probability `reinit`.

The official code works on inputs in [-1, 1], with lr = 1, std = .01, sigma = .03, 20 steps and 10000 chains for
CIFAR-10; it does not clip the chains, and neither is it done here. It draws from the buffer with replacement; here a
batch takes distinct chains, as otherwise two samples would write to one place in an undefined order. The method is
known to diverge: more steps, a smaller lr, smooth activations and `l2` help. It needs a network without BatchNorm.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from flatlab import checks
from flatlab.defenses.base import Defense
from flatlab.modes import evaluating
from flatlab.samplers import ReplayBuffer, langevin, normal_like


@dataclass(kw_only=True, eq=False)
class Jem(Defense):
    """Cross-entropy plus the contrastive gradient of log p(x). Ignores `eps`.

    Args:
        weight: w, of the generative term.
        steps: Langevin steps per training step.
        lr: their step size.
        std: their noise.
        sigma: standard deviation of the noise added to the data.
        buffer_size: chains kept per seed; at least the batch size.
        reinit: probability of starting a chain anew, in [0, 1].
        l2: weight of mean [LSE f(x + n)^2 + LSE f(x_q)^2], which keeps energies near zero.
    """

    weight: float = 1.0
    steps: int = 20
    lr: float = 0.01
    std: float = 0.01
    sigma: float = 0.03
    buffer_size: int = 1000
    reinit: float = 0.05
    l2: float = 0.0

    name = "jem"
    neutral: ClassVar = {"weight": 0.0, "sigma": 0.0, "l2": 0.0}
    memory = ("buffer",)
    full_precision = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("weight", "std", "sigma", "l2"):
            checks.nonnegative(field, getattr(self, field))
        checks.at_least("steps", self.steps, 1)
        checks.at_least("buffer_size", self.buffer_size, 1)
        checks.positive("lr", self.lr)
        self._replay = ReplayBuffer(self.buffer_size, reinit=self.reinit)

    @property
    def buffer(self) -> Tensor | None:
        """Chains (S * buffer_size, ...), those of the first seed first; None before the first step."""
        return self._replay.chains

    @buffer.setter
    def buffer(self, chains: Tensor | None) -> None:
        self._replay.chains = chains

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        samples = self.sample(model, x)
        logits = model(x + self.sigma * normal_like(x, self.rng))
        data, model_density = logits.logsumexp(1), model(samples).logsumexp(1)
        generative = self.weight * (model_density - data) + self.l2 * (model_density.square() + data.square())
        return F.cross_entropy(logits, y) + generative.mean()

    def sample(self, model: nn.Module, x: Tensor) -> Tensor:
        """Continue as many chains as x has rows, put them back into the buffer, and return them, detached."""
        index, start = self._replay.draw(x, self.rng, self.rng.uniform)
        with evaluating(model):
            samples = langevin(
                lambda point: model(point).logsumexp(1),
                start,
                self.steps,
                step=self.lr,
                noise=self.std,
                generator=self.rng,
            )
        self._replay.store(index, samples)
        return samples
