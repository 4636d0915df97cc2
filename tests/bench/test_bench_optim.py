"""Time of a step of AdamCM and of StackedAdam against torch's Adam, and of AdamCM against a plain version of itself."""

import pytest
import torch
from torch import nn
from torch.optim import Adam

from flatlab.optim import AdamCM, StackedAdam

SIZES = {
    "200 tensors of 100": [(100,)] * 200,
    "122 tensors of 820": [(820,)] * 122,
    "24 of 41k": [(204, 204)] * 24,
    "50 of 200k": [(500, 400)] * 50,
    "5 of 2M": [(2000, 1000)] * 5,
    "one of 10M": [(10_000, 1000)],
}


class Plain(Adam):
    """Adam with critical momenta, a tensor at a time, with the items in a list and the mean taken anew."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        group = self.param_groups[0]
        norm = sum(float(p.grad.norm()) ** 2 for p in group["params"]) ** 0.5
        for p in group["params"]:
            s = self.state[p]
            if not s:
                s.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p), items=[], n=[])
            s["t"] += 1
            s["m"].mul_(0.9).add_(p.grad, alpha=0.1)
            u = s["m"] + torch.stack(s["items"]).mean(0) if s["items"] else s["m"].clone()
            if len(s["items"]) < 5:
                s["items"].append(s["m"].clone())
                s["n"].append(norm)
            elif norm > min(s["n"]):
                slot = s["n"].index(min(s["n"]))
                s["items"][slot], s["n"][slot] = s["m"].clone(), norm
            s["n"] = [0.7 * n for n in s["n"]]
            s["v"].mul_(0.999).addcmul_(u, u, value=0.001)
            d = (s["v"] / (1 - 0.999 ** s["t"])).sqrt().add_(1e-8)
            p.addcdiv_(u, d, value=-group["lr"] / (1 - 0.9 ** s["t"]))


def parameters(shapes: list) -> list[nn.Parameter]:
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


@pytest.mark.benchmark(group="optimizer step")
@pytest.mark.parametrize("case", SIZES)
def test_adam_cm_against_adam(benchmark, stopwatch, case: str) -> None:
    factories = {
        "for-loop Adam": lambda params: Adam(params, foreach=False),
        "foreach Adam": lambda params: Adam(params, foreach=True),
        "AdamCM": AdamCM,
        "AdamCM, C = 20": lambda params: AdamCM(params, capacity=20),
        "plain AdamCM": Plain,
    }
    steps = {name: factory(parameters(SIZES[case])).step for name, factory in factories.items()}
    found = stopwatch(steps, 60 if len(SIZES[case]) > 5 and "200k" not in case else 12, warm=6)
    ours = found.pop("AdamCM")
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\nAdamCM, {case}: {1e3 * ours:.2f} ms, " + ", ".join(f"{ours / t:.2f} x {n}" for n, t in found.items()))


@pytest.mark.benchmark(group="optimizer step")
@pytest.mark.parametrize("networks", [3, 27, 100])
def test_a_rate_for_each_network_against_one_for_all(benchmark, stopwatch, networks: int) -> None:
    """Networks 16-64-64-64-64, as the players of small games are."""
    shapes = [shape for inputs in (16, 64, 64, 64) for shape in ((networks, 64, inputs), (networks, 64))]
    rates = torch.logspace(-4, -2, networks)
    steps = {
        "foreach Adam": Adam(parameters(shapes), foreach=True).step,
        "StackedAdam, one rate": StackedAdam(parameters(shapes)).step,
        "StackedAdam, S rates": StackedAdam(parameters(shapes), lr=rates).step,
    }
    found = stopwatch(steps, 100, warm=6)
    adam = found.pop("foreach Adam")
    benchmark.pedantic(lambda: None, rounds=1)
    print(
        f"\nS = {networks}: Adam {1e6 * adam:.0f} us, " + ", ".join(f"{t / adam:.2f} x {n}" for n, t in found.items())
    )
