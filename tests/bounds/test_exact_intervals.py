"""Intervals that follow from what a function is: extremes, logarithms of softmax, roots at 0, and mixtures."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.bounds import Ascent, Box, DomainError, LpBall, Program, compute_bounds, verified
from flatlab.bounds.bounds import Bounds

METHODS = ("ibp", "forward", "crown-ibp", "crown", "forward+backward", "alpha-crown")
every_method = pytest.mark.parametrize("method", METHODS)


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, f: Callable[..., Tensor]) -> None:
        super().__init__()
        self.f = f

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.f(*inputs)


def found(f: Callable[..., Tensor], box: Box, method: str) -> tuple[Tensor, Tensor]:
    low, high = compute_bounds(Function(f), box.center, box, method, ascent=Ascent(iters=4))
    return low.detach(), high.detach()


def box(low: list[float], high: list[float], dtype: torch.dtype = torch.float64) -> Box:
    return Box(torch.tensor([low], dtype=dtype), torch.tensor([high], dtype=dtype))


def within(f: Callable[[Tensor], Tensor], region: Box, ends: tuple[Tensor, Tensor], slack: float = 1e-9) -> None:
    unit = torch.rand(400, *region.low.shape, generator=torch.Generator().manual_seed(0), dtype=region.low.dtype)
    unit[::2] = unit[::2].round()
    values = f((region.low + (region.high - region.low) * unit).flatten(0, 1)).unflatten(0, (400, -1))
    assert bool((ends[0] - slack <= values).all() & (values <= ends[1] + slack).all())


# --- extremes ---------------------------------------------------------------------------------------------------------


@every_method
def test_a_range_of_constants_is_exact(method: str) -> None:
    half, more = torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.75, dtype=torch.float64)
    for f in (
        lambda x: torch.minimum(torch.maximum(x, half), more),
        lambda x: torch.maximum(half, torch.minimum(more, x)),
        lambda x: torch.max(torch.min(x, more), half),
    ):
        low, high = found(f, box([-1.0, 0.6, 0.0], [1.5, 0.7, 0.6]), method)
        torch.testing.assert_close(low, torch.tensor([[0.5, 0.6, 0.5]], dtype=torch.float64))
        torch.testing.assert_close(high, torch.tensor([[0.75, 0.7, 0.6]], dtype=torch.float64))


@every_method
def test_extremes_of_two_values_have_the_interval_of_their_ends(method: str) -> None:
    region = box([-1.0, 0.0, 2.0, -1.0], [2.0, 1.0, 3.0, 0.5])
    for f, low, high in (
        (lambda x: torch.maximum(x[:, :2], x[:, 2:]), [2.0, 0.0], [3.0, 1.0]),
        (lambda x: torch.minimum(x[:, :2], x[:, 2:]), [-1.0, -1.0], [2.0, 0.5]),
        (lambda x: torch.maximum(x[:, 3:], x[:, :2]), [-1.0, 0.0], [2.0, 1.0]),  # one for several
    ):
        ends = found(f, region, method)
        assert bool((ends[0] >= torch.tensor(low) - 1e-12).all() & (ends[1] <= torch.tensor(high) + 1e-12).all())
        within(f, region, ends)


def test_extremes_of_a_value_and_its_double_cancel_what_they_share() -> None:
    """max(x, 2 x) = x + relu(x), whose step is known better than by ends of their own."""
    low, high = found(lambda x: torch.maximum(x, 2 * x), box([1.0], [3.0]), "crown")
    torch.testing.assert_close((low, high), tuple(torch.tensor([[e]], dtype=torch.float64) for e in (2.0, 6.0)))


# --- logarithms of softmax --------------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1.0, 100.0, 1e4])
def test_logits_of_any_width_have_bounded_logarithms(method: str, dtype: torch.dtype, width: float) -> None:
    """LSE of two in [-w, w] lies in [-w, w] + log 2; log p_1 in -+ log(1 + e^(2 w))."""
    region = box([-width] * 2, [width] * 2, dtype)
    low, high = found(lambda x: x.logsumexp(1, keepdim=True), region, method)
    wanted = torch.tensor([[math.log(2)]], dtype=dtype)
    torch.testing.assert_close((low, high), (wanted - width, wanted + width))
    f = lambda x: x.log_softmax(1)  # noqa: E731
    low, high = found(f, region, method)
    assert bool(low.isfinite().all() & high.isfinite().all())
    assert float(high.max()) <= 1e-6
    assert float(low.min()) >= -(2 * width + math.log(2)) * (1 + 1e-6)
    within(f, region, (low, high), 1e-6 * width)


def test_a_classifier_that_ends_in_log_softmax_is_verified_as_its_logits_are() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), 40 * torch.rand(5, 6)
    ended, ball = nn.Sequential(net, nn.LogSoftmax(1)), LpBall(x, 3.0)
    y = net(x).argmax(1)
    for method in ("crown-ibp", "crown"):
        plain, logs = (Bounds(Program(m, x), x, ball) for m in (net, ended))
        assert bool(verified(plain, y, method=method).equal(verified(logs, y, method=method)))


@every_method
def test_an_exponential_that_overflows_is_named(method: str) -> None:
    region = box([80.0], [100.0], torch.float32)
    with pytest.raises(DomainError, match=r"\(exp\).*float32.*\[80, 100\].*double precision"):
        found(lambda x: x.exp() - x.exp(), region, method)
    low, high = found(lambda x: x.exp(), box([80.0], [100.0]), method)
    torch.testing.assert_close(
        (low, high), tuple(torch.tensor([[z]], dtype=torch.float64).exp() for z in (80.0, 100.0))
    )


# --- roots ------------------------------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [0.5, 0.3, 1.5])
def test_powers_begin_at_0(method: str, dtype: torch.dtype, n: float) -> None:
    region = box([0.0, 0.0, 0.0, 0.0], [0.0, 1e-20, 1e-6, 4.0], dtype)
    low, high = found(lambda x: x**n, region, method)
    torch.testing.assert_close(low, torch.zeros_like(low), rtol=0, atol=1e-7)
    torch.testing.assert_close(high, region.high**n)
    c = torch.tensor([[[1.0, -2.0, 3.0, -1.0], [-1.0, -1.0, -1.0, -1.0]]], dtype=dtype)
    rows = compute_bounds(Function(lambda x: x**n), region.center, region, "crown", c)
    within(lambda x: (x**n) @ c[0].T, region, rows, 1e-6)


def test_roots_at_0_have_gradients_that_are_numbers() -> None:
    """A norm of what may vanish, by every method that can be trained."""
    net = Function(lambda x: (x.square().sum(1, keepdim=True)).sqrt() * torch.ones(1, 2))
    low = torch.tensor([[-1.0, -1.0], [0.0, 0.0]], requires_grad=True)
    region = Box(low, torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
    for method in ("ibp", "crown-ibp", "crown"):
        ends = Bounds(Program(net, low.detach()), low.detach(), region).compute(method)
        assert bool(torch.autograd.grad(sum(end.sum() for end in ends), low)[0].isfinite().all())
        torch.testing.assert_close(ends[0].detach(), torch.zeros(2, 2), rtol=0, atol=2e-6)
        assert bool((ends[1].detach() >= torch.tensor([[5.0], [0.0]]).sqrt()).all())


# --- mixtures ---------------------------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("kind", ["attention", "causal", "by hand", "bmm"])
def test_what_a_softmax_mixes_lies_between_the_least_and_the_largest(method: str, kind: str) -> None:
    options = {"is_causal": True} if kind == "causal" else {}

    def f(x: Tensor) -> Tensor:
        if kind in ("attention", "causal"):
            return F.scaled_dot_product_attention(9 * x, x, x.tanh(), **options)
        return (torch.bmm if kind == "bmm" else torch.matmul)((9 * x @ x.mT).softmax(-1), x.tanh())

    x = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    region = Box(x - 0.5, x + 0.5)
    low, high = found(f, region, method)
    least, most = region.low.tanh().amin(1, keepdim=True), region.high.tanh().amax(1, keepdim=True)
    assert bool((low >= least - 1e-9).all() & (high <= most + 1e-9).all())
    within(f, region, (low, high))


def test_a_softmax_of_one_input_mixes_constants_and_values_of_another() -> None:
    """The interval of the values is used where there is one."""
    net = Function(lambda x, v: x.softmax(-1) @ v)
    x, v = torch.rand(2, 3, 3), torch.rand(2, 3, 4)
    for sets in ({0: LpBall(x, 0.1)}, {1: LpBall(v, 0.1)}, {0: LpBall(x, 9.0), 1: LpBall(v, 0.1)}):
        for keep in (False, True):
            low, high = Bounds(Program(net, x, v), (x, v), sets, keep=keep).compute("ibp")
            if len(sets) == 2:
                assert bool((low >= v.amin(1, keepdim=True) - 0.1001).all())
                assert bool((high <= v.amax(1, keepdim=True) + 0.1001).all())
            assert bool((low <= net(x, v)).all() & (net(x, v) <= high).all())
