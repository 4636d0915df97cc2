"""Random generators for several seeds at once.

Models of S seeds are trained side by side on batches laid out seed by seed: rows 0..B-1 belong to the first seed,
rows B..2B-1 to the second. Each seed draws from its own generator, so that what a seed sees does not depend on which
other seeds it is trained with.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class SeedGenerators:
    """One torch.Generator per seed; every draw of S*B rows is S blocks of B rows, one from each generator.

    Args:
        seeds: one seed, or a sequence of S seeds.
        device: where draws are made and returned.
    """

    def __init__(self, seeds: int | Sequence[int], device: torch.device | str = "cpu") -> None:
        self.seeds = (seeds,) if isinstance(seeds, int) else tuple(seeds)
        if not self.seeds:
            raise ValueError("seeds is empty: name at least one seed")
        self.device = torch.device(device)
        self.generators = [torch.Generator(self.device).manual_seed(seed) for seed in self.seeds]

    def __len__(self) -> int:
        return len(self.generators)

    def uniform(self, shape: Sequence[int], low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform on [low, high), float32."""
        return (
            torch.cat([torch.rand(block, generator=g, device=self.device) for g, block in self._blocks(shape)])
            .mul_(high - low)
            .add_(low)
        )

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal, float32."""
        return torch.cat([torch.randn(block, generator=g, device=self.device) for g, block in self._blocks(shape)])

    def rademacher(self, shape: Sequence[int]) -> Tensor:
        """-1 or +1 with equal probability, float32."""
        return self.uniform(shape).lt_(0.5).mul_(2).sub_(1)

    def integers(self, shape: Sequence[int], high: int) -> Tensor:
        """Uniform on 0..high-1, int64."""
        draws = [torch.randint(high, block, generator=g, device=self.device) for g, block in self._blocks(shape)]
        return torch.cat(draws)

    def arange(self, n: int) -> Tensor:
        """0..n-1 on this device: not random, but what index arithmetic with draws starts from."""
        return torch.arange(n, device=self.device)

    def permutations(self, n: int) -> Tensor:
        """One permutation of 0..n-1 per seed, shape (S, n)."""
        return torch.stack([torch.randperm(n, generator=g, device=self.device) for g in self.generators])

    def state_dict(self) -> dict[str, Tensor]:
        """The state of each generator, as uint8 tensors."""
        return {str(index): g.get_state() for index, g in enumerate(self.generators)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state that `state_dict` returned for the same number of seeds."""
        if len(state) != len(self.generators):
            raise ValueError(f"the state holds {len(state)} generator(s), these are {len(self.generators)}")
        for index, g in enumerate(self.generators):
            g.set_state(state[str(index)].cpu())

    def _blocks(self, shape: Sequence[int]) -> list[tuple[torch.Generator, tuple[int, ...]]]:
        rows, *rest = shape
        if rows % len(self.generators):
            raise ValueError(f"{rows} rows do not divide into {len(self.generators)} equal blocks, one per seed")
        return [(g, (rows // len(self.generators), *rest)) for g in self.generators]
