"""Speed of attacks as ratios measured in one run: own PGD to foolbox at equal accuracy, evaluation to single attacks.

Run with `pytest tests/bench/test_bench_attacks.py -s --benchmark-enable`.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from flatlab import attacks

EPS = 0.1


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(labels)


@pytest.fixture(scope="module")
def model(batch) -> nn.Module:
    torch.manual_seed(0)
    x, y = (part[:1200] for part in batch)
    hidden = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    net = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(10):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval()


@pytest.mark.parametrize(("steps", "rounds"), [(20, 15), (100, 5)])
def test_pgd_against_foolbox(benchmark, stopwatch, model, batch, steps, rounds):
    foolbox = pytest.importorskip("foolbox")
    x, y = (part[1200:] for part in batch)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    peer = foolbox.attacks.LinfPGD(abs_stepsize=2.5 * EPS / steps, steps=steps, random_start=True)

    def own() -> Tensor:
        torch.manual_seed(0)
        return attacks.pgd(model, x, y, EPS, steps=steps)

    def other() -> Tensor:
        torch.manual_seed(0)
        return peer(wrapped, x, y, epsilons=EPS)[1]

    ours, theirs = (model(run()).argmax(1) == y for run in (own, other))
    assert torch.equal(ours, theirs)
    seconds = stopwatch({"own": own, "foolbox": other}, rounds)
    ratio = seconds["own"] / seconds["foolbox"]
    model.zero_grad(set_to_none=True)
    print(f"\npgd / foolbox LinfPGD, {steps} steps x {len(x)}: {ratio:.2f}, both {float(ours.float().mean()):.3f}")
    benchmark.extra_info["ratio"] = ratio
    benchmark.pedantic(lambda: None, rounds=1)
    assert ratio < 1 or not stopwatch.measuring


def test_pgd_without_fooled_samples_against_foolbox(benchmark, stopwatch, model, batch):
    foolbox = pytest.importorskip("foolbox")
    x, y = (part[1200:] for part in batch)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    peer = foolbox.attacks.LinfPGD(abs_stepsize=2.5 * EPS / 100, steps=100, random_start=True)

    def own() -> Tensor:
        torch.manual_seed(0)
        return attacks.pgd(model, x, y, EPS, steps=100, restarts=2, early_stop=True)

    def other() -> Tensor:
        torch.manual_seed(0)
        return torch.stack([peer(wrapped, x, y, epsilons=EPS)[1] for _ in range(2)])

    ours = model(own()).argmax(1) == y
    theirs = torch.stack([model(adv).argmax(1) == y for adv in other()]).all(0)
    assert (ours <= theirs).all()
    seconds = stopwatch({"own": own, "foolbox": other}, 5, clock=time.process_time)
    ratio = seconds["own"] / max(seconds["foolbox"], 1e-9)
    model.zero_grad(set_to_none=True)
    shares = f"{float(ours.float().mean()):.3f} and {float(theirs.float().mean()):.3f}"
    print(f"\npgd(early_stop) / foolbox LinfPGD, 2 x 100 steps x {len(x)}: {ratio:.2f}, accuracies {shares}")
    benchmark.extra_info["ratio"] = ratio
    benchmark.pedantic(lambda: None, rounds=1)
    assert ratio < 0.6 or not stopwatch.measuring


def test_evaluation_against_its_attacks_one_by_one(benchmark, stopwatch, model, batch):
    x, y = (part[1200 : None if stopwatch.measuring else 1300] for part in batch)

    def own() -> Any:
        return attacks.evaluate_robustness(model, x, y, EPS, suite="standard")

    def one_by_one() -> None:
        attacks.fgsm(model, x, y, EPS)
        attacks.pgd(model, x, y, EPS, steps=20)
        attacks.pgd(model, x, y, EPS, steps=100, restarts=3)
        attacks.pgd(model, x, y, EPS, steps=50, restarts=2, loss="dlr")
        attacks.square(model, x, y, EPS, queries=500)

    seconds = stopwatch({"own": own, "one by one": one_by_one}, 3)
    ratio = seconds["own"] / seconds["one by one"]
    print(f"\nevaluate_robustness('standard') / its attacks on all samples: {ratio:.2f}")
    benchmark.extra_info["ratio"] = ratio
    benchmark.pedantic(lambda: None, rounds=1)
    assert ratio < 1.5 or not stopwatch.measuring


def test_batch_sizes_of_an_evaluation(benchmark, stopwatch, model, batch):
    x, y = batch

    def evaluate(**options: int) -> Any:
        return attacks.evaluate_robustness(model, x, y, EPS, **options)

    sizes = (128, 512, 2048)
    cases = {str(size): lambda size=size: evaluate(batch_size=size) for size in sizes}
    seconds = stopwatch({"default": evaluate} | cases)
    base = seconds.pop("default")
    benchmark.pedantic(lambda: None, rounds=1)
    print(
        "\nevaluate_robustness('fast', batch_size) / default: "
        + ", ".join(f"{n}: {t / base:.2f}" for n, t in seconds.items())
    )
