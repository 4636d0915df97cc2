"""The stopwatch of the benches: cases take turns, so that a busy machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Stopwatch:
    """Times cases against each other.

    Attributes:
        measuring: False where benches only have to run (`make test`): each case then runs once, and what it took says
            nothing. Assertions about ratios stand behind it, so that no neighbour on the machine fails a test.
    """

    measuring: bool

    def __call__(
        self,
        cases: Mapping[str, Callable[[], object]],
        rounds: int = 5,
        *,
        warm: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> dict[str, float]:
        """Median seconds of each case over `rounds` turns, after `warm` turns that do not count."""
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(warm + rounds if self.measuring else 1):
            for name, case in cases.items():
                start = clock()
                case()
                times[name].append(clock() - start)
        return {name: statistics.median(found[warm if self.measuring else 0 :]) for name, found in times.items()}


@pytest.fixture
def stopwatch(benchmark) -> Stopwatch:
    return Stopwatch(measuring=benchmark.enabled)
