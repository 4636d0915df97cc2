"""Hundreds of gradient flows in one batch against the same flows one at a time, and against scipy's integrator."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from flatlab import rlhf

FLOWS, OUTPUTS, GAIN = 200, 50, 0.3


def by_scipy(theta: Tensor, r: Tensor) -> float:
    """LSODA with an event, as one would write it down."""
    rewards, start = r.numpy(), theta.numpy()

    def probs(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max())
        return e / e.sum()

    def slope(_: float, x: np.ndarray) -> np.ndarray:
        p = probs(x)
        return p * (rewards - p @ rewards)

    def reached(_: float, x: np.ndarray) -> float:
        return float(probs(x) @ rewards - probs(start) @ rewards - GAIN)

    reached.terminal = True
    return float(solve_ivp(slope, (0, 1e6), start, method="LSODA", rtol=1e-9, atol=1e-9, events=reached).t[-1])


@pytest.mark.benchmark(group="gradient flows")
def test_flows_in_a_batch_against_one_at_a_time(benchmark, stopwatch) -> None:
    g, flows = torch.Generator().manual_seed(0), FLOWS if stopwatch.measuring else 8
    theta = torch.randn(flows, OUTPUTS, generator=g, dtype=torch.float64)
    r = torch.rand(flows, OUTPUTS, generator=g, dtype=torch.float64) * 2 - 1

    def batch() -> Tensor:
        return torch.as_tensor(rlhf.time_to_gain(rlhf.SoftmaxPolicy(theta), r, r, GAIN))

    def alone() -> list[float | Tensor]:
        return [
            rlhf.time_to_gain(rlhf.SoftmaxPolicy(start), own, own, GAIN) for start, own in zip(theta, r, strict=True)
        ]

    def scipys() -> list[float]:
        return [by_scipy(start, own) for start, own in zip(theta, r, strict=True)]

    seconds = stopwatch({"batch": batch, "alone": alone, "scipy": scipys}, 3)
    ratio, to_scipy = (seconds["batch"] / max(seconds[name], 1e-9) for name in ("alone", "scipy"))
    print(
        f"\n{flows} flows, {OUTPUTS} outputs, in one batch: {seconds['batch']:.2f} s; / one at a time: {ratio:.3f}",
        end="",
    )
    print(f"; / scipy's LSODA, one at a time: {to_scipy:.3f}")
    benchmark.extra_info.update({"batch / one at a time": ratio, "batch / scipy": to_scipy})
    found = benchmark.pedantic(batch, rounds=1)
    torch.testing.assert_close(found, torch.tensor(scipys(), dtype=torch.float64), rtol=1e-6, atol=0)
    assert (ratio < 0.2 and seconds["batch"] < 10) or not stopwatch.measuring
