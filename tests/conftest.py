"""Fixtures that several test files share."""

import os
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

# The tests run two at a time on two cores: one thread each is fastest, and bit-equal from run to run.
torch.set_num_threads(int(os.environ.get("FLATLAB_THREADS", "1")))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test that draws from torch's own generator draws the same in every order of the tests."""
    torch.manual_seed(0)


@dataclass(frozen=True)
class Batch:
    """Inputs in [0, 1] and labels."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)


@pytest.fixture(scope="session")
def digits() -> Batch:
    """The training images of digits, (1200, 1, 8, 8) in [0, 1]."""
    from flatlab.data import load_images

    return Batch(*load_images("digits", "train").float())


@pytest.fixture(scope="session")
def digits_test() -> Batch:
    """The test images of digits, (597, 1, 8, 8) in [0, 1]."""
    from flatlab.data import load_images

    return Batch(*load_images("digits", "test").float())
