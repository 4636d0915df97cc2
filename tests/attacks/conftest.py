"""A digits batch and two small networks, one trained as usual and one adversarially."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from flatlab import attacks

Batch = tuple[Tensor, Tensor]
EPS = 0.1


class Scaled(nn.Module):
    """A model with all logits multiplied by one number: the same classifier."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.model(x)


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    hidden = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, 10))


def train(model: nn.Module, data: Batch, epochs: int, attack: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
    x, y = data
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            inputs = x[rows] if attack is None else attack(x[rows], y[rows])
            loss = F.cross_entropy(model(inputs), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.zero_grad(set_to_none=True)
    model.eval()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def split() -> tuple[Batch, Batch]:
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 1, 8, 8)
    parts = train_test_split(images, labels, test_size=597, stratify=labels, random_state=0)
    a, b, c, d = (torch.as_tensor(part) for part in parts)
    return (a, c), (b, d)


@pytest.fixture(scope="session")
def digits(split) -> Batch:
    x, y = split[1]
    return x[:300], y[:300]


@pytest.fixture(scope="session")
def std(split) -> nn.Module:
    model = mlp()
    train(model, split[0], epochs=30)
    return model


@pytest.fixture(scope="session")
def pgd_at(split) -> nn.Module:
    model = mlp(1)
    train(model, split[0], epochs=12, attack=lambda x, y: attacks.pgd(model, x, y, EPS, steps=3))
    return model


@pytest.fixture
def scaled() -> type[Scaled]:
    return Scaled


@pytest.fixture
def accuracy() -> Callable[[nn.Module, Tensor, Tensor], float]:
    def measure(model: nn.Module, x: Tensor, y: Tensor) -> float:
        with torch.no_grad():
            return float((model(x).argmax(1) == y).double().mean())

    return measure
