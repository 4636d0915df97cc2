"""Policies small enough to list everything they can say."""

from collections.abc import Callable

import pytest
import torch

from flatlab.rlhf import TinyGPT


@pytest.fixture(scope="session")
def small() -> Callable[..., TinyGPT]:
    """small(seed, spread): three tokens, in float64, and predictions that are the less even the larger the spread."""

    def make(seed: int = 0, spread: float = 0.4, *, symbols: int = 3) -> TinyGPT:
        policy, g = TinyGPT(symbols, width=8, layers=1, heads=2, context=6).double(), torch.Generator()
        g.manual_seed(seed)
        with torch.no_grad():
            for weight in policy.parameters():
                weight.copy_(torch.randn(weight.shape, generator=g, dtype=torch.float64) * spread)
            policy.norm.weight.add_(1)
        return policy

    return make
