"""Closures of two-pass steps: with and without zeroing, after a backward pass of their own, and in parts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flatlab.optim import ASAM, GSAM, SAGM, SAM

each_method = pytest.mark.parametrize("method", [SAM, ASAM, GSAM, SAGM], ids=lambda m: m.__name__)
START, CURVES = (3.0, 4.0, -1.0), (1.0, 2.0, 3.0)
RHO, RATE = 0.5, 0.1


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def parts(w: Tensor) -> list[Tensor]:
    """Two losses whose sum is that of the batch."""
    return [0.5 * (vector(*CURVES) * w * w).sum(), (w**4).sum() / 4]


def slope(w: Tensor) -> Tensor:
    return vector(*CURVES) * w + w**3


def expected(method: Any) -> Tensor:
    """One step by the formulas."""
    w = vector(*START)
    size = w.abs() + 0.01 if method is ASAM else torch.ones(3)
    g0, alpha = slope(w), {GSAM: 0.4, SAGM: 0.001}.get(method, 0.0)
    eps = RHO * size**2 * g0 / (size * g0).norm() - (alpha * g0 if method is SAGM else 0)
    g1 = slope(w + eps)
    if method is GSAM:
        g1 = g1 - alpha * (g0 - g0 @ g1 / (g1 @ g1) * g1)
    return w - RATE * ((g0 + g1) / 2 if method is SAGM else g1)


def keep(_: torch.optim.Optimizer) -> None:
    """Zero nothing."""


ZEROING: dict[str, Callable[[torch.optim.Optimizer], None]] = {
    "nothing": keep,
    "to None": lambda opt: opt.zero_grad(),
    "in place": lambda opt: opt.zero_grad(set_to_none=False),
}


@each_method
@pytest.mark.parametrize("zeroes", ZEROING)
@pytest.mark.parametrize("backward_before", [False, True])
def test_a_closure_need_not_zero_and_a_backward_pass_before_it_does_not_count(
    method: Any, zeroes: str, backward_before: bool
) -> None:
    w = nn.Parameter(vector(*START))
    opt = method([w], rho=RHO, lr=RATE)

    def closure() -> Tensor:
        ZEROING[zeroes](opt)
        loss = torch.stack(parts(w)).sum()
        loss.backward()
        return loss

    if backward_before:
        closure()
    assert float(opt.step(closure).detach()) == float(torch.stack(parts(vector(*START))).sum())
    torch.testing.assert_close(w.detach(), expected(method), rtol=1e-10, atol=1e-10)


@each_method
@pytest.mark.parametrize("zeroes", ZEROING)
def test_a_batch_in_parts_is_accumulated_in_the_closure(method: Any, zeroes: str) -> None:
    w = nn.Parameter(vector(*START))
    opt = method([w], rho=RHO, lr=RATE)

    def closure() -> Tensor:
        ZEROING[zeroes](opt)
        for index in range(2):
            parts(w)[index].backward()
        return torch.zeros(())

    opt.step(closure)
    torch.testing.assert_close(w.detach(), expected(method), rtol=1e-10, atol=1e-10)


@each_method
def test_gradients_that_a_closure_writes_where_they_are_stay_there(method: Any) -> None:
    """As a replayed graph does, which knows addresses alone."""
    w = nn.Parameter(vector(*START))
    opt = method([w], rho=RHO, lr=RATE)
    static = w.grad = torch.zeros(3, dtype=torch.float64)

    def closure() -> Tensor:
        static.copy_(slope(w.detach()))
        return torch.zeros(())

    opt.step(closure)
    assert w.grad is static
    torch.testing.assert_close(w.detach(), expected(method), rtol=1e-10, atol=1e-10)


@each_method
def test_an_expanded_gradient_is_no_obstacle_to_the_next_step(method: Any) -> None:
    w = nn.Parameter(vector(2.0, 2.0, 2.0))
    opt, twin = method([w], rho=RHO, lr=RATE), nn.Parameter(vector(2.0, 2.0, 2.0))
    other = method([twin], rho=RHO, lr=RATE)

    def closure(p: Tensor, expanded: bool) -> Tensor:
        g = (p.detach() ** 3).mean()
        p.grad = g.expand(3) if expanded else g.expand(3).clone()
        return torch.zeros(())

    for _ in range(3):
        opt.step(lambda: closure(w, True))
        other.step(lambda: closure(twin, False))
    assert torch.equal(w, twin)
