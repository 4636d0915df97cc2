"""Critical gradients and momenta: known answers, the memory's rules, and what the options reduce to."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from flatlab.optim import SGDCG, SGDCM, AdamCG, AdamCM

GRADIENTS = [(1, 0, -1), (0.5, 1, 2), (-1, 0.1, 0.2), (2, -2, 1), (0.1, 0.1, 0.1), (3, 1, -1)]
PATHS = [{"foreach": None}, {"foreach": True}, {"foreach": False}, {"networks": 1}, {"capturable": True}]
KNOWN = {
    "official": {
        1: (1, -2, 3),
        2: (0.2558631865, -2.7441367184, 3.7441368104),
        3: (-0.0052371407, -3.2757435027, 3.8991448249),
        4: (-0.0794561762, -3.2435367875, 3.6065867459),
        5: (-0.192652437, -2.9914101473, 3.3523560137),
        6: (-0.4064465086, -3.0295793525, 3.1802827672),
    },
    "paper": {
        1: (1e-7, -2, 3.9999999),
        2: (-0.6869462036, -2.7441367184, 3.9259188461),
        3: (-0.999861357, -3.2757435027, 3.4294391669),
        4: (-1.4165139807, -3.2435367875, 2.9088033331),
        5: (-1.7857350773, -2.9914101473, 2.5251688419),
        6: (-2.1809118348, -3.0295793525, 2.3044518047),
    },
    "corrected": {1: (0.9, -2, 3.1), 2: (0.777456, -2.141386, 3.154889), 6: (0.386493, -2.316654, 2.761292)},
}
PRIORITIES = [
    (0.70710678, 0),
    (0.35355339, 1.14564392),
    (0.51234754, 0.57282196),
    (1.5, 0.28641098),
    (0.75, 0.14320549),
    (0.375, 1.6583124),
]


def vector(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor([values], dtype=torch.float64))


def feed(optimizer: torch.optim.Optimizer, *gradients: Tensor) -> None:
    """A step with these gradients, one per parameter."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for p, g in zip(params, gradients, strict=True):
        p.grad = g.to(p)
    optimizer.step()


def memory(optimizer: torch.optim.Optimizer, p: Tensor) -> list[float]:
    """The first coordinate of each slot."""
    return optimizer.state[p]["memory"].flatten(1)[:, 0].tolist()


# The official start-up looks at the number of the step, which a capturable optimizer keeps on the device.
RUNS = [(init, path) for init in KNOWN for path in PATHS if init != "official" or "capturable" not in path]


@pytest.mark.parametrize(("init", "path"), RUNS, ids=str)
def test_a_run_by_hand(init: str, path: dict) -> None:
    p = vector(1, -2, 3)
    optimizer = AdamCM([p], lr=0.1, capacity=2, decay=0.5, init=init, **path)
    digits = 5e-7 if init == "corrected" else 6e-11
    for step, (g, priorities) in enumerate(zip(GRADIENTS, PRIORITIES, strict=True), start=1):
        feed(optimizer, torch.tensor([g], dtype=torch.float64))
        if step in KNOWN[init]:
            assert p.flatten().tolist() == pytest.approx(KNOWN[init][step], rel=0, abs=digits)
        assert optimizer.state[p]["priority"][0].tolist() == pytest.approx(priorities, abs=1e-8)


@pytest.mark.parametrize(("init", "first"), [("paper", 10), ("official", 0), ("corrected", 1)])
def test_first_steps_on_a_constant_gradient(init: str, first: float) -> None:
    p = vector(0)
    optimizer = AdamCM([p], lr=1.0, eps=0, init=init)
    sizes = []
    for _ in range(40):
        before = p.item()
        feed(optimizer, torch.ones(1, 1))
        sizes.append(before - p.item())
    assert sizes[0] == pytest.approx(first)
    second = {"paper": 7.04, "official": math.sqrt(1.999) / (1 - 0.81), "corrected": 1.26}[init]
    assert sizes[1] == pytest.approx(second, abs=5e-3)
    assert sizes[-1] == pytest.approx({"paper": 1.26, "official": 1.26, "corrected": 1.01}[init], abs=1e-2)


@pytest.mark.parametrize("options", [{"capacity": 0}, {"kappa": 0.0}, {"kappa": 0.0, "memory": "gradient"}], ids=str)
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_without_memory_it_is_adam(options: dict, amsgrad: bool, decay: float) -> None:
    ours, theirs = (
        [nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)), vector(1)] for _ in range(2)
    )
    decoupled = AdamCM(ours, lr=0.1, second_moment="gradient", amsgrad=amsgrad, weight_decay=decay, **options)
    peer = torch.optim.AdamW(theirs, lr=0.1, amsgrad=amsgrad, weight_decay=decay)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        gradients = [torch.randn(p.shape, generator=generator) for p in ours]
        feed(decoupled, *gradients)
        feed(peer, *gradients)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("init", ["paper", "corrected"])
@pytest.mark.parametrize("path", PATHS, ids=str)
def test_looking_ahead_adds_the_latest_gradient_once_more(init: str, path: dict) -> None:
    p, q = vector(1, -2, 3), torch.tensor([1.0, -2, 3], dtype=torch.float64)
    optimizer = AdamCM([p], lr=0.1, capacity=2, policy="fifo", nesterov=True, init=init, eps=0, **path)
    m, v, items = torch.zeros_like(q), torch.zeros_like(q), []
    for t, gradient in enumerate(GRADIENTS, start=1):
        g = torch.tensor(gradient, dtype=torch.float64) + 3
        feed(optimizer, g[None])
        m, bias = 0.9 * m + 0.1 * g, 1 - 0.9**t
        unit, rest = (bias, 1) if init == "corrected" else (1, bias)
        u = (0.9 * m + 0.1 * g) / unit + sum(items[-2:]) / max(len(items[-2:]), 1)
        items.append(m / unit)
        v = 0.999 * v + 0.001 * u**2
        q = q - 0.1 * u / rest / (v / (1 - 0.999**t)).sqrt()
    torch.testing.assert_close(p[0].detach(), q)


def test_l2_decay_without_memory_is_that_of_torch() -> None:
    for cls, theirs in ((AdamCG, torch.optim.Adam), (SGDCG, torch.optim.SGD), (SGDCM, torch.optim.SGD)):
        options = {"momentum": 0.0} if theirs is torch.optim.SGD else {}
        a, b = vector(1, -2), vector(1, -2)
        ours = cls([a], lr=0.1, capacity=0, weight_decay=0.3, **options)
        peer = theirs([b], lr=0.1, weight_decay=0.3, **options)
        for g in ((1.0, 2.0), (0.5, -1.0), (0.0, 0.3)):
            feed(ours, torch.tensor([g]))
            feed(peer, torch.tensor([g]))
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_constant_norm_keeps_the_last_items() -> None:
    p = vector(0)
    optimizer = AdamCG([p], capacity=3)
    for value in (1, -1, 1, 1, -1, -1, 1):
        feed(optimizer, torch.full((1, 1), float(value)))
    assert sorted(memory(optimizer, p)) == sorted([-1.0, -1.0, 1.0])
    assert optimizer.state[p]["born"][0].sort().values.tolist() == [5, 6, 7]
    assert optimizer.memory_stats()[0]["mean_age"] == 1


def test_without_decay_the_largest_items_stay() -> None:
    p = vector(0)
    optimizer = AdamCG([p], capacity=3, decay=1.0)
    for norm in (3, 1, 4, 1, 5, 9, 2, 6, 5, 3):
        feed(optimizer, torch.full((1, 1), float(norm)))
    assert sorted(memory(optimizer, p)) == [5, 6, 9]
    assert optimizer.state[p]["priority"][0].sort().values.tolist() == [5, 6, 9]
    stats = optimizer.memory_stats()[0]
    assert (stats["filled"], stats["accepted"], stats["refused"]) == (3, 6, 4)
    assert (stats["priority_min"], stats["priority_max"]) == (5, 9)


@pytest.mark.parametrize(("ratio", "frozen"), [(0.5, True), (0.98, True), (0.995, False)])
def test_the_memory_freezes_if_norms_fall_faster_than_priorities(ratio: float, frozen: bool) -> None:
    p = vector(0)
    optimizer = AdamCG([p], capacity=3, decay=0.99)
    for step in range(200):
        feed(optimizer, torch.full((1, 1), ratio**step))
    first = [1, ratio, ratio**2]
    assert (sorted(memory(optimizer, p), reverse=True) == pytest.approx(first)) == frozen


def test_priorities_fall_with_age() -> None:
    p = vector(0)
    optimizer = AdamCG([p], capacity=4, decay=0.7)
    for norm in (2.0, 3.0, 4.0):
        feed(optimizer, torch.full((1, 1), norm))
    assert optimizer.state[p]["priority"][0].tolist() == pytest.approx([2 * 0.7**3, 3 * 0.7**2, 4 * 0.7, 0])


def test_fifo_is_a_ring() -> None:
    p = vector(0)
    optimizer = AdamCG([p], capacity=3, policy="fifo")
    for norm in range(1, 8):
        feed(optimizer, torch.full((1, 1), 10.0 - norm))
    assert memory(optimizer, p) == [3, 5, 4]


@pytest.mark.parametrize(("norm", "expected"), [("global", math.sqrt(194)), ("sum", 18.0)])
def test_norms_of_a_group(norm: str, expected: float) -> None:
    params = [vector(0, 0), vector(0, 0)]
    optimizer = AdamCM(params, norm=norm, decay=1.0)
    feed(optimizer, torch.tensor([[3.0, 4.0]]), torch.tensor([[5.0, 12.0]]))
    assert optimizer.state[params[1]]["priority"][0, 0].item() == pytest.approx(expected)


def test_each_tensor_decides_for_itself_with_norm_parameter() -> None:
    params = [vector(0), vector(0)]
    optimizer = AdamCG(params, norm="parameter", capacity=1, decay=1.0)
    feed(optimizer, torch.ones(1, 1), 2 * torch.ones(1, 1))
    feed(optimizer, 3 * torch.ones(1, 1), torch.ones(1, 1))
    assert [memory(optimizer, p) for p in params] == [[3], [2]]


def test_groups_have_memories_of_their_own() -> None:
    together, apart = [vector(0), vector(0)], [vector(0), vector(0)]
    one = AdamCG(together, capacity=1, decay=1.0)
    two = AdamCG([{"params": [p]} for p in apart], capacity=1, decay=1.0)
    for g in ((1.0, 5.0), (2.0, 1.0)):
        for optimizer in (one, two):
            feed(optimizer, *(torch.full((1, 1), value) for value in g))
    assert [memory(one, p) for p in together] == [[1], [5]]
    assert [memory(two, p) for p in apart] == [[2], [5]]


@pytest.mark.parametrize("cls", [AdamCM, AdamCG])
def test_the_scale_of_the_gradients_does_not_matter(cls: type[AdamCM]) -> None:
    runs = []
    for scale in (1.0, 1024.0):
        p, generator = vector(1, 2, 3), torch.Generator().manual_seed(0)
        optimizer = cls([p], lr=0.1, eps=0, decay=0.99, init="corrected")
        for _ in range(50):
            feed(optimizer, scale * torch.randn(1, 3, generator=generator))
        runs.append((p.detach().clone(), optimizer.memory_stats()[0]["accepted"]))
    torch.testing.assert_close(runs[0][0], runs[1][0], rtol=1e-12, atol=1e-12)
    assert runs[0][1] == runs[1][1] < 50


def test_momenta_and_gradients_in_fifo_order_move_sgd_alike() -> None:
    paths = {}
    for cls in (SGDCM, SGDCG):
        p, generator = vector(0, 0, 0), torch.Generator().manual_seed(0)
        optimizer = cls([p], lr=0.05, capacity=5, policy="fifo")
        for _ in range(5):  # fill the memory with zeros, so that the mean is over five items from the start
            feed(optimizer, torch.zeros(1, 3))
        for _ in range(40):
            feed(optimizer, torch.randn(1, 3, generator=generator))
        paths[cls] = p.detach().clone()
    torch.testing.assert_close(paths[SGDCM], paths[SGDCG], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("aggregate", ["mean", "sum", "average"])
def test_the_aggregate(aggregate: str) -> None:
    p = vector(0)
    optimizer = SGDCM([p], lr=1.0, momentum=0.0, capacity=2, kappa=0.5, aggregate=aggregate)
    moves = []
    for g in (1.0, 2.0, 4.0):
        before = p.item()
        feed(optimizer, torch.full((1, 1), g))
        moves.append(before - p.item())
    third = {"mean": 4 + 0.5 * 1.5, "sum": 4 + 0.5 * 3, "average": (4 + 0.5 * 3) / 2}[aggregate]
    assert moves == pytest.approx([1, {"mean": 2.5, "sum": 2.5, "average": 2.5 / 1.5}[aggregate], third])


def test_the_running_sum_stays_close_and_is_exact_after_a_resummation() -> None:
    for every, bound in ((0, 1e-4), (5000, 0.0)):
        p = nn.Parameter(torch.zeros(64))
        optimizer, generator = AdamCM([p], resum_every=every), torch.Generator().manual_seed(0)
        for step in range(5000):
            spike = 100.0 if step % 97 == 0 else 1.0
            feed(optimizer, spike * torch.randn(64, generator=generator))
        state = optimizer.state[p]
        exact = state["memory"].sum(0)
        assert ((state["memory_sum"] - exact).abs().max() / exact.abs().max()).item() <= bound


def test_an_item_that_is_not_finite_is_never_stored() -> None:
    for cls, networks in product((AdamCM, AdamCG), (None, 1)):
        p = vector(1, 2)
        optimizer = cls([p], networks=networks)
        feed(optimizer, torch.ones(1, 2))
        feed(optimizer, torch.tensor([[math.nan, 1.0]]))
        assert optimizer.state[p]["memory"].isfinite().all()
        assert optimizer.state[p]["memory_sum"].isfinite().all()
        stats = optimizer.memory_stats()[0]
        assert (stats["accepted"], stats["refused"]) in ((1, 1), ([1], [1]))
        assert p.isnan().any()  # as with torch's Adam


@pytest.mark.parametrize("cls", [AdamCM, AdamCG, SGDCM, SGDCG])
@pytest.mark.parametrize("norm", ["global", "sum", "parameter"])
def test_stacked_networks_are_networks_apart(cls: type, norm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(3, *shape, generator=generator, dtype=torch.float64) for shape in ((4, 2), (5,))]
    options = {"lr": 0.1, "decay": 0.99, "capacity": 2, "norm": norm}
    stacked = [nn.Parameter(s.clone()) for s in starts]
    together = cls(stacked, networks=3, **options)
    apart = [[nn.Parameter(s[i].clone()) for s in starts] for i in range(3)]
    alone = [cls(params, **options) for params in apart]
    for step in range(20):
        gradients = [torch.randn(s.shape, generator=generator, dtype=torch.float64) for s in starts]
        gradients = [g * torch.tensor([1.0, 0.9**step, 2.0]).view(3, *[1] * (g.ndim - 1)) for g in gradients]
        feed(together, *gradients)
        for i, optimizer in enumerate(alone):
            feed(optimizer, *(g[i] for g in gradients))
    for i in range(3):
        for joint, own in zip(stacked, apart[i], strict=True):
            torch.testing.assert_close(joint[i], own, rtol=1e-10, atol=1e-12)
    if norm == "global":
        assert together.memory_stats()[0]["accepted"] == [o.memory_stats()[0]["accepted"] for o in alone]


def test_what_memory_stats_measure() -> None:
    p = vector(0, 0)
    optimizer = AdamCG([p], capacity=2, policy="fifo")
    assert optimizer.memory_stats() == [{}]
    feed(optimizer, torch.tensor([[3.0, 0.0]]))
    feed(optimizer, torch.tensor([[0.0, 4.0]]))
    stats = optimizer.memory_stats()[0]
    assert stats["cancellation"] == pytest.approx(2.5 / 3.5)
    assert stats["mean_age"] == 0.5
    moment = optimizer.state[p]["exp_avg"][0]
    assert stats["cosine"] == pytest.approx(float(moment @ torch.tensor([1.5, 2.0]).double() / moment.norm() / 2.5))


def test_state_takes_three_numbers_and_the_capacity_per_parameter() -> None:
    params = [nn.Parameter(torch.zeros(100, 10)) for _ in range(3)]
    for capacity, dtype, expected in ((5, None, 4 * 8), (5, torch.bfloat16, 4 * 3 + 2 * 5), (20, None, 4 * 23)):
        optimizer = AdamCM(params, capacity=capacity, buffer_dtype=dtype)
        feed(optimizer, *(torch.ones(100, 10) for _ in params))
        storages = {}
        for state in optimizer.state.values():
            for value in state.values():
                if torch.is_tensor(value):
                    storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        assert expected <= sum(storages.values()) / 3000 < expected + 0.2


def test_large_tensors_are_cut_into_equal_results(monkeypatch: pytest.MonkeyPatch) -> None:
    from flatlab.optim import memory as module

    results = []
    for chunk in (1 << 20, 100):
        monkeypatch.setattr(module, "CHUNK", chunk)
        p, generator = nn.Parameter(torch.zeros(37, 21)), torch.Generator().manual_seed(0)
        optimizer = AdamCM([p], foreach=False, weight_decay=0.1, decoupled_weight_decay=False)
        for _ in range(12):
            feed(optimizer, torch.randn(37, 21, generator=generator))
        results.append(p.detach().clone())
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": -1}, "capacity must be an integer >= 0, got -1"),
        ({"decay": 0.0}, r"decay must lie in \(0, 1\], got 0"),
        ({"decay": 1.5}, "decay"),
        ({"kappa": -1.0}, "kappa must be a finite number >= 0, got -1"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\] must lie in \[0, 1\), got 1"),
        ({"policy": "lifo"}, "fifo"),
        ({"init": "papier"}, "paper"),
        ({"networks": 2}, "networks=2, but parameter 0 of the group has shape"),
        ({"buffer_dtype": torch.int8}, "floating-point"),
        ({"capturable": True, "resum_every": 2}, "capturable=True excludes"),
        ({"memory": "gradient", "nesterov": True}, "nesterov=True .* needs memory='momentum'"),
        ({"lr": torch.tensor(0.1)}, "lr must be a number unless capturable=True"),
    ],
)
def test_options_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdamCM([vector(1, 2)], **options)


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match="view_as_real"):
        AdamCM([nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
    with pytest.raises(RuntimeError, match="differentiable"):
        AdamCM([vector(1)], differentiable=True)
    optimizer = AdamCM([vector(1)])
    with pytest.raises(TypeError, match="closure must be callable"):
        optimizer.step(3)
    with pytest.raises(ValueError, match="capacity"):
        optimizer.add_param_group({"params": [vector(2)], "capacity": -2})
    assert len(optimizer.param_groups) == 1
