"""The points of the known answers, and a small network on them."""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn


@pytest.fixture(scope="session")
def points() -> tuple[Tensor, Tensor]:
    """The first 300 digits of a stratified training split of 1200, as rows in [0, 1], and their labels."""
    data = load_digits()
    x, _, y, _ = train_test_split(
        data.data / 16, data.target, train_size=1200, test_size=597, stratify=data.target, random_state=0
    )
    return torch.tensor(x[:300], dtype=torch.float32), torch.tensor(y[:300])


@pytest.fixture(scope="session")
def trained(points: tuple[Tensor, Tensor]) -> nn.Module:
    """A ReLU network fitted to these points, so that margins are positive and landscapes are not flat."""
    x, y = points
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()
