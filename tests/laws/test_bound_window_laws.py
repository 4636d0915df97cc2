"""Laws of windows: what passes compute of them is what they compute of whole maps."""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.bounds import Ascent, Bounds, Box, L0Ball, LpBall, Program, backward_pass
from flatlab.bounds.rules import RULES
from flatlab.bounds.windows import Plan, Window

SIZE = 13


class Branches(nn.Module):
    """Two branches of different windows, neither of which holds the other."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.norm = (
            nn.Conv2d(3, 3, 5, padding=(2, 1)),
            nn.Conv2d(3, 3, (1, 3)),
            nn.BatchNorm2d(3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.wide(x)) * 0.5 + self.narrow(x))


class Strided(nn.Module):
    """A block with a stride, around which a convolution of single numbers leads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.short, self.norm = nn.Conv2d(3, 4, 1, 2, bias=False), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.norm(self.short(x)))


class Residual(nn.Module):
    """Two branches of different windows that move alike."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 3, 3, 1, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.first(x)) + self.second(x) - x)


class Dense(nn.Module):
    """Channels that are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 2, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x).relu(), x], 1)


class Places(nn.Module):
    """Constants that differ from place to place, and a product of a map with a function of it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.rand(SIZE, SIZE)), nn.Parameter(torch.rand(1, 3, 1, SIZE))

    def forward(self, x: Tensor) -> Tensor:
        z = x * self.scale / 2 + self.shift
        return z * z.sigmoid() + (z - 0.2).tanh()


def conv(*options: int, **more: object) -> nn.Module:
    return nn.Conv2d(*options, **more)


NETS: dict[str, Callable[[], list[nn.Module]]] = {
    "plain": lambda: [conv(3, 4, 3, 1, 1), nn.ReLU(), conv(4, 3, 3, 1, 1)],
    "no padding": lambda: [conv(3, 4, 3), nn.LeakyReLU(0.1), conv(4, 3, (3, 2), bias=False)],
    "much padding": lambda: [conv(3, 4, 3, 1, 3), nn.ReLU(), conv(4, 3, 3, 1, (0, 2))],
    "strides": lambda: [conv(3, 4, 4, 2, 1), nn.ReLU(), conv(4, 4, 2, (2, 1), 1)],
    "a stride that leaves numbers out": lambda: [conv(3, 4, 2, 3), nn.ReLU(), conv(4, 4, 1, 2)],
    "dilation": lambda: [conv(3, 4, 3, 1, 2, dilation=2), nn.ReLU(), conv(4, 3, 2, 1, 1, dilation=(1, 3))],
    "groups": lambda: [conv(3, 6, 3, 1, 1, groups=3), nn.Tanh(), conv(6, 4, 3, 1, 1, groups=2)],
    "padding by name": lambda: [conv(3, 4, 3, 1, 1), nn.ReLU(), conv(4, 3, 3, padding="same")],
    "norm": lambda: [conv(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 3, 3, 1, 1)],
    "pools": lambda: [conv(3, 4, 3, 1, 1), nn.Sigmoid(), nn.AvgPool2d(2), nn.AvgPool2d(3, 1, 1), conv(4, 3, 2)],
    "branches": lambda: [conv(3, 3, 3, 1, 1), nn.ReLU(), Branches(), conv(3, 3, 2)],
    "strided": lambda: [conv(3, 3, 3, 1, 1), nn.ReLU(), Strided(), conv(4, 3, 1)],
    "residual": lambda: [conv(3, 3, 3, 1, 1), nn.ReLU(), Residual(), Residual()],
    "dense": lambda: [Dense(), conv(5, 3, 3, 1, 1)],
    "places": lambda: [conv(3, 3, 3, 1, 1), Places(), conv(3, 3, 3, 1, 1)],
    "largest": lambda: [conv(3, 4, 3, 1, 1), nn.MaxPool2d(2), conv(4, 3, 2)],
}
every_net = pytest.mark.parametrize("name", NETS)
some_nets = pytest.mark.parametrize("name", ["strides", "norm", "residual", "strided", "places"])
SETS: dict[str, Callable[[Tensor], Box]] = {
    "inf": lambda x: LpBall(x, 0.1),
    "inf clip": lambda x: LpBall(x, 0.1, clip=(0, 1)),
    "2": lambda x: LpBall(x, 0.4, 2),
    "2 clip": lambda x: LpBall(x, 0.4, 2, clip=(0, 1)),
    "1 clip": lambda x: LpBall(x, 0.8, 1, clip=(0, 1)),
    "pixels": lambda x: L0Ball(x, 3),
}


def draw(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@functools.cache
def network(name: str, head: bool = True) -> tuple[nn.Module, Program]:
    """The layers, a ReLU and a linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(*NETS[name]()).double()
        if head:
            width = layers(draw()).flatten(1).shape[1]
            layers.extend([nn.ReLU(), nn.Flatten(), nn.Linear(width, 3).double()])
        layers(draw(8))  # statistics of BatchNorm that are not 0 and 1
    return layers.eval(), Program(layers.eval(), draw())


@contextmanager
def whole_maps() -> Iterator[None]:
    """Passes without windows."""
    with mock.patch.object(backward_pass, "plan", return_value=None):
        yield


def both(run: Callable[[], tuple[Tensor, ...]]) -> None:
    """What is computed with and without windows is the same."""
    found = run()
    with whole_maps():
        wanted = run()
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@contextmanager
def plans() -> Iterator[list[Plan]]:
    """What is planned inside."""
    made: list[Plan] = []
    original = backward_pass.plan

    def note(*arguments: object) -> Plan | None:
        found = original(*arguments)  # type: ignore[arg-type]
        made.extend([] if found is None else [found])
        return found

    with mock.patch.object(backward_pass, "plan", note):
        yield made


@every_net
def test_bounds_are_those_of_whole_maps(name: str) -> None:
    _, program = network(name)
    x = draw()
    with torch.no_grad(), plans() as made:
        both(lambda: Bounds(program, x, LpBall(x, 0.1), sparse=False).compute("crown"))
    reached = [plan for plan in made if program.inputs[0] in plan.windows]
    assert reached or name in ("padding by name", "largest")


@pytest.mark.parametrize("kind", SETS)
def test_every_set_is_met_on_windows(kind: str) -> None:
    _, program = network("norm")
    x = draw(3)
    with torch.no_grad():
        both(lambda: Bounds(program, x, SETS[kind](x)).compute("crown"))


@some_nets
def test_free_slopes_have_the_same_ascent(name: str) -> None:
    _, program = network(name)
    x = draw()
    for joint in (False, True):
        both(lambda: Bounds(program, x, LpBall(x, 0.1)).compute("alpha-crown", ascent=Ascent(3, joint=joint)))  # noqa: B023


@some_nets
def test_a_map_as_output_has_the_same_bounds_and_functions(name: str) -> None:
    _, program = network(name, False)
    x = draw()

    def run() -> tuple[Tensor, ...]:
        found = []
        for method in ("crown-ibp", "crown", "alpha-crown"):
            made = Bounds(program, x, LpBall(x, 0.1, 2)).certificate(method, ascent=Ascent(2))
            found += [made.low, made.high, made.function.bias, made.function.a[0]]
        return tuple(found)

    with torch.no_grad():
        both(run)


@pytest.mark.parametrize("chunk", [1, 3, 50])
def test_chunks_of_places_change_nothing(chunk: int) -> None:
    _, program = network("strided")
    x = draw()
    with torch.no_grad():
        for method in ("crown", "alpha-crown"):
            ascent = Ascent(2, joint=True)
            found = [Bounds(program, x, LpBall(x, 0.1), chunk=c).compute(method, ascent=ascent) for c in (None, chunk)]
            for one, other in zip(*found, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@some_nets
def test_gradients_are_those_of_whole_maps(name: str) -> None:
    """Of the weights, and of the ends of the set."""
    model, program = network(name)
    ends = [(draw() + shift).requires_grad_() for shift in (-0.05, 0.1)]

    def run() -> tuple[Tensor, ...]:
        low, high = Bounds(program, draw(), Box(*ends)).compute("crown")
        return torch.autograd.grad((high - low).mean() + low.sum(), [*ends, *model.parameters()])

    both(run)


def test_gradients_are_those_of_finite_differences() -> None:
    model, program = network("strided")
    x, weights = draw(1), [p for p in model.parameters() if p.ndim == 4]

    def low(*_: Tensor) -> Tensor:
        return Bounds(program, x, LpBall(x, 0.05)).compute("crown")[0]

    assert torch.autograd.gradcheck(low, weights, fast_mode=True, eps=1e-7, atol=1e-4)


@every_net
def test_single_precision_has_the_same_bounds(name: str) -> None:
    """Where small maps are convolved in another way."""
    model, program = network(name)
    x = draw()
    with torch.no_grad():
        wanted = Bounds(program, x, LpBall(x, 0.05)).compute("crown")
        try:
            single = Program(model.float(), x.float())
            found = Bounds(single, x.float(), LpBall(x.float(), 0.05)).compute("crown")
        finally:
            model.double()
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


def test_a_small_part_of_the_coefficients_is_computed() -> None:
    net = nn.Sequential(*[layer for _ in range(4) for layer in (nn.Conv2d(2, 2, 3, padding=1), nn.ReLU())])
    x = torch.rand(1, 2, 24, 24, generator=torch.Generator().manual_seed(0))
    program, rule = Program(net, x), RULES["conv2d"]
    counts: list[int] = []
    plain = type(rule).backward

    def count(self: object, site: object, a: Tensor, *arguments: object) -> object:
        counts.append(a.numel())
        return plain(self, site, a, *arguments)  # type: ignore[arg-type]

    def total() -> int:
        counts.clear()
        with torch.no_grad(), mock.patch.object(type(rule), "backward", count):
            Bounds(program, x, LpBall(x, 0.1), sparse=False).compute("crown")
        return sum(counts)

    few = total()
    with whole_maps():
        assert few < 0.06 * total()


def test_a_window_follows_from_that_of_the_output() -> None:
    """A kernel of 3 with stride 2 and padding 1, then one of 5 with padding 2: written out by hand."""
    first = Window().behind((3, 3), (2, 2), (1, 1))
    assert first == Window((2, 2), (1, 1), (3, 3))
    second = first.behind((5, 1), (1, 1), (2, 0))
    assert second == Window((2, 2), (3, 1), (7, 3))
    assert first.around(second) == Window((2, 2), (3, 1), (7, 3))
    assert first.around(Window()) is None
    assert Window((1, 1), (2, 0), (3, 4)).around(Window((1, 1), (0, 1), (5, 2))) == Window((1, 1), (2, 1), (7, 5))


def test_where_windows_are_nearly_as_large_as_maps_they_end() -> None:
    net = nn.Sequential(*[layer for _ in range(3) for layer in (nn.Conv2d(1, 1, 3, padding=1), nn.ReLU())])
    x = torch.rand(1, 1, 7, 7)
    with torch.no_grad(), plans() as made:
        Bounds(Program(net, x), x, LpBall(x, 0.1)).compute("crown")
    sizes = [math.prod(window.size) for plan in made for window in plan.windows.values()]
    assert 25 in sizes
    assert max(sizes) == 25
