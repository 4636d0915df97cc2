"""Padding of convolutions and of pools: what it is written as makes no difference, and it adds nothing to a ball."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.bounds import Ascent, LpBall, compute_bounds, weight_balls

CONVOLUTIONS = {1: (nn.Conv1d, (2, 7)), 2: (nn.Conv2d, (2, 5, 6)), 3: (nn.Conv3d, (2, 4, 3, 4))}
METHODS = ("ibp", "forward", "crown")


class Function(nn.Module):
    """A function, with a module whose parameters it uses."""

    def __init__(self, f: Callable[[Tensor], Tensor], inner: nn.Module | None = None) -> None:
        super().__init__()
        self.f, self.inner = f, inner

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


def convolution(dim: int, **options: object) -> tuple[nn.Module, Tensor]:
    make, shape = CONVOLUTIONS[dim]
    torch.manual_seed(dim)
    return make(2, 3, 3, **options).double(), torch.rand(2, *shape, dtype=torch.float64)


def reach(layer: nn.Module, x: Tensor, p: float) -> Tensor:
    """How far each output moves on a unit ball around x: the dual norm of its row of the Jacobian."""
    row = torch.func.jacrev(lambda z: layer(z[None])[0])(x[0])
    return row.flatten(-x.ndim + 1).norm(p={1: math.inf, 2: 2, math.inf: 1}[p], dim=-1)


@pytest.mark.parametrize("p", [1, 2, math.inf])
@pytest.mark.parametrize("dim", CONVOLUTIONS)
@pytest.mark.parametrize("padding", ["same", "valid", 1])
def test_a_convolution_of_a_ball_is_as_tight_however_its_padding_is_written(
    dim: int, p: float, padding: object
) -> None:
    layer, x = convolution(dim, padding=padding)
    ball = LpBall(x, 0.1, p)
    wanted = 0.1 * reach(layer, x, p)
    for method in METHODS:
        low, high = compute_bounds(layer, x, ball, method)
        if p == 1 and method == "ibp":  # the largest weight, also where it falls on the padding
            inner = (slice(None), slice(None), *[slice(1, -1) if padding != "valid" else slice(None)] * dim)
            low, high, value, size = low[inner], high[inner], layer(x)[inner], wanted[inner[1:]]
        else:
            value, size = layer(x), wanted
        torch.testing.assert_close(low, value - size)
        torch.testing.assert_close(high, value + size)


def test_a_transposed_convolution_of_a_round_ball_is_exact() -> None:
    torch.manual_seed(0)
    layer, x = nn.ConvTranspose2d(2, 4, 3, 2, 1, 1, groups=2).double(), torch.rand(2, 2, 3, 4, dtype=torch.float64)
    for method in METHODS:
        low, high = compute_bounds(layer, x, LpBall(x, 0.1, 2), method)
        torch.testing.assert_close(high, layer(x) + 0.1 * reach(layer, x, 2))
        torch.testing.assert_close(low, layer(x) - 0.1 * reach(layer, x, 2))


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(("kernel", "dilation"), [(2, 1), (4, 1), (3, 2), ((2, 3), (2, 1))])
def test_padding_that_is_no_number_on_both_sides(kernel: object, dilation: object, p: float) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(2, 3, kernel, padding="same", dilation=dilation).double(), torch.rand(2, 2, 5, 6).double()
    ball, size = LpBall(x, 0.1, p), 0.1 * reach(layer, x, p)
    for method in METHODS:
        low, high = compute_bounds(layer, x, ball, method)
        if p == 2 or method != "ibp":
            torch.testing.assert_close(high, layer(x) + size)
        assert bool((high >= layer(x) + size - 1e-12).all() & (low <= layer(x) - size + 1e-12).all())
    weights = weight_balls(layer, 0.1, p=p)  # and its weights may move, too
    low, high = compute_bounds(layer, x, weights=weights)
    patches = F.unfold(F.pad(x, pads(layer)), layer.kernel_size, layer.dilation).norm(p={1: math.inf, 2: 2}[p], dim=1)
    torch.testing.assert_close(high - layer(x), 0.1 * patches.reshape(2, 1, 5, 6).expand_as(high))


def pads(layer: nn.Conv2d) -> list[int]:
    total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return [side for n in reversed(total) for side in (n // 2, n - n // 2)]


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular", "replicate"])
def test_padding_by_an_operator_of_its_own(mode: str, p: float) -> None:
    """Exact away from the border; there, what is copied has room for all of its copies."""
    torch.manual_seed(0)
    plain = nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode).double()
    layer = Function(lambda x: plain(F.pad(x, (1, 1, 1, 1), value=0.5)), plain) if mode == "zeros" else plain
    x = torch.rand(2, 2, 8, 8, dtype=torch.float64)
    low, high = compute_bounds(layer, x, LpBall(x, 0.1, p), "ibp")
    box = compute_bounds(layer, x, LpBall(x, 0.1), "ibp")
    size = 0.1 * reach(layer, x, p)
    inner = (slice(None), slice(None), slice(3, -3), slice(3, -3))
    torch.testing.assert_close(high[inner], (layer(x) + size)[inner])
    assert bool((high >= layer(x) + size - 1e-12).all() & (low <= layer(x) - size + 1e-12).all())
    assert float((high - low).mean().detach()) < 0.6 * float((box[1] - box[0]).mean().detach())
    assert bool((high <= box[1] + 1e-12).all())


@pytest.mark.parametrize("p", [1, 2])
def test_copies_have_room_for_every_point_of_the_ball(p: float) -> None:
    """The row (1, 1, 1) of three copies of x moves by 3 eps; as p = 2 says: sqrt(3) sqrt(3) eps."""
    x = torch.rand(2, 1, 1, dtype=torch.float64)
    layer = Function(lambda z: F.linear(z.expand(-1, -1, 3).flatten(1), torch.ones(1, 3, dtype=torch.float64)))
    low, high = compute_bounds(layer, x, LpBall(x, 0.1, p), "ibp")
    torch.testing.assert_close(high, 3 * x[:, 0] + 0.3)
    torch.testing.assert_close(low, 3 * x[:, 0] - 0.3)


# --- pools ------------------------------------------------------------------------------------------------------------

POOLS = [{"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": 2, "stride": 1, "padding": 1, "dilation": 2}]
POOLS += [{"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}]


@pytest.mark.parametrize("options", POOLS, ids=str)
def test_the_padding_of_a_pool_is_never_the_largest(options: dict) -> None:
    """Nor does it stand for a number that is: a window in which one entry dominates is that entry."""
    x = torch.arange(25.0, dtype=torch.float64).reshape(1, 1, 5, 5) - 100  # each entry exceeds those before it
    pool = nn.MaxPool2d(**options)
    for method in ("ibp", "forward", "crown", "alpha-crown"):
        low, high = compute_bounds(pool, x, LpBall(x, 0.4), method)
        torch.testing.assert_close(low, pool(x) - 0.4, rtol=0, atol=1e-12)
        torch.testing.assert_close(high, pool(x) + 0.4, rtol=0, atol=1e-12)
    c = torch.ones(1, 1, pool(x).numel(), dtype=torch.float64)
    low, high = compute_bounds(pool, x, LpBall(x, 0.4, 2), "crown", c)
    counts = torch.func.vjp(lambda z: pool(z).sum(), x)[1](torch.ones((), dtype=torch.float64))[0]
    torch.testing.assert_close((high - low)[0, 0] / 2, 0.4 * counts.norm())


class Pooled(nn.Module):
    """A padded pool, and what divides by something of all its outputs behind it."""

    def __init__(self, behind: str) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 3, 3, padding=1), nn.LayerNorm(27), nn.Linear(27, 2)
        self.behind = behind

    def forward(self, x: Tensor) -> Tensor:
        z = F.max_pool2d(self.conv(x).relu(), 3, 2, 1).flatten(1)
        z = self.norm(z) if self.behind == "norm" else z / (z.mean(1, keepdim=True) + 1)
        return self.head(z.relu())


@pytest.mark.parametrize("behind", ["norm", "quotient"])
@pytest.mark.parametrize("eps", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slopes_behind_a_padded_pool_are_numbers(behind: str, eps: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = Pooled(behind).to(dtype), torch.rand(2, 1, 5, 5).to(dtype)
    ball = LpBall(x, eps)
    plain = compute_bounds(model, x, ball, "crown")
    found = compute_bounds(model, x, ball, "alpha-crown", ascent=Ascent(iters=4, joint=True))
    assert all(bool(end.isfinite().all()) for end in found)
    assert bool((found[0] >= plain[0] - 1e-5).all() & (found[1] <= plain[1] + 1e-5).all())
    points = (
        x + eps * torch.randn(500, *x.shape, generator=torch.Generator().manual_seed(0)).sign().to(dtype)
    ).flatten(0, 1)
    seen = model(points).unflatten(0, (500, 2))
    assert bool((found[0] - 1e-5 <= seen).all() & (seen <= found[1] + 1e-5).all())
