"""A replay buffer: chains that go on from one training step to the next (Tieleman 2008; Du and Mordatch 2019).

Persistent contrastive divergence keeps its chains between two updates of the model, which changes little in one, rather
than running them to equilibrium each time. A batch continues as many distinct chains as it has rows (drawn with
replacement, two would write to one place in an undefined order), and each starts anew with probability `reinit`:

    index, start = buffer.draw(x, generator, fresh)
    buffer.store(index, langevin(f, start, steps, eps, generator=generator))
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flatlab import checks
from flatlab.rng import SeedGenerators
from flatlab.samplers.density import per_chain
from flatlab.samplers.draws import Generator, permutations, uniform


class ReplayBuffer:
    """Chains of S seeds, `size` each, that are drawn from and stored back to.

    `.chains` (S * size, ...), those of the first seed first, is all its state: save it, and set it to continue. It is
    None before the first draw.

    Args:
        size: chains kept per seed; at least the batch of a seed.
        reinit: probability of starting a chain anew, in [0, 1].
    """

    def __init__(self, size: int, *, reinit: float = 0.05) -> None:
        self.size = checks.at_least("size", size, 1)
        self.reinit = checks.nonnegative("reinit", reinit)
        if self.reinit > 1:
            raise ValueError(f"reinit is a probability and must lie in [0, 1], got {reinit!r}")
        self.chains: Tensor | None = None

    def draw(
        self, like: Tensor | Sequence[int], generator: Generator, fresh: Callable[[tuple[int, ...]], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Distinct places in the buffer (B,), as many for each seed, and where the chains there start, (B, ...).

        Args:
            like: a batch (B, ...), in whose dtype and place the chains start, or its shape alone.
            generator: of the choice; with SeedGenerators of S seeds the rows are one block a seed.
            fresh: shape (n, ...) -> n new chains. Called for the whole buffer at first, and for a batch at each draw.

        Raises:
            ValueError: a batch larger than the buffer, chains of another shape, or rows that do not divide into seeds.
        """
        shape = tuple(like.shape) if isinstance(like, Tensor) else tuple(like)
        seeds = len(generator) if isinstance(generator, SeedGenerators) else 1
        each = shape[0] // seeds
        if each > self.size:
            raise ValueError(f"buffer_size={self.size} is smaller than the batch of {each}; enlarge it")
        chains = self._kept((seeds * self.size, *shape[1:]), fresh)
        order = permutations(self.size, generator)[:, :each]
        index = (order + torch.arange(seeds, device=order.device)[:, None] * self.size).flatten().to(chains.device)
        new = _made(shape, fresh).to(chains)
        restart = (uniform(shape[:1], generator) < self.reinit).to(chains.device)
        start = torch.where(per_chain(restart, new), new, chains[index])
        return index, start.to(like) if isinstance(like, Tensor) else start

    def store(self, index: Tensor, chains: Tensor) -> None:
        """Put chains (B, ...) back to the places (B,) that `draw` gave."""
        if self.chains is None:
            raise ValueError("the replay buffer is empty: draw from it first")
        self.chains[index] = chains.detach().to(self.chains)

    def _kept(self, shape: tuple[int, ...], fresh: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        if self.chains is None:
            self.chains = _made(shape, fresh).clone()  # `store` must not write into what the caller holds
        if self.chains.shape != shape:
            raise ValueError(
                f"the replay buffer holds {tuple(self.chains.shape)}, these inputs need {shape}: "
                "start with a fresh one, as a fresh copy of its owner by seeded(...) has"
            )
        return self.chains


def _made(shape: tuple[int, ...], fresh: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
    made = fresh(shape).detach()
    if made.shape != shape:
        raise ValueError(f"fresh must return chains of the shape it is given, {shape}, got {tuple(made.shape)}")
    return made
