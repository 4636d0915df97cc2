"""Domain generalisation: what a step of each algorithm costs beside one of ERM, in time and in memory."""

import functools
import time
from itertools import accumulate

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from flatlab import dg


class Net(nn.Module):
    def __init__(self, width: int = 128) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        self.featurizer, self.classifier = nn.Sequential(*layers), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.featurizer(x))


def domains(digits, n: int) -> list[tuple[Tensor, Tensor]]:
    return [(digits.x[k * n : (k + 1) * n], digits.y[k * n : (k + 1) * n]) for k in range(3)]


def algorithm(name: str) -> dg.Algorithm:
    return dg.get_algorithm(name)(Net(), functools.partial(torch.optim.Adam, lr=1e-3))


@pytest.mark.benchmark(group="algorithms of domain generalisation")
@pytest.mark.parametrize("sources", [1, 3])
def test_a_step_of_each_algorithm_against_one_of_erm(benchmark, stopwatch, digits, sources: int) -> None:
    data = domains(digits, 32)[:sources]
    made = {name: algorithm(name) for name in dg.ALGORITHMS}

    def train(name: str) -> None:
        for _ in range(20 if stopwatch.measuring else 1):
            made[name].update(data)

    seconds = stopwatch({name: functools.partial(train, name) for name in made}, 15, clock=time.process_time)
    ratios = {name: seconds[name] / seconds["ERM"] for name in made}
    print(f"\n{sources} x 32 digits, ERM = {seconds['ERM'] / 20 * 1e3:.2f} ms a step; times ERM:")
    print(", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
    benchmark.extra_info.update(ratios)
    benchmark.pedantic(lambda: None, rounds=1)
    assert ratios["SAM"] <= 2.3 or not stopwatch.measuring
    assert ratios["UDIM"] <= 6 or not stopwatch.measuring


def peak(name: str, data: list[tuple[Tensor, Tensor]]) -> int:
    """Bytes that a step holds at once beyond what was there before it: weights and moments are there."""
    made = algorithm(name)
    made.update(data)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        made.update(data)
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


@pytest.mark.benchmark(group="algorithms of domain generalisation")
def test_memory_of_a_step_against_one_of_erm(benchmark, digits) -> None:
    data = domains(digits, 256)
    bytes_ = {name: peak(name, data) for name in dg.ALGORITHMS}
    ratios = {name: found / bytes_["ERM"] for name, found in bytes_.items()}
    print(f"\n3 x 256 digits, ERM = {bytes_['ERM'] / 2**20:.2f} MiB at the peak of a step; times ERM:")
    print(", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
    benchmark.extra_info.update(ratios)
    benchmark.pedantic(lambda: None, rounds=1)
    assert 1 <= ratios["UDIM"] <= 4
