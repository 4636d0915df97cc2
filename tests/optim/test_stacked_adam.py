"""Adam with a learning rate for each stacked network: torch's Adam, S times, and what is refused."""

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flatlab import models, train
from flatlab.optim import StackedAdam
from flatlab.train.stacking import keeps_apart

SHAPES = ((3, 4, 2), (3, 5), (3,))
RATES = [0.03, 0.0, 0.001]


def start(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    g = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for shape in SHAPES]


def set_gradients(params: list[Tensor], t: int, rows: slice = slice(None)) -> None:
    """Drawn ones, some of them zero; `rows` of what all networks get."""
    g = torch.Generator().manual_seed(t)
    for p, shape in zip(params, SHAPES, strict=True):
        p.grad = torch.randn(shape, generator=g, dtype=torch.float64).relu().to(p.dtype)[rows] - 0.1 * p.detach()


def ran(kind: type[torch.optim.Optimizer], params: list[Tensor], rows: slice = slice(None), **options: Any) -> Any:
    opt = kind(params, **options)
    for t in range(8):
        set_gradients(params, t, rows)
        opt.step()
    return opt


def close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-12) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"betas": (0.0, 0.9), "eps": 1e-3},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "maximize": True, "foreach": False},
    {"betas": (0.5, 0.999), "foreach": True},
]
with_options = pytest.mark.parametrize("options", OPTIONS, ids=str)


@with_options
@pytest.mark.parametrize("lr", [0.02, torch.tensor(0.02, dtype=torch.float64)], ids=["number", "tensor"])
def test_with_one_rate_it_is_torchs_adam_with_the_same_state(options: dict, lr: float | Tensor) -> None:
    ours, theirs = start(), start()
    opt, reference = ran(StackedAdam, ours, lr=lr, **options), ran(torch.optim.Adam, theirs, lr=0.02, **options)
    close(ours, theirs)
    for p, q in zip(ours, theirs, strict=True):
        assert opt.state[p].keys() == reference.state[q].keys()
        close(list(opt.state[p].values()), list(reference.state[q].values()))
        assert [v.dtype for v in opt.state[p].values()] == [v.dtype for v in reference.state[q].values()]


@with_options
@pytest.mark.parametrize("networks", [None, 3])
@pytest.mark.parametrize("form", [tuple, torch.tensor, lambda rates: torch.tensor(rates, dtype=torch.float64)])
def test_each_network_moves_as_torchs_adam_moves_it_at_its_rate(options: dict, networks: int | None, form) -> None:
    params, rates = start(), form(RATES)
    ran(StackedAdam, params, lr=rates, networks=networks, **options)
    for s in range(3):
        alone = [p.detach()[s : s + 1].clone().requires_grad_() for p in start()]
        ran(torch.optim.Adam, alone, slice(s, s + 1), lr=float(rates[s]), **options)
        close([p[s : s + 1] for p in params], alone, 1e-8 if getattr(rates, "dtype", None) is torch.float32 else 1e-12)
    assert all(torch.equal(p[1], q[1]) for p, q in zip(params, start(), strict=True)), "a rate of 0 moves nothing"
    assert not torch.equal(params[0][2], start()[0][2])


def test_rates_in_the_precision_of_the_weights() -> None:
    narrow, wide = start(torch.float32), start()
    for params in (narrow, wide):
        ran(StackedAdam, params, lr=RATES)
    assert narrow[0].dtype == torch.float32
    close([p.double() for p in narrow], wide, 1e-5)


@settings(max_examples=30, deadline=None)
@given(rates=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=4), scale=st.floats(1e-3, 1e3))
def test_a_first_step_is_its_rate_long_whatever_the_gradient(rates: list[float], scale: float) -> None:
    p = torch.zeros(len(rates), 2, dtype=torch.float64, requires_grad=True)
    p.grad = torch.tensor([1.0, -1.0], dtype=torch.float64).expand_as(p) * scale
    StackedAdam([p], lr=rates, eps=0.0).step()
    expected = torch.tensor(rates, dtype=torch.float64)[:, None] * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=0)


def test_groups_have_rates_of_their_own_and_parameters_that_begin_late_their_own_count() -> None:
    params, first, rest = start(), start()[:2], start()[2:]
    opt = StackedAdam([{"params": params[:2], "lr": RATES}, {"params": params[2:]}], lr=0.1)
    others = StackedAdam(first, lr=RATES), torch.optim.Adam(rest, lr=0.1)
    for t in range(6):
        for tensors in (params, first + rest):
            set_gradients(tensors, t)
            if t < 3:
                tensors[1].grad = None
        for each in (opt, *others):
            each.step()
    close(params, first + rest)
    assert [float(opt.state[p]["step"]) for p in params] == [6, 3, 6]
    alone = start()[1:2]
    late = StackedAdam(alone, lr=RATES)
    for t in range(3, 6):
        set_gradients([*start()[:1], *alone, *start()[2:]], t)
        late.step()
    close(params[1:2], alone)


def test_a_bad_gradient_spoils_its_element_alone() -> None:
    params, reference = start(), start()
    for tensors, kind, lr in ((params, StackedAdam, [0.1] * 3), (reference, torch.optim.Adam, 0.1)):
        opt = kind(tensors, lr=lr)
        for t in range(3):
            set_gradients(tensors, t)
            if t == 1:
                tensors[1].grad[2, 3], tensors[0].grad[0, 0, 0] = math.inf, math.nan
            opt.step()
    assert [int(p.isnan().sum()) for p in params] == [1, 1, 0]
    assert all(torch.equal(p.isnan(), q.isnan()) for p, q in zip(params, reference, strict=True))


def test_a_state_holds_the_rates_and_is_that_of_torchs_adam() -> None:
    params = start()
    opt = ran(StackedAdam, params, lr=RATES)
    copies = [p.detach().clone().requires_grad_() for p in params]
    again = StackedAdam(copies, lr=0.5)
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert again.param_groups[0]["lr"].tolist() == RATES
    theirs = [p.detach().clone().requires_grad_() for p in params]
    control = torch.optim.Adam(theirs)
    ran_in_torch = ran(torch.optim.Adam, start(), lr=0.1)
    control.load_state_dict(ran_in_torch.state_dict())
    mixed = [p.detach().clone().requires_grad_() for p in params]
    ours = StackedAdam(mixed)
    ours.load_state_dict(ran_in_torch.state_dict())
    pairs = ((opt, params), (again, copies), (control, theirs), (ours, mixed))
    for optimizer, tensors in pairs:
        set_gradients(tensors, 9)
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params, copies, strict=True))
    close(mixed, theirs)


def test_stacked_training_finds_what_each_rate_finds_alone() -> None:
    x = torch.rand(32, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nets = [models.build("mlp", (4,), 1, seed=0, options={"widths": (4,)}).double() for _ in RATES]
    stacked = models.stack_models(nets)

    def play(net: torch.nn.Module, optimizer: Any, lr: Any, networks: int | None, count: int) -> None:
        stepper = train.Stepper(net.parameters(), optimizer, lr=lr, schedule="cosine", total_steps=6, networks=networks)
        while stepper.steps < 6:
            stepper.step(
                lambda: (
                    (net(x.repeat(count, 1))[:, 0] - x.sum(1).repeat(count)).square().unflatten(0, (count, -1)).mean(1)
                )
            )

    play(stacked, StackedAdam, torch.tensor(RATES, dtype=torch.float64), 3, 3)
    found = models.unstack(stacked, nets[0])
    for net, rate, other in zip(nets, RATES, found, strict=True):
        play(net, torch.optim.Adam, rate, None, 1)
        close(list(other.parameters()), list(net.parameters()), 1e-9)
    assert keeps_apart(StackedAdam, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": [0.1, 0.2]}, "networks=2, but parameter 0 of the group has shape"),
        ({"lr": [0.1, -0.2, 0.1]}, "lr must be a finite number >= 0, got -0.2"),
        ({"lr": torch.tensor([0.1, math.nan, 0.1])}, "lr must be a finite number >= 0, got nan"),
        ({"lr": torch.tensor(-1.0)}, "lr must be a finite number >= 0, got -1.0"),
        ({"lr": [0.1, 0.2, 0.3], "networks": 2}, r"\(2,\), one rate for each of the networks=2, got shape \(3,\)"),
        ({"lr": torch.full((3, 1), 0.1)}, r"must be a number or have shape \(S,\), got shape \(3, 1\)"),
        ({"lr": []}, "networks=0, but parameter 0"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\] must lie in \[0, 1\), got 1.0"),
        ({"networks": 2}, r"networks=2, but parameter 0 of the group has shape \(3, 4, 2\)"),
    ],
    ids=str,
)
def test_misfits_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StackedAdam(start(), **options)
    opt = StackedAdam(start()[:1])
    with pytest.raises(ValueError, match=message):
        opt.add_param_group({"params": start()[:1] if "(3, 4, 2)" in message else start(), **options})
    assert len(opt.param_groups) == 1


def test_a_number_without_dimensions_is_of_no_network() -> None:
    with pytest.raises(ValueError, match=r"parameter 0 of the group has shape \(\)"):
        StackedAdam([torch.zeros((), requires_grad=True)], lr=[0.1])
