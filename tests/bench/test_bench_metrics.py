"""Speed of the Frechet distance as ratios measured in one run: to the routes of pytorch-fid and of torchmetrics.

Run with `pytest tests/bench/test_bench_metrics.py -s --benchmark-enable`.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import linalg

from flatlab.metrics import fid_difference, frechet_distance


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.benchmark(group="frechet distance")
def test_frechet_distance_against_the_routes_of_others(benchmark, stopwatch) -> None:
    d, g = 512 if stopwatch.measuring else 32, torch.Generator().manual_seed(0)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64) / d**0.5
    x, y = torch.randn(4 * d, d, generator=g, dtype=torch.float64) @ mix, torch.randn(3 * d, d, generator=g).double()
    moments = [moment for rows in (x, y) for moment in (rows.mean(0), rows.T.cov())]
    rest = float((moments[0] - moments[2]).square().sum() + moments[1].trace() + moments[3].trace())

    def own() -> float:
        return frechet_distance(*moments)

    def sqrtm() -> float:  # pytorch-fid
        return rest - 2 * np.trace(linalg.sqrtm((moments[1] @ moments[3]).numpy()).real)

    def eigvals() -> float:  # torchmetrics
        return rest - 2 * float(torch.linalg.eigvals(moments[1] @ moments[3]).sqrt().real.sum())

    centred = (rows - rows.mean(0) for rows in (x, y))
    factors = [torch.linalg.qr(rows / (len(rows) - 1) ** 0.5, mode="r").R for rows in centred]
    exact = rest - 2 * float(torch.linalg.svdvals(factors[0] @ factors[1].T).sum())
    errors = {case.__name__: abs(case() / exact - 1) for case in (own, sqrtm, eigvals)}
    assert errors["own"] < 1e-10

    seconds = stopwatch({"own": own, "sqrtm": sqrtm, "eigvals": eigvals}, 5)
    ratios = {name: seconds["own"] / seconds[name] for name in ("sqrtm", "eigvals")}
    shown = ", ".join(f"/ {name} {ratio:.2f}" for name, ratio in ratios.items())
    print(f"\nfrechet_distance, D = {d}: {shown}; errors {', '.join(f'{k} {v:.0e}' for k, v in errors.items())}")
    benchmark.extra_info.update(ratios)
    benchmark.pedantic(lambda: None, rounds=1)
    assert (ratios["sqrtm"] < 0.5 and ratios["eigvals"] < 1) or not stopwatch.measuring


@pytest.mark.benchmark(group="difference of FIDs")
def test_an_interval_against_a_bootstrap(benchmark, stopwatch) -> None:
    """Of what a bootstrap of 200 resamples needs, its singular values alone."""
    n, d, g = 1000, 64, torch.Generator().manual_seed(0)
    x, a, b = (scale * torch.randn(n, d, generator=g, dtype=torch.float64) for scale in (1, 1.2, 1.3))

    def bootstrap() -> None:
        for _ in range(200 if stopwatch.measuring else 1):
            factors = [torch.linalg.qr(rows[torch.randint(n, (n,), generator=g)], mode="r").R for rows in (x, a, b)]
            for factor in factors[1:]:
                torch.linalg.svdvals(factors[0] @ factor.T)

    seconds = stopwatch({"own": lambda: fid_difference(x, a, b), "bootstrap": bootstrap}, 3)
    ratio = seconds["own"] / seconds["bootstrap"]
    print(f"\nfid_difference / bootstrap of 200, D = {d}, N = {n}: {ratio:.3f}")
    benchmark.extra_info["ratio"] = ratio
    benchmark.pedantic(lambda: None, rounds=1)
    assert ratio < 0.3 or not stopwatch.measuring
