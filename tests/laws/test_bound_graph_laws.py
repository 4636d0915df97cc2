"""Laws of bounds of whole networks: nothing leaves them, and they do not depend on how they are computed."""

import functools
import math
import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flatlab import models
from flatlab.bounds import Ascent, Bounds, Box, L0Ball, LpBall, Program, Synonyms, compute_bounds, fused_ce, robust_ce
from flatlab.bounds.interval import Interval

METHODS = ("ibp", "forward", "crown-ibp", "crown", "forward+backward", "alpha-crown")
Shape = tuple[int, ...]


class Residual(nn.Module):
    """A convolution with BatchNorm around which the input flows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)) + x)


class Steps(nn.Module):
    """A recurrent cell over the rows of a sample."""

    def __init__(self, cell: nn.Module, hidden: int, *, pair: bool) -> None:
        super().__init__()
        self.cell, self.hidden, self.pair, self.head = cell, hidden, pair, nn.Linear(hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], self.hidden, dtype=x.dtype, device=x.device)
        state = (h, h) if self.pair else h
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.head(state[0] if self.pair else state)


class SelfAttention(nn.Module):
    """torch's attention, inside of which time comes first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(width, 2, batch_first=True), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x)[0].mean(1))


class TimeFirst(nn.Module):
    """Layers on (T, N, D), where most units are off, and an output that is time first as well."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = (self.first(x.transpose(0, 1)) - 0.3).relu()
        return self.second(hidden).tanh()


class Shared(nn.Module):
    """A value that is used again and again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.flatten(1) + x.flatten(1))
        return self.second(h.relu() * h - h.sigmoid() + h.abs()) + (h - h)[:, :3]


class TwoInputs(nn.Module):
    """An image of a kind, and a vector that scales what comes of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.first(x.flatten(1)).relu() * self.second(y)).cumsum(1)[:, 1:]


def smooth(width: int) -> nn.Module:
    layers = nn.Linear(width, 6), nn.GELU(), nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 4), nn.Softplus(), nn.Linear(4, 3)
    return nn.Sequential(nn.Flatten(), *layers)


def grouped(channels: int, size: int) -> nn.Module:
    wide = 4 * channels
    layers = nn.Conv2d(channels, wide, 3, 1, 1), nn.ReLU(), nn.Conv2d(wide, wide, 3, 2, 1, groups=2), nn.LeakyReLU(0.1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(wide * (-(-size // 2)) ** 2, 3))


def pools(channels: int, size: int) -> nn.Module:
    layers = nn.Conv2d(channels, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 2, 2), nn.Tanh()
    return nn.Sequential(*layers, nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(2 * (-(-size // 2) - 2) ** 2, 3))


def residual(channels: int, size: int) -> nn.Module:
    layers = nn.Conv2d(channels, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), Residual(3), Residual(3)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(3 * size**2, 3))


def encoder(width: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(width, 2, 6, batch_first=True, activation="gelu")
    return nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(3))


def zoo(name: str, shape: Shape, **options) -> nn.Module:
    return models.build(name, shape, 3, options=options)


# name -> (shape of a sample from a size in {0, 1}, network)
ARCHITECTURES: dict[str, tuple[Callable[[int], Shape], Callable[[Shape], nn.Module]]] = {
    "mlp": (lambda n: (1, 3, 3 + n), lambda s: zoo("mlp", s, widths=(8, 6))),
    "residual": (lambda n: (1 + n, 4, 4), lambda s: residual(s[0], s[1])),
    "densenet": (lambda n: (1, 4 + 2 * n, 4), lambda s: zoo("densenet", s, blocks=(1, 2), growth=2, hidden=6)),
    "grouped": (lambda n: (1 + n, 4, 4), lambda s: grouped(s[0], s[1])),
    "resnext": (lambda n: (1, 4, 4 + n), lambda s: zoo("resnext", s, blocks=(1, 1), width=2, hidden=6)),
    "pools": (lambda n: (1, 6 + n, 6 + n), lambda s: pools(s[0], s[1])),
    "cnn7": (lambda n: (1, 4, 4 + n), lambda s: zoo("cnn7", s, width=4, hidden=16)),
    "preact_resnet": (lambda n: (1, 4 + n, 4), lambda s: zoo("preact_resnet18", s, width=2)),
    "smooth": (lambda n: (4 + n,), lambda s: smooth(s[0])),
    "transformer": (lambda n: (3 + n, 4), lambda s: zoo("text_transformer", s, vocabulary=5, heads=2, ff=6)),
    "transformer_full": (
        lambda n: (3, 4 + 2 * n),
        lambda s: zoo("text_transformer", s, vocabulary=5, heads=2, ff=6, norm="full", pooling="first"),
    ),
    "lstm": (lambda n: (2 + n, 3), lambda s: zoo("text_lstm", s, vocabulary=5, hidden=3)),
    "lstm_cell": (lambda n: (2, 3 + n), lambda s: Steps(nn.LSTMCell(s[1], 3), 3, pair=True)),
    "gru_cell": (lambda n: (2 + n, 3), lambda s: Steps(nn.GRUCell(s[1], 3), 3, pair=False)),
    "attention": (lambda n: (3 + n, 4), lambda s: SelfAttention(s[1])),
    "encoder": (lambda n: (2 + n, 4), lambda s: encoder(s[1])),
    "time_first": (lambda n: (3 + n, 3), lambda s: TimeFirst(s[1])),
    "shared": (lambda n: (2 + n, 2), lambda s: Shared(math.prod(s))),
}
SENTENCES = ("transformer", "transformer_full", "lstm", "lstm_cell", "gru_cell", "attention", "encoder", "time_first")
RELU = ("mlp", "residual", "densenet", "resnext", "cnn7", "preact_resnet")
every_network = pytest.mark.parametrize("name", ARCHITECTURES)
SOME = ["residual", "pools", "transformer", "lstm_cell", "attention", "time_first"]
some_networks = pytest.mark.parametrize("name", SOME)


def settle(model: nn.Module, *inputs: Tensor) -> nn.Module:
    """In eval mode, with weights of some size, and statistics of BatchNorm that are not 0 and 1."""
    model.double().train()
    with torch.no_grad():
        model(*inputs)
        for p in model.parameters():
            p.mul_(1.5) if p.ndim > 1 else p.add_(0.2 * torch.randn_like(p))
    return model.eval()


@functools.cache
def network(name: str, size: int = 0) -> tuple[nn.Module, Program, Shape]:
    """A network in float64, captured with a batch of two, and the shape of a sample."""
    shape_of, build = ARCHITECTURES[name]
    with torch.random.fork_rng():
        torch.manual_seed(size)
        shape = shape_of(size)
        model = settle(build(shape), torch.rand(4, *shape, dtype=torch.float64))
    return model, Program(model, torch.rand(2, *shape, dtype=torch.float64)), shape


def draw(shape: Shape, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def region(kind: str, x: Tensor, eps: float, seed: int = 0) -> Box:
    """A perturbation set of one of the kinds."""
    g = torch.Generator().manual_seed(seed)
    if kind == "box":
        down, up = eps * torch.rand(2, *x.shape, generator=g, dtype=x.dtype)
        return Box(x - down, x + up)
    if kind == "pixels":
        return L0Ball(x, 2, clip=(-eps, 1 + eps))
    if kind == "synonyms":
        candidates = x[:, :, None] + eps * torch.randn(*x.shape[:2], 3, x.shape[2], generator=g, dtype=x.dtype)
        return Synonyms(x, candidates, torch.rand(candidates.shape[:3], generator=g) < 0.7, budget=2)
    p, clip = {"1": 1, "2": 2, "inf": math.inf}[kind.split()[0]], (0.0, 1.0) if "clip" in kind else None
    return LpBall(x, eps * {1: 3, 2: 2, math.inf: 1}[p], p, clip=clip)


KINDS = ("inf", "inf clip", "2", "2 clip", "1", "1 clip", "box", "pixels")


def attacked(model: nn.Module, sets: list[Box], steps: int = 20) -> Tensor:
    """Values (many, *shape of the output) on random points of the sets, on extreme ones, and on the way to the worst.

    There is one attack for each bound of each output: a step goes towards the point of the sets that is worst for the
    present gradient.
    """
    outputs = flat_samples(model, evaluate(model, [s.center[None] for s in sets])).shape[2]
    rows, g = 2 * outputs, torch.Generator().manual_seed(0)
    noise = [torch.randn(rows, *s.low.shape, generator=g, dtype=s.low.dtype) for s in sets]
    x = [s.worst(a) for s, a in zip(sets, noise, strict=True)]
    mix = [torch.rand(rows, *[1] * s.low.ndim, generator=g, dtype=s.low.dtype) for s in sets]
    seen = [evaluate(model, [s.center + (z - s.center) * m for s, z, m in zip(sets, x, mix, strict=True)])]
    sign = torch.tensor([1.0, -1.0], dtype=x[0].dtype).repeat_interleave(outputs)[:, None]
    for step in range(steps):
        x = [z.detach().requires_grad_() for z in x]
        seen.append(evaluate(model, x))
        wanted = flat_samples(model, seen[-1])[torch.arange(rows), :, torch.arange(rows) % outputs]
        slopes = torch.autograd.grad((sign * wanted).sum(), x)
        x = [z + 2 / (step + 2) * (s.worst(a) - z) for s, z, a in zip(sets, x, slopes, strict=True)]
    return torch.cat(seen).detach()


def evaluate(model: nn.Module, inputs: list[Tensor]) -> Tensor:
    """(rows, B, ...) each -> (rows, *shape of the output of B samples)."""
    rows, batch = inputs[0].shape[:2]
    value = model(*(x.flatten(0, 1) for x in inputs))
    if isinstance(model, TimeFirst):
        return value.unflatten(1, (rows, batch)).movedim(1, 0)
    return value.unflatten(0, (rows, batch))


def flat_samples(model: nn.Module, value: Tensor) -> Tensor:
    """(rows, *shape) -> (rows, B, numbers of a sample)."""
    return (value.movedim(2, 1) if isinstance(model, TimeFirst) else value).flatten(2)


def assert_within(value: Tensor, low: Tensor, high: Tensor, tolerance: float, hint: object = "") -> None:
    slack = tolerance * (1 + low.abs() + high.abs())
    assert low.shape == value.shape[1:], hint
    assert bool((low - slack <= value).all()), hint
    assert bool((value <= high + slack).all()), hint


def bounded(program: Program, x: tuple[Tensor, ...], sets: dict[int, Box], method: str) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return compute_bounds(program, x, sets, method, ascent=Ascent(iters=2))


# --- soundness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_no_point_of_the_set_leaves_the_bounds(name: str, data: st.DataObject) -> None:
    kinds = KINDS + ("synonyms",) * (2 if name in SENTENCES else 0)
    kind = data.draw(st.sampled_from(kinds), "set")
    eps, batch = data.draw(st.sampled_from((0.01, 0.1, 0.4)), "eps"), data.draw(st.integers(1, 3), "batch")
    model, program, shape = network(name, data.draw(st.integers(0, 1), "size"))
    x = draw(shape, batch, seed := data.draw(st.integers(0, 99), "seed"))
    sets = {0: region(kind, x, eps, seed)}
    seen = attacked(model, [sets[0]])
    for method in METHODS:
        low, high = bounded(program, (x,), sets, method)
        assert_within(seen, low, high, 1e-9, method)


@settings(max_examples=6, deadline=None)
@given(
    kinds=st.lists(st.sampled_from((*KINDS, "none")), min_size=2, max_size=2).filter(lambda k: set(k) != {"none"}),
    eps=st.sampled_from((0.05, 0.5)),
    batch=st.integers(1, 3),
)
def test_bounds_of_two_inputs_hold_for_both(kinds: list[str], eps: float, batch: int) -> None:
    model, program = two_inputs()
    x = draw((2, 3), batch), draw((4,), batch, 1)
    sets = {i: region(kind, x[i], eps) for i, kind in enumerate(kinds) if kind != "none"}
    every = [sets.get(i, LpBall(x[i], 0.0)) for i in range(2)]
    seen = attacked(model, every)
    for method in METHODS:
        assert_within(seen, *bounded(program, x, sets, method), 1e-9, (method, kinds))


@functools.cache
def two_inputs() -> tuple[nn.Module, Program]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = settle(TwoInputs(6), draw((2, 3)), draw((4,)))
    return model, Program(model, draw((2, 3)), draw((4,)))


@some_networks
def test_bounds_of_rows_hold_for_what_the_rows_compute(name: str) -> None:
    """C f for random C, among them rows of which some cancel."""
    model, program, shape = network(name)
    x = draw(shape)
    sets = {0: LpBall(x, 0.1)}
    count = model(x).numel() // 2
    c = torch.randn(2, 4, count, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    c[:, -1] = c[:, 0] * -1
    seen = torch.einsum("bsk,nbk->nbs", c, flat_samples(model, attacked(model, [sets[0]])))
    for method in METHODS:
        with torch.no_grad():
            low, high = compute_bounds(program, x, sets, method, c, ascent=Ascent(iters=2))
        assert_within(seen, low, high, 1e-9, method)
        torch.testing.assert_close(low[:, 0], -high[:, -1])


def test_jointly_optimised_bounds_hold() -> None:
    for name in ("mlp", "residual", "transformer"):
        model, program, shape = network(name)
        x = draw(shape)
        sets = {0: LpBall(x, 0.2)}
        with torch.no_grad():
            low, high = compute_bounds(program, x, sets, "alpha-crown", ascent=Ascent(iters=4, joint=True))
            apart = compute_bounds(program, x, sets, "alpha-crown", ascent=Ascent(iters=4))
        assert_within(attacked(model, [sets[0]]), low, high, 1e-9, name)
        assert float((high - low).mean()) <= float((apart[1] - apart[0]).mean()) * (1 + 1e-3)


# --- order and invariance ---------------------------------------------------------------------------------------------


@every_network
def test_mean_widths_are_in_the_order_of_the_methods(name: str) -> None:
    _, program, shape = network(name)
    x = draw(shape, 3)
    widths = {}
    for method in METHODS:
        low, high = bounded(program, (x,), {0: LpBall(x, 0.05)}, method)
        widths[method] = float((high - low).mean())
    order = ("alpha-crown", "crown", "crown-ibp", "ibp")
    for tighter, looser in pairwise(order):
        assert widths[tighter] <= widths[looser] * (1 + 1e-9), widths
    assert widths["forward"] <= widths["ibp"] * (1 + 1e-9)
    assert widths["forward+backward"] <= widths["ibp"] * (1 + 1e-9)


@some_networks
def test_the_bounds_of_a_batch_are_those_of_each_sample(name: str) -> None:
    model, program, shape = network(name)
    x = draw(shape, 3)
    dim = 1 if isinstance(model, TimeFirst) else 0
    for method in METHODS:
        together = bounded(program, (x,), {0: LpBall(x, 0.1)}, method)
        apart = [bounded(program, (z,), {0: LpBall(z, 0.1)}, method) for z in x.split(1)]
        for end, parts in zip(together, zip(*apart, strict=True), strict=True):
            torch.testing.assert_close(end, torch.cat(parts, dim), rtol=1e-6, atol=1e-6, msg=method)


@some_networks
@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_of_rows_change_nothing(name: str, chunk: int) -> None:
    _, program, shape = network(name)
    x = draw(shape)
    whole, parts = (Bounds(program, x, LpBall(x, 0.1), chunk=size) for size in (None, chunk))
    with torch.no_grad():
        for method in METHODS:
            found = (b.compute(method, ascent=Ascent(iters=2)) for b in (whole, parts))
            for one, other in zip(*found, strict=True):
                torch.testing.assert_close(one, other)


@every_network
@pytest.mark.parametrize("rows", [False, True], ids=["output", "rows"])
def test_intervals_that_are_freed_have_served(name: str, rows: bool) -> None:
    _, program, shape = network(name)
    x = draw(shape)
    kept, freed = (Bounds(program, x, LpBall(x, 0.1), keep=keep) for keep in (True, False))
    with torch.no_grad():
        size = kept.compute("ibp")[0].numel() // len(x)
        c = torch.randn(len(x), 3, size, dtype=x.dtype) if rows else None
        for one, other in zip(kept.compute("ibp", c), freed.compute("ibp", c), strict=True):
            assert torch.equal(one, other)


def test_intervals_are_freed_after_their_last_use() -> None:
    """A deep network needs no more of them at once than a shallow one."""
    net = nn.Sequential(*[layer for _ in range(20) for layer in (nn.Linear(8, 8), nn.ReLU())])
    x = torch.rand(2, 8)
    program = Program(net, x)
    alive: list[Any] = []
    most: list[int] = []
    plain = Interval.__init__

    def count(self: Interval, *args: Any, **options: Any) -> None:
        plain(self, *args, **options)
        alive.append(weakref.ref(self))
        most.append(sum(ref() is not None for ref in alive))

    for keep in (False, True):
        alive.clear()
        most.clear()
        with mock.patch.object(Interval, "__init__", count), torch.no_grad():
            Bounds(program, x, LpBall(x, 0.1), keep=keep).compute("ibp")
        assert max(most) >= 40 if keep else max(most) <= 6


@pytest.mark.parametrize("name", RELU)
def test_to_leave_out_neurons_of_known_sign_changes_nothing(name: str) -> None:
    """Their lines are the same; on a residual stream, the intervals of what comes next may be wider for it."""
    _, program, shape = network(name)
    x = draw(shape)
    few, every = (Bounds(program, x, LpBall(x, 0.1), sparse=sparse) for sparse in (True, False))
    with torch.no_grad():
        (low, high), (lower, higher) = few.compute("crown"), every.compute("crown")
    if name in ("resnext", "preact_resnet"):
        assert float((higher - lower).mean()) <= float((high - low).mean())
    else:
        torch.testing.assert_close(low, lower)
        torch.testing.assert_close(high, higher)


@every_network
def test_single_precision_gives_the_same_bounds_and_holds(name: str) -> None:
    model, program, shape = network(name)
    x = draw(shape)
    sets = {0: LpBall(x, 0.05)}
    seen = attacked(model, [sets[0]])
    double = {method: bounded(program, (x,), sets, method) for method in ("ibp", "crown-ibp", "crown", "forward")}
    try:
        single = Program(model.float(), x.float())
        for method, wanted in double.items():
            low, high = bounded(single, (x.float(),), {0: LpBall(x.float(), 0.05)}, method)
            assert low.dtype == torch.float32
            size = 1e-5 * (1 + wanted[0].abs() + wanted[1].abs()).max()
            assert_within(seen, low - size, high + size, 1e-5, method)
            assert float((low - wanted[0]).abs().max()) <= 1e-3 * float((wanted[1] - wanted[0]).max()) + size
    finally:
        model.double()


# --- limits -----------------------------------------------------------------------------------------------------------


@every_network
def test_a_set_of_one_point_has_its_value_by_every_method(name: str) -> None:
    model, program, shape = network(name)
    x = draw(shape)
    for method in METHODS:
        for end in bounded(program, (x,), {0: LpBall(x, 0.0)}, method):
            torch.testing.assert_close(end, model(x).detach(), rtol=1e-6, atol=1e-6, msg=method)


@every_network
def test_bounds_grow_with_the_radius(name: str) -> None:
    _, program, shape = network(name)
    x = draw(shape)
    for method, entrywise in (("ibp", True), ("forward", False), ("crown-ibp", False), ("crown", False)):
        found = [bounded(program, (x,), {0: LpBall(x, eps)}, method) for eps in (0.01, 0.03, 0.1)]
        for (low, high), (lower, higher) in pairwise(found):
            assert float((high - low).mean()) <= float((higher - lower).mean())
            if entrywise:
                assert bool((lower <= low + 1e-12).all())
                assert bool((high <= higher + 1e-12).all())


# --- sets -------------------------------------------------------------------------------------------------------------


def distance_from(kind: str, s: Box, z: Tensor) -> float:
    """How far points (S, B, ...) are outside of a set."""
    out = [(s.low - z).max(), (z - s.high).max()]
    if isinstance(s, LpBall) and s.p != math.inf:
        out.append(((z - s.x).flatten(2).norm(p=s.p, dim=2) - s.eps).max())
    if isinstance(s, L0Ball):
        out.append(((z != s.x).flatten(2).sum(2) - s.k).max().clamp(min=0).double())
    if isinstance(s, Synonyms):
        moved = (z - s.x).abs().amax(3) > 1e-12
        near = (z[:, :, :, None] - s.choices).abs().amax(4).amin(3)
        out += [(moved.sum(2) - s.budget).max().clamp(min=0).double(), (near * moved).max()]
    return max(float(o) for o in out)


@pytest.mark.parametrize("kind", [*KINDS, "synonyms"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), eps=st.sampled_from((0.0, 0.03, 0.3, 2.0)), sparse=st.booleans())
def test_the_worst_point_lies_in_the_set_and_attains_the_bound(kind: str, seed: int, eps: float, sparse: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 3, 4, generator=g, dtype=torch.float64)
    s = region(kind, x, eps, seed)
    a = torch.randn(5, *x.shape, generator=g, dtype=torch.float64)
    a = a * (torch.rand(a.shape, generator=g) < 0.3) if sparse else a
    lower, worst = s.lower(a), s.worst(a)
    assert distance_from(kind, s, worst) <= 1e-6
    torch.testing.assert_close((a * worst).flatten(2).sum(2), lower, rtol=1e-6, atol=1e-6)
    some = s.worst(torch.randn(50, *x.shape, generator=g, dtype=torch.float64))  # no other point goes below
    assert bool(((a[:, None] * some).flatten(3).sum(3) >= lower[:, None] - 1e-9).all())
    assert distance_from(kind, s, s.center[None]) <= 1e-9


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), budget=st.integers(0, 4))
def test_a_budget_of_synonyms_equals_enumeration(seed: int, budget: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 4, 2, generator=g, dtype=torch.float64)
    candidates = torch.randn(1, 4, 2, 2, generator=g, dtype=torch.float64)
    mask = torch.rand(1, 4, 2, generator=g) < 0.6
    a = torch.randn(1, 1, 4, 2, generator=g, dtype=torch.float64)
    best = math.inf
    for code in range(3**4):
        picks = [(code // 3**t) % 3 for t in range(4)]
        if sum(p > 0 for p in picks) <= budget and all(p == 0 or mask[0, t, p - 1] for t, p in enumerate(picks)):
            words = [x[0, t] if p == 0 else candidates[0, t, p - 1] for t, p in enumerate(picks)]
            best = min(best, float((a[0, 0] * torch.stack(words)).sum()))
    assert float(Synonyms(x, candidates, mask, budget).lower(a)) == pytest.approx(best, abs=1e-12)


# --- gradients, captured graphs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "residual", "pools", "transformer"])
@pytest.mark.parametrize("kind", ["inf clip", "2"])
def test_gradients_with_respect_to_weights_are_those_of_finite_differences(name: str, kind: str) -> None:
    model, program, shape = network(name)
    x = draw(shape)
    weights = [p for p in model.parameters() if p.ndim > 1][:3]

    def low(*_: Tensor) -> Tensor:
        bounds = Bounds(program, x, region(kind, x, 0.05))
        return torch.cat([bounds.compute("ibp")[0], bounds.compute("crown-ibp")[0]])

    assert torch.autograd.gradcheck(low, weights, fast_mode=True, eps=1e-7, atol=1e-4)


@some_networks
@pytest.mark.parametrize("rows", [False, True], ids=["output", "rows"])
def test_the_functions_of_a_certificate_lie_below_the_rows_and_reach_the_bounds(name: str, rows: bool) -> None:
    """<a, x> + bias <= C f(x) everywhere in the set, for the rows of C and then for those of -C."""
    model, program, shape = network(name)
    x = draw(shape)
    s = region("2", x, 0.1)
    points = s.worst(torch.randn(60, *x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    value = flat_samples(model, evaluate(model, list(points[None])))
    c = torch.randn(2, 3, value.shape[2], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value = torch.einsum("bsk,nbk->nsb", c, value) if rows else value.permute(0, 2, 1)
    for method in METHODS:
        with torch.no_grad():
            made = Bounds(program, x, s)
            low, high, line = made.certificate(method, c if rows else None, ascent=Ascent(iters=2))
            plain = made.compute(method, c if rows else None, ascent=Ascent(iters=2))
        assert torch.equal(low, plain[0]), method
        assert torch.equal(high, plain[1]), method
        below = torch.einsum("sbi,nbi->nsb", line.a[0].flatten(2), points.flatten(2)) + line.bias
        assert bool((below <= torch.cat([value, -value], 1) + 1e-9).all()), method
        least = s.lower(line.a[0]) + line.bias
        ends = (low, high) if rows else (flat_samples(model, end[None])[0] for end in (low, high))
        known = torch.cat([sign * end.T for sign, end in zip((1, -1), ends, strict=True)])
        if rows:
            torch.testing.assert_close(least, known, msg=method)
        else:  # bounds of the output itself are nowhere wider than its interval
            assert bool((least <= known + 1e-9).all()), method
            assert method == "forward" or bool((least > known - 1e-9).double().mean() > 0.5), method


def test_bounds_without_gradients_leave_those_asked_for_later_whole() -> None:
    model, program, shape = network("mlp")
    x = draw(shape)
    fresh, used = (Bounds(program, x, LpBall(x, 0.1)) for _ in range(2))
    with torch.no_grad():
        used.compute("crown")
        used.compute("forward")
    weights = list(model.parameters())
    for method in ("ibp", "forward", "crown", "crown-ibp"):
        one, other = (
            torch.autograd.grad(b.compute(method)[0].sum(), weights, retain_graph=True) for b in (fresh, used)
        )
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("loss", [robust_ce, fused_ce, functools.partial(robust_ce, method="ibp")])
def test_gradients_are_the_same_in_every_run(loss: Callable[..., Tensor]) -> None:
    """Whatever order the threads of a sum over samples arrive in."""
    net, x = models.build("mlp", (1, 8, 8), 10, options={"widths": (100,)}), draw((1, 8, 8), 64).float()
    program, y = Program(net, x), torch.arange(64) % 10
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        values = [loss(Bounds(program, x, LpBall(x, 0.1)), y).mean() for _ in range(10)]
        first, *others = [torch.autograd.grad(value, list(net.parameters())) for value in values]
    finally:
        torch.set_num_threads(threads)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_radius_may_differ_from_channel_to_channel() -> None:
    _, program, shape = network("residual", 1)
    x, eps = draw(shape), torch.tensor([0.01, 0.3], dtype=torch.float64).reshape(2, 1, 1)
    found, wanted = (bounded(program, (x,), {0: s}, "crown") for s in (LpBall(x, eps), Box(x - eps, x + eps)))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_parameters_are_read_live(method: str) -> None:
    """Also where they are written to behind autograd's back."""
    model, program, shape = network("residual")
    x = draw(shape)
    before = bounded(program, (x,), {0: LpBall(x, 0.1)}, method)
    head = model[-1]
    try:
        head.weight.data.mul_(2)
        head.bias.data.mul_(2)
        after = bounded(program, (x,), {0: LpBall(x, 0.1)}, method)
    finally:
        head.weight.data.div_(2)
        head.bias.data.div_(2)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(2 * one, other)


@every_network
def test_a_graph_captured_with_one_batch_serves_others(name: str) -> None:
    """Another batch than the one at capture, and single samples; the capture may begin with one, too."""
    model, program, shape = network(name)
    for batch in (5, 1):
        x = draw(shape, batch)
        torch.testing.assert_close(program(x), model(x))
    single = Program(model, draw(shape, 1))
    x = draw(shape, 4)
    first, second = (bounded(p, (x,), {0: LpBall(x, 0.1)}, "crown-ibp") for p in (program, single))
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other)


def test_batch_norm_in_train_mode_takes_the_statistics_of_the_clean_batch() -> None:
    torch.manual_seed(0)
    model = residual(1, 4).double()
    x = draw((1, 4, 4), 5)
    model.train()
    program = Program(model, x)
    kept = {name: b.clone() for name, b in model.named_buffers()}
    for method in ("ibp", "crown-ibp", "crown", "forward"):
        low, high = bounded(program, (x,), {0: LpBall(x, 0.0)}, method)
        torch.testing.assert_close(low, functional(model, x), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(high, low, rtol=1e-6, atol=1e-6)
    fixed = with_statistics_of(model, x)
    wanted = bounded(Program(fixed, x), (x,), {0: LpBall(x, 0.1)}, "crown")
    for one, other in zip(bounded(program, (x,), {0: LpBall(x, 0.1)}, "crown"), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(b, kept[name]) for name, b in model.named_buffers())  # bounds move no statistics


def functional(model: nn.Module, x: Tensor) -> Tensor:
    """The model's value, without a trace in its buffers."""
    with torch.no_grad():
        return torch.func.functional_call(model, {name: b.clone() for name, b in model.named_buffers()}, (x,))


def with_statistics_of(model: nn.Module, x: Tensor) -> nn.Module:
    """A copy in eval mode, whose running statistics are those of a batch in train mode."""
    copy = residual(1, 4).double()
    copy.load_state_dict(model.state_dict())
    hooks = []
    for module in copy.modules():
        if isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(_copy_statistics))
    with torch.no_grad():
        copy.eval()(x)
    for hook in hooks:
        hook.remove()
    return copy


def _copy_statistics(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    module.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    module.running_var.copy_(inputs[0].var((0, 2, 3), unbiased=False))
