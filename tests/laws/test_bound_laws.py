"""Laws that every operator with a rule for bounds obeys; a new one is tested by its line in `EXAMPLES`."""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.bounds import METHODS, RULES, Ascent, Bounds, Box, Program
from flatlab.bounds.affine import Affine
from flatlab.bounds.expansions import EXPANSIONS
from flatlab.bounds.functions import Inside
from flatlab.bounds.interval import Interval
from flatlab.bounds.nodes import LinearBounds, Site, samples_first
from flatlab.bounds.transposes import TRANSPOSES

aten = torch.ops.aten
BATCH = 2
WEIGHT = torch.linspace(-1.0, 1.3, 48, dtype=torch.float64).sin()
ORDER = torch.tensor([2, 0, 1, 0])


def constant(*shape: int) -> Tensor:
    """Numbers of both signs."""
    return WEIGHT.repeat(-(-math.prod(shape) // 48))[: math.prod(shape)].reshape(shape)


@dataclass(frozen=True)
class Example:
    """A function of a batch with samples of `shape`, whose entries lie in `domain`; float64."""

    f: Callable[[Tensor], Tensor]
    shape: tuple[int, ...] = (3, 4)
    domain: tuple[float, float] = (-1.5, 1.5)

    def inputs(self, scale: float = 0.6) -> Tensor:
        """A batch well inside the domain."""
        low, high = self.domain
        unit = torch.rand(BATCH, *self.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return (low + high) / 2 + (2 * unit - 1) * (high - low) / 2 * scale

    def box(self, scale: float = 0.2) -> Box:
        """A box around that batch."""
        x, radius = self.inputs(), (self.domain[1] - self.domain[0]) / 2 * scale
        return Box(x - radius, x + radius)


class Wrapped(nn.Module):
    """A function as a module."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.f = f
        self.inner = f if isinstance(f, nn.Module) else None

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


class InsideNet(nn.Module):
    """An operator with a layer before it, and two behind it."""

    def __init__(self, example: Example) -> None:
        super().__init__()
        self.f, self.inner = example.f, example.f if isinstance(example.f, nn.Module) else None
        self.middle = sum(example.domain) / 2
        with torch.no_grad():
            width = example.f(example.inputs()).flatten(1).shape[1]
        self.hidden, self.head = nn.Linear(width, 5).double(), nn.Linear(5, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.f(0.9 * x + 0.1 * self.middle).flatten(1)).relu())


class Recurrent(nn.Module):
    """Three steps of a cell, from a constant state, over the rows of a sample."""

    def __init__(self, cell: nn.Module, pair: bool = False) -> None:
        super().__init__()
        self.cell, self.pair = cell, pair

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 5)
        kept = (state, state) if self.pair else state
        for t in range(x.shape[1]):
            kept = self.cell(x[:, t], kept)
        return kept[0] if self.pair else kept


class First(nn.Module):
    """The first result of a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)[0]


def on(shape: tuple[int, ...], *fs: Callable[[Tensor], Tensor]) -> list[Example]:
    return [Example(f, shape) for f in fs]


def within(low: float, high: float, *fs: Callable[[Tensor], Tensor]) -> list[Example]:
    return [Example(f, (4,), (low, high)) for f in fs]


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double().eval()


def attention(q: Tensor, **options) -> Tensor:
    return F.scaled_dot_product_attention(2 * q, q.tanh(), q.flip(1), **options)


MASK = torch.ones(3, 3).tril().bool()
BIAS = torch.zeros(3, 3, dtype=torch.float64).masked_fill(~MASK, -torch.inf) + constant(3, 3)
BITS = torch.tensor([True, False, True, True])
IMAGE, PLAIN, ROWS = (2, 5, 5), (4,), (3, 4)

EXAMPLES: dict[str, list[Example]] = {
    # what moves numbers about
    "flatten": on(ROWS, lambda x: x.flatten(1)),
    "reshape": on(ROWS, lambda x: x.reshape(-1, 12), lambda x: x.reshape(-1, 4).relu().reshape(-1, 12)),
    "view": on(ROWS, lambda x: x.view(-1, 2, 6)),
    "_unsafe_view": on(ROWS, lambda x: aten._unsafe_view(x, [-1, 12])),
    "transpose": on(ROWS, lambda x: x.transpose(1, 2), lambda x: x.transpose(0, -1).relu().transpose(-1, 0)),
    "permute": on(ROWS, lambda x: x.permute(0, 2, 1), lambda x: x.permute(2, 0, 1).relu().permute(1, 2, 0)),
    "t": on(PLAIN, lambda x: x.t().relu().t()),
    "select": on(ROWS, lambda x: x.select(1, 1), lambda x: x[..., -1]),
    "slice": on(ROWS, lambda x: x[:, 1:], lambda x: x[..., -3:-1], lambda x: x[:, ::2]),
    "unsqueeze": on(ROWS, lambda x: x.unsqueeze(-1)),
    "squeeze": on((1, 4), lambda x: x.squeeze(1)),
    "contiguous": on(ROWS, lambda x: x.transpose(1, 2).contiguous()),
    "clone": on(ROWS, lambda x: x.clone()),
    "unflatten": on(ROWS, lambda x: x.unflatten(2, (2, 2))),
    "flip": on(ROWS, lambda x: x.flip(1, 2)),
    "roll": on(ROWS, lambda x: x.roll(1, 2)),
    "narrow": on(ROWS, lambda x: x.narrow(1, 1, 2)),
    "alias": on(ROWS, lambda x: aten.alias(x)),
    "movedim": on(ROWS, lambda x: x.movedim(1, 2)),
    "swapaxes": on(ROWS, lambda x: x.swapaxes(1, 2)),
    "numpy_T": on(PLAIN, lambda x: x.T.relu().T),
    "mT": on(ROWS, lambda x: x.mT),
    "expand": on(ROWS, lambda x: x.unsqueeze(1).expand(-1, 2, -1, -1)),
    "repeat": on(ROWS, lambda x: x.repeat(1, 2, 1)),
    "gather": on(PLAIN, lambda x: x.gather(1, ORDER.expand(x.shape[0], -1))),
    "index_select": on(ROWS, lambda x: x.index_select(1, ORDER)),
    "upsample_nearest2d": on(IMAGE, lambda x: F.interpolate(x, scale_factor=2)),
    "unfold": on(ROWS, lambda x: x.unfold(2, 3, 1)),
    "view_as": on(ROWS, lambda x: x.view_as(x.relu())),
    "expand_as": on(ROWS, lambda x: x[:, :1].expand_as(x.relu())),
    # sums
    "cat": on(ROWS, lambda x: torch.cat([x, x.flip(1), x, constant(1, 1, 4).expand(x.shape[0], -1, -1)], 1)),
    "sum": on(ROWS, lambda x: x.sum((1, 2), keepdim=True), lambda x: x.sum(-1)),
    "mean": on(ROWS, lambda x: x.mean(1), lambda x: x.mean((1, 2), keepdim=True)),
    "avg_pool1d": on(ROWS, lambda x: F.avg_pool1d(x, 2, 1, 1)),
    "avg_pool2d": on(IMAGE, lambda x: F.avg_pool2d(x, 2), lambda x: F.avg_pool2d(x, 3, 2, 1, True, False)),
    "adaptive_avg_pool1d": on(ROWS, lambda x: F.adaptive_avg_pool1d(x, 3)),
    "adaptive_avg_pool2d": on(IMAGE, lambda x: F.adaptive_avg_pool2d(x, (2, 3))),
    "pad": on(IMAGE, lambda x: F.pad(x, (1, 2, 0, 1), mode="reflect"), lambda x: F.pad(x, (1, 0, 2, 1), value=0.7)),
    "index": on(ROWS, lambda x: x[:, ORDER], lambda x: x[:, torch.tensor([True, False, True])]),
    "cumsum": on(ROWS, lambda x: x.cumsum(1)),
    "constant_pad_nd": on(ROWS, lambda x: aten.constant_pad_nd(x, [1, 2], 0.5)),
    "add": on(ROWS, lambda x: x + constant(3, 1), lambda x: x + x, lambda x: x + x[:, :1], lambda x: 2 + x)
    + on(ROWS, lambda x: torch.add(x.relu(), x.tanh(), alpha=-2)),
    # products
    "mul": on(ROWS, lambda x: x * constant(4), lambda x: -2 * x, lambda x: x * x, lambda x: x * x.flip(1))
    + on(ROWS, lambda x: x[:, :1] * x.tanh()),
    "div": on(ROWS, lambda x: x / -3, lambda x: x / (constant(4) + 2), lambda x: x / (x.exp() + 1)),
    "linear": on(ROWS, built(lambda: nn.Linear(4, 3)), lambda x: F.linear(x, constant(5, 4))),
    "conv1d": on(ROWS, built(lambda: nn.Conv1d(3, 2, 2, stride=2, padding=1))),
    "conv2d": on(
        IMAGE, built(lambda: nn.Conv2d(2, 4, 3, 2, 1, groups=2)), built(lambda: nn.Conv2d(2, 3, 2, padding="same"))
    )
    + on(IMAGE, lambda x: F.conv2d(x.reshape(-1, 1, 5, 5), constant(2, 1, 3, 3), constant(2)).reshape(-1, 36)),
    "conv3d": on((1, 2, 3, 3), built(lambda: nn.Conv3d(1, 2, 2))),
    "conv_transpose2d": on(IMAGE, built(lambda: nn.ConvTranspose2d(2, 2, 3, 2, 1, 1))),
    "matmul": on(ROWS, lambda x: x @ constant(4, 2), lambda x: constant(2, 3) @ x, lambda x: x @ x.mT.tanh())
    + on((3, 3), lambda x: x @ x, lambda x: x @ constant(3)),
    "bmm": on(
        ROWS,
        lambda x: torch.bmm(x, x.transpose(1, 2)),
        lambda x: torch.bmm(x.reshape(-1, 1, 4), x.reshape(-1, 4, 1)).reshape(-1, 3),
        lambda x: torch.bmm(x, constant(1, 4, 2).expand(x.shape[0], -1, -1)),
        lambda x: torch.bmm(constant(1, 2, 3).expand(x.shape[0], -1, -1), x),
    ),
    "mm": on(PLAIN, lambda x: torch.mm(x, constant(4, 3))),
    # pointwise
    "relu": on(PLAIN, torch.relu),
    "leaky_relu": on(PLAIN, lambda x: F.leaky_relu(x, 0.1), lambda x: F.leaky_relu(x, 2.0), lambda x: F.leaky_relu(x)),
    "clamp": on(PLAIN, lambda x: x.clamp(-0.3, 0.5), lambda x: x.clamp(max=0.2), lambda x: x.clamp(min=-0.2))
    + on(PLAIN, lambda x: x.clamp(constant(4), constant(4) + 0.3)),
    "abs": on(PLAIN, torch.abs),
    "exp": on(PLAIN, torch.exp),
    "log": within(0.05, 4.0, torch.log),
    "sqrt": within(0.05, 4.0, torch.sqrt),
    "rsqrt": within(0.05, 4.0, torch.rsqrt),
    "reciprocal": within(0.05, 4.0, torch.reciprocal) + within(-4.0, -0.05, torch.reciprocal),
    "pow": on(PLAIN, lambda x: x**3, lambda x: x**4)
    + within(
        0.05, 4.0, lambda x: x**-2, lambda x: x**1.5, lambda x: x**0.3, lambda x: (x**0.5 * x**-1 + x**-0.5 + x**2) ** 3
    )
    + on(PLAIN, lambda x: 2**x, lambda x: (constant(4).abs() + 0.1) ** x),
    "sigmoid": on(PLAIN, torch.sigmoid, lambda x: (x - 2).sigmoid()),
    "tanh": on(PLAIN, torch.tanh, lambda x: (x + 2).tanh()),
    "softplus": on(PLAIN, F.softplus, lambda x: F.softplus(x, 3.0)),
    "elu": on(PLAIN, F.elu, lambda x: F.elu(x, 0.5), lambda x: F.elu(x, 2.0)),
    "silu": on(PLAIN, F.silu),
    "gelu": on(PLAIN, F.gelu),
    "sin": [Example(torch.sin, PLAIN, (-4.0, 4.0))],
    "cos": [Example(torch.cos, PLAIN, (-4.0, 4.0))],
    # reductions
    "amax": on(ROWS, lambda x: x.amax(1), lambda x: x.amax(-1, keepdim=True), lambda x: x.amax((1, 2), keepdim=True)),
    "softmax": [*on(ROWS, lambda x: x.softmax(1)), Example(lambda x: x.softmax(-1), ROWS, (-300.0, 300.0))],
    "_softmax": on(ROWS, lambda x: aten._softmax(x, -1, False)),
    "masked_softmax": on(ROWS, lambda x: attention(x, is_causal=True)),
    # composites
    "log_softmax": on(PLAIN, lambda x: x.log_softmax(1)),
    "_log_softmax": on(PLAIN, lambda x: aten._log_softmax(x, 1, False)),
    "logsumexp": [
        *on(ROWS, lambda x: x.logsumexp(1), lambda x: x.logsumexp((1, 2), True)),
        Example(lambda x: x.logsumexp(-1), ROWS, (-300.0, 300.0)),
    ],
    "layer_norm": on(ROWS, built(lambda: nn.LayerNorm(4)), lambda x: F.layer_norm(x, (3, 4))),
    "rms_norm": on(ROWS, built(lambda: nn.RMSNorm(4)), lambda x: F.rms_norm(x, (4,), eps=0.1)),
    "group_norm": on(IMAGE, built(lambda: nn.GroupNorm(2, 2))),
    "batch_norm": on(IMAGE, built(lambda: nn.BatchNorm2d(2)), built(lambda: nn.BatchNorm2d(2, affine=False))),
    "scaled_dot_product_attention": on(ROWS, attention, lambda x: attention(x, attn_mask=MASK))
    + on(ROWS, lambda x: attention(x, attn_mask=BIAS, scale=0.3)),
    "sub": on(ROWS, lambda x: x - x.relu(), lambda x: torch.sub(x, x.tanh(), alpha=2), lambda x: x - 1),
    "subtract": on(ROWS, lambda x: torch.subtract(x, x.relu())),
    "rsub": on(ROWS, lambda x: torch.rsub(x, 2.0, alpha=3)),
    "neg": on(ROWS, lambda x: -x),
    "square": on(ROWS, torch.square),
    "addmm": on(PLAIN, lambda x: torch.addmm(constant(3), x, constant(4, 3))),
    "baddbmm": on(ROWS, lambda x: torch.baddbmm(constant(3, 3), x, x.mT)),
    "chunk": on(ROWS, lambda x: x.chunk(2, 1)[0] + x.chunk(2, 1)[1]),
    "split": on(ROWS, lambda x: x.split(3, -1)[1]),
    "split_with_sizes": on(ROWS, lambda x: x.split([1, 2], 1)[1]),
    "unbind": on(ROWS, lambda x: x.unbind(1)[2]),
    "stack": on(ROWS, lambda x: torch.stack([x, -x], 1)),
    "maximum": on(ROWS, lambda x: torch.maximum(x, x.flip(1)), lambda x: torch.maximum(x, constant(4)))
    + on(ROWS, lambda x: torch.maximum(constant(3, 1), x[:, :1])),
    "minimum": on(ROWS, lambda x: torch.minimum(x, x[:, :1].tanh()), lambda x: torch.minimum(constant(4), x)),
    "max": on(ROWS, lambda x: x.max(1)[0], lambda x: x.max(2, keepdim=True).values),
    "min": on(ROWS, lambda x: x.min(1)[0]),
    "amin": on(ROWS, lambda x: x.amin(2), lambda x: x.amin((1, 2), keepdim=True)),
    "max_pool2d": on(IMAGE, lambda x: F.max_pool2d(x, 2), lambda x: F.max_pool2d(x, 3, 2, 1, 1, True))
    + on(IMAGE, lambda x: F.max_pool2d(x, 2, 1, 1, 2)),
    "masked_amax": on(IMAGE, lambda x: F.max_pool2d(x, 3, 1, 1), lambda x: F.max_pool1d(x[:, 0], 3, 2, 1)),
    "max_pool1d": on(ROWS, lambda x: F.max_pool1d(x, 2, 1, 1)),
    "lstm": on(ROWS, First(built(lambda: nn.LSTM(4, 2, 2, bidirectional=True, batch_first=True)))),
    "lstm_cell": on(ROWS, Recurrent(built(lambda: nn.LSTMCell(4, 5)), pair=True)),
    "gru_cell": on(ROWS, Recurrent(built(lambda: nn.GRUCell(4, 5)))),
    "rnn_tanh_cell": on(ROWS, Recurrent(built(lambda: nn.RNNCell(4, 5)))),
    "rnn_relu_cell": on(ROWS, Recurrent(built(lambda: nn.RNNCell(4, 5, nonlinearity="relu")))),
    "dropout": on(ROWS, built(nn.Dropout)),
    "feature_dropout": on(IMAGE, built(nn.Dropout2d)),
    "alpha_dropout": on(ROWS, built(nn.AlphaDropout)),
    "relu6": on(PLAIN, lambda x: aten.relu6(4 * x)),
    "hardtanh": on(PLAIN, lambda x: F.hardtanh(x, -0.5, 0.8)),
    "clamp_min": on(PLAIN, lambda x: aten.clamp_min(x, -0.1)),
    "clamp_max": on(PLAIN, lambda x: aten.clamp_max(x, 0.1)),
}
EXAMPLES |= {
    # what moves numbers about, adds or chooses them
    "pixel_shuffle": on((4, 2, 2), nn.PixelShuffle(2)),
    "pixel_unshuffle": on((1, 4, 4), nn.PixelUnshuffle(2)),
    "diagonal": on((3, 3), lambda x: x.diagonal(0, 1, 2)),
    "im2col": on(IMAGE, nn.Unfold(2)),
    "to": on(ROWS, lambda x: x.to(torch.float64)),
    "_to_copy": on(ROWS, lambda x: aten._to_copy(x, dtype=torch.float64)),
    "type_as": on(ROWS, lambda x: x.type_as(WEIGHT)),
    "where": on(PLAIN, lambda x: torch.where(BITS, x, x.flip(1)), lambda x: torch.where(BITS, x, constant(4)))
    + on(PLAIN, lambda x: torch.where(x > 0.2, x, 0.5 * x), lambda x: torch.where(x > x.flip(1), x, -1.0)),
    "masked_fill": on(PLAIN, lambda x: x.masked_fill(BITS, 0.3), lambda x: x.masked_fill(x < 0.1, 0.3)),
    "avg_pool3d": on((1, 2, 3, 4), nn.AvgPool3d(2, 1)),
    "adaptive_avg_pool3d": on((1, 2, 3, 4), nn.AdaptiveAvgPool3d((1, 2, 3))),
    "col2im": on((4, 9), lambda x: F.fold(x, (4, 4), 2)),
    "upsample_linear1d": on(ROWS, lambda x: F.interpolate(x, size=7, mode="linear")),
    "upsample_bilinear2d": on(IMAGE, lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)),
    "upsample_trilinear3d": on((1, 2, 2, 2), lambda x: F.interpolate(x, scale_factor=2, mode="trilinear")),
    "conv_transpose1d": on(ROWS, built(lambda: nn.ConvTranspose1d(3, 2, 3, 2, 1))),
    "conv_transpose3d": on((1, 2, 2, 2), built(lambda: nn.ConvTranspose3d(1, 2, 2))),
    # of one number
    "expm1": on(PLAIN, torch.expm1),
    "exp2": on(PLAIN, torch.exp2),
    "cosh": on(PLAIN, torch.cosh),
    "sinh": on(PLAIN, torch.sinh),
    "log1p": [Example(torch.log1p, PLAIN, (0.05, 4.0))],
    "log2": within(0.05, 4.0, torch.log2),
    "log10": within(0.05, 4.0, torch.log10),
    "log_sigmoid": on(PLAIN, F.logsigmoid),
    "celu": on(PLAIN, F.celu, lambda x: F.celu(x, 0.4)),
    "huber": on(PLAIN, lambda x: F.huber_loss(x, 0 * x, reduction="none", delta=0.7)),
    "atan": on(PLAIN, torch.atan),
    "asinh": on(PLAIN, torch.asinh),
    "erf": on(PLAIN, torch.erf),
    "selu": on(PLAIN, F.selu),
    "mish": on(PLAIN, F.mish),
    "hardswish": [Example(F.hardswish, PLAIN, (-4.0, 4.0))],
    "gelu_by_tanh": on(PLAIN, lambda x: F.gelu(x, approximate="tanh")),
    "tan": on(PLAIN, torch.tan),
    "asin": within(-0.9, 0.9, torch.asin),
    "atanh": within(-0.9, 0.9, torch.atanh),
    "above": on(PLAIN, lambda x: (x > 0.1) * x, lambda x: (x < x.flip(1)) * x),
    "at_least": on(PLAIN, lambda x: (x >= 0.1) * x, lambda x: (x <= 0.2) * x),
    "softshrink": on(PLAIN, F.softshrink, lambda x: F.softshrink(x, 0.2)),
    "hardshrink": on(PLAIN, F.hardshrink, lambda x: F.hardshrink(x, 0.2)),
    "threshold": on(PLAIN, lambda x: F.threshold(x, 0.1, -0.5)),
    "floor": on(PLAIN, lambda x: (3 * x).floor()),
    "ceil": on(PLAIN, lambda x: (3 * x).ceil()),
    "round": on(PLAIN, lambda x: (3 * x).round()),
    "trunc": on(PLAIN, lambda x: (3 * x).trunc()),
    # composites
    "gt": on(PLAIN, lambda x: (x > constant(4)) * x),
    "ge": on(PLAIN, lambda x: (x >= 0.3) * x),
    "lt": on(PLAIN, lambda x: (x < 0.3) * x),
    "le": on(PLAIN, lambda x: (x <= 0.3) * x),
    "sign": on(PLAIN, torch.sign),
    "heaviside": on(PLAIN, lambda x: torch.heaviside(x, constant(4))),
    "logical_not": on(PLAIN, lambda x: torch.logical_not(x > 0.1) * x),
    "bitwise_not": on(PLAIN, lambda x: ~(x > 0.1) * x),
    "logical_and": on(PLAIN, lambda x: torch.logical_and(x > 0.1, BITS) * x),
    "bitwise_and": on(PLAIN, lambda x: torch.bitwise_and(x > 0.1, x.flip(1) < 0.3) * x),
    "__and__": on(PLAIN, lambda x: ((x > 0.1) & BITS) * x),
    "_safe_softmax": on(PLAIN, lambda x: aten._safe_softmax(x.masked_fill(BITS, -torch.inf), 1)),
    "linalg_vector_norm": on(PLAIN, lambda x: (x + 2).norm(dim=1, keepdim=True), lambda x: x.norm(p=1, dim=1)[:, None])
    + on(ROWS, lambda x: x.norm(p=math.inf, dim=(1, 2), keepdim=True), lambda x: (x + 2).norm(p=3, dim=1)),
    "cdist": on(ROWS, lambda x: torch.cdist(x, constant(1, 2, 4) + 3)),
    "hypot": on(PLAIN, lambda x: torch.hypot(x, constant(4) + 2)),
    "var": on(ROWS, lambda x: x.var(1), lambda x: x.var((1, 2), unbiased=False, keepdim=True))
    + on(ROWS, lambda x: x.var(2, correction=0.5)),
    "std": on(PLAIN, lambda x: (x + 3 * torch.arange(4)).std(1, keepdim=True)),
    "prod": on((3, 5), lambda x: x.prod(2), lambda x: x.prod(1, keepdim=True)),
    "huber_loss": on(PLAIN, lambda x: F.huber_loss(x, x.flip(1), reduction="none")),
    "smooth_l1_loss": on(PLAIN, lambda x: F.smooth_l1_loss(x, x.flip(1), reduction="none", beta=0.5)),
    "bilinear": on(ROWS, lambda x: F.bilinear(x, x.tanh(), constant(2, 4, 4), constant(2))),
    "adaptive_max_pool1d": on(ROWS, lambda x: F.adaptive_max_pool1d(x, 3)),
    "adaptive_max_pool2d": on(IMAGE, lambda x: F.adaptive_max_pool2d(x, (2, 3))),
    "adaptive_max_pool3d": on((1, 2, 3, 3), lambda x: F.adaptive_max_pool3d(x, (1, 2, 2))),
    "max_pool3d": on((1, 3, 4, 4), lambda x: F.max_pool3d(x, 2), lambda x: F.max_pool3d(x, 3, 2, 1)),
    "instance_norm": on(IMAGE, built(lambda: nn.InstanceNorm2d(2, affine=True)))
    + on(IMAGE, built(lambda: nn.InstanceNorm2d(2, track_running_stats=True))),
    "_native_batch_norm_legit_functional": on(
        IMAGE,
        lambda x: aten._native_batch_norm_legit_functional(
            x, None, None, constant(2), constant(2) + 2, False, 0.1, 1e-5
        )[0],
    ),
    "prelu": on(PLAIN, built(nn.PReLU)) + on(IMAGE, built(lambda: nn.PReLU(2))),
    "rrelu": on(PLAIN, built(nn.RReLU)),
    "lerp": on(PLAIN, lambda x: torch.lerp(x, x.tanh(), 0.3), lambda x: torch.lerp(x, constant(4), constant(4))),
    "clip": on(PLAIN, lambda x: x.clip(-constant(4).abs(), constant(4).abs()))
    + on(PLAIN, lambda x: torch.clip(x, None, constant(4))),
    "fmax": on(PLAIN, lambda x: torch.fmax(x, x.flip(1))),
    "fmin": on(PLAIN, lambda x: torch.fmin(x, x.flip(1))),
    "logaddexp": on(PLAIN, lambda x: torch.logaddexp(x, x.flip(1))),
    "acos": within(-0.9, 0.9, torch.acos),
    "erfc": on(PLAIN, torch.erfc),
    "detach": on(PLAIN, lambda x: x.detach().relu()),
}
OPERATORS = sorted({*RULES, *EXPANSIONS})
NAMED = [(name, i) for name in OPERATORS for i in range(len(EXAMPLES.get(name, [])))]
EXPANDED = {("div", 2), ("where", 2), ("where", 3), ("masked_fill", 1), ("clamp", 3), ("pow", 6), ("pow", 7)}
"""Examples of an operator with a rule that is replaced by others for these arguments."""

PRODUCTS = {("bmm", 0), ("bmm", 1), ("matmul", 2), ("matmul", 3), ("mul", 2), ("mul", 3), ("mul", 4)}
"""Examples of products in which both factors are perturbed, so that they are affine nowhere."""

RULED = [(n, i) for n, i in NAMED if n in RULES and (n, i) not in EXPANDED]
ruled = pytest.mark.parametrize(("name", "i"), RULED)
every_example = pytest.mark.parametrize(("name", "i"), NAMED)


def pointwise(names: tuple[str, ...] | None = None) -> pytest.MarkDecorator:
    chosen = [(n, i) for n, i in RULED if RULES[n].kind == "pointwise" and (not names or n in names)]
    return pytest.mark.parametrize(("name", "i"), chosen)


@functools.cache
def capture(name: str, i: int) -> tuple[Program, bool]:
    """The captured example, and whether the operator's rule or expansion takes part in it."""
    called, expansion = [], EXPANSIONS.get(name)
    with pytest.MonkeyPatch.context() as patch:
        if expansion is not None:
            patch.setitem(EXPANSIONS, name, lambda *a, **k: called.append(name) or expansion(*a, **k))
        program = Program(Wrapped(EXAMPLES[name][i].f).eval(), EXAMPLES[name][i].inputs())
    return program, bool(called) or any(node.key == name for node in program.nodes)


def captured(name: str, i: int) -> Program:
    return capture(name, i)[0]


def sites(name: str, i: int, dtype: torch.dtype = torch.float64) -> list[Site]:
    """Where the example's graph uses the operator on something perturbed: somewhere, or the laws would say nothing."""
    example = EXAMPLES[name][i]
    box = Box(*(t.to(dtype) for t in (example.box().low, example.box().high)))
    bounds = Bounds(captured(name, i), example.inputs().to(dtype), box)
    found = [site for site in bounds.problem.sites.values() if site.node.key == name]
    assert found, f"example {i} of {name!r} has no place where its rule is used; if it is expanded, say so in EXPANDED"
    return found


def shapes(site: Site, name: str, i: int) -> list[tuple[int, ...]]:
    """Of the perturbed arguments."""
    bounds = Bounds(captured(name, i), EXAMPLES[name][i].inputs(), EXAMPLES[name][i].box())
    found = bounds.intervals.by("ibp")
    return [found[index].shape for index in site.hot]


def boxes(name: str, i: int, shape: tuple[int, ...], g: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Boxes in the domain: points, tiny, ordinary and wide ones, and all of these at once."""
    low, high = EXAMPLES[name][i].domain
    for width in (0.0, 1e-7, 0.3, 1.0, None):
        ends = (torch.rand(2, *shape, generator=g, dtype=torch.float64) * (high - low) + low).sort(0).values
        share = torch.rand(shape, generator=g, dtype=torch.float64).round(decimals=1) if width is None else width
        yield ends[0], ends[0] + (ends[1] - ends[0]) * share


def points(low: Tensor, high: Tensor, count: int, g: torch.Generator) -> Tensor:
    """Points of a box: half of them corners."""
    unit = torch.rand(count, *low.shape, generator=g, dtype=torch.float64)
    unit[::2] = unit[::2].round()
    return low + (high - low) * unit


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATORS)
def test_has_an_example(name: str) -> None:
    assert EXAMPLES.get(name), f"add a line for {name!r} to EXAMPLES in {__file__}: a small function that uses it"


def test_every_example_is_of_an_operator() -> None:
    assert set(EXAMPLES) <= set(OPERATORS)


@every_example
def test_the_example_uses_the_operator(name: str, i: int) -> None:
    assert capture(name, i)[1]


@pytest.mark.parametrize(("name", "i"), sorted(EXPANDED))
def test_an_example_that_is_expanded_has_no_place_for_the_rule(name: str, i: int) -> None:
    with pytest.raises(AssertionError, match="no place"):
        sites(name, i)


@pytest.mark.parametrize(("name", "i"), sorted(PRODUCTS))
def test_a_product_of_perturbed_values_is_affine_nowhere(name: str, i: int) -> None:
    assert all(RULES[name].relaxes(site) for site in sites(name, i))


def test_every_quick_transpose_is_of_an_affine_operator() -> None:
    assert {name for name, _ in AFFINE} >= set(TRANSPOSES)


@every_example
def test_the_captured_graph_computes_the_function(name: str, i: int) -> None:
    example = EXAMPLES[name][i]
    x = example.inputs(0.9)
    for batch in (x, x[:1], x.repeat(2, *(1 for _ in example.shape))):
        close(captured(name, i)(batch), example.f(batch), 1e-12)


# --- every rule -------------------------------------------------------------------------------------------------------


@ruled
def test_intervals_contain_the_values(name: str, i: int) -> None:
    g = generator()
    for site in sites(name, i):
        for ends in zip(*(boxes(name, i, shape, g) for shape in shapes(site, name, i)), strict=True):
            box = RULES[name].interval(site, [Interval(*e) for e in ends])
            value = torch.stack([site.apply(*z) for z in zip(*(points(*e, 60, g) for e in ends), strict=True)])
            slack = 1e-12 * (1 + value.abs())
            assert bool((box.low - slack <= value).all())
            assert bool((value <= box.high + slack).all())


@ruled
@pytest.mark.parametrize("free", [False, True], ids=["default", "alpha"])
def test_backward_is_a_lower_bound_in_the_form_of_a_line(name: str, i: int, free: bool) -> None:
    """<a, f(z)> >= <a', z> + c, whatever alpha is."""
    g, rule, nodes = generator(), RULES[name], captured(name, i).nodes
    for site in sites(name, i):
        for ends in zip(*(boxes(name, i, shape, g) for shape in shapes(site, name, i)), strict=True):
            x = [Interval(*e) for e in ends]
            start = rule.start(site, x) if free else None
            alpha = None if start is None else torch.rand(len(start), 3, *start.shape[1:], generator=g).double()
            a = torch.randn(3, *site.apply(*(e[0] for e in ends)).shape, generator=g, dtype=torch.float64)
            slopes, constant = rule.backward(site, a, x, alpha)
            for z in zip(*(points(*e, 20, g) for e in ends), strict=True):
                terms = zip(site.hot, slopes, z, strict=True)
                parts = [samples_first(s * t, nodes[at].pre, BATCH) for at, s, t in terms]
                line = sum(part.sum(2) for part in parts) + constant
                size = sum(part.abs().sum(2) for part in parts) + 1
                value = site.total(a * site.apply(*z))
                assert bool((line <= value + 1e-11 * (size + value.abs())).all())


@ruled
def test_forward_lines_enclose_the_values(name: str, i: int) -> None:
    """Where the hot inputs lie between linear functions of one number t in [0, 1], so does the result."""
    g, rule = generator(), RULES[name]
    for site in sites(name, i):
        for ends in zip(*(boxes(name, i, shape, g) for shape in shapes(site, name, i)), strict=True):
            width = [high - low for low, high in ends]
            # from low + width t / 2 to low + width (1 + t) / 2
            own = [
                LinearBounds(w[None] / 2, low, w[None] / 2, low + w / 2)
                for (low, _), w in zip(ends, width, strict=True)
            ]
            line = rule.forward(site, [Interval(*e) for e in ends], own)
            for t in torch.linspace(0, 1, 5, dtype=torch.float64).repeat(4):
                share = [torch.rand(w.shape, generator=g, dtype=torch.float64).round(decimals=0) for w in width]
                z = [low + w * (s + t) / 2 for (low, _), w, s in zip(ends, width, share, strict=True)]
                value = site.apply(*z)
                slack = 1e-11 * (1 + value.abs() + line.lb.abs() + line.ub.abs() + line.lw[0].abs() + line.uw[0].abs())
                assert bool((line.lw[0] * t + line.lb <= value + slack).all())
                assert bool((value <= line.uw[0] * t + line.ub + slack).all())


# --- affine operators -------------------------------------------------------------------------------------------------


def affine_sites(name: str, i: int) -> list[Site]:
    """Those of one perturbed factor at most, where a bilinear operator is affine, too."""
    found = [site for site in sites(name, i) if not RULES[name].relaxes(site)]
    assert found, f"example {i} of {name!r} is affine nowhere; if both factors are perturbed, say so in PRODUCTS"
    return found


AFFINE = [(n, i) for n, i in RULED if isinstance(RULES[n], Affine) and (n, i) not in PRODUCTS]
affine = pytest.mark.parametrize(("name", "i"), AFFINE)


def draws(shapes: list[tuple[int, ...]], g: torch.Generator) -> list[Tensor]:
    return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]


@affine
def test_an_affine_operator_is_affine(name: str, i: int) -> None:
    g = generator()
    for site in affine_sites(name, i):
        a, b = (draws(shapes(site, name, i), g) for _ in range(2))
        both = site.apply(*(x + y for x, y in zip(a, b, strict=True)))
        close(both + site.apply(*(0 * x for x in a)), site.apply(*a) + site.apply(*b))


@affine
def test_backward_of_an_affine_operator_is_its_transpose(name: str, i: int) -> None:
    g, rule = generator(), RULES[name]
    for site in affine_sites(name, i):
        x = draws(shapes(site, name, i), g)
        constant = site.apply(*(0 * z for z in x))
        a = torch.randn(3, *constant.shape, generator=g, dtype=torch.float64)
        slopes, bias = rule.backward(site, a, [Interval(z, z) for z in x])
        leaves = [z.requires_grad_() for z in x]
        for row in range(3):
            wanted = torch.autograd.grad((a[row] * site.apply(*leaves)).sum(), leaves, materialize_grads=True)
            for found, expected in zip(slopes, wanted, strict=True):
                close(found[row], expected)
        close(bias + torch.zeros(3, BATCH, dtype=torch.float64), site.total(a * constant))


@affine
def test_intervals_of_an_affine_operator_are_exact(name: str, i: int) -> None:
    """Its Jacobian, entry by entry, says where each output is least and largest."""
    g, rule = generator(), RULES[name]
    for site in affine_sites(name, i):
        center = draws(shapes(site, name, i), g)
        radius = [z.abs() for z in draws(shapes(site, name, i), g)]
        box = rule.interval(site, [Interval(c - r, c + r) for c, r in zip(center, radius, strict=True)])
        value = site.apply(*center)
        slopes = torch.func.jacrev(lambda *t: site.apply(*t), tuple(range(len(center))))(*center)  # noqa: B023
        reach = sum((j.flatten(value.ndim).abs() @ r.flatten()) for j, r in zip(slopes, radius, strict=True))
        close(box.low, value - reach)
        close(box.high, value + reach)


# --- pointwise operators ----------------------------------------------------------------------------------------------

COUNT, SAMPLES = 4000, 200


def tolerance(name: str, dtype: torch.dtype) -> float:
    """Of 1 + the values. torch's softplus drops by 2e-9 where it becomes the identity."""
    return 1e-6 if dtype == torch.float32 else 1e-8 if name == "softplus" else 1e-12


precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def intervals(name: str, i: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of every kind: points, tiny, huge, one-sided and ordinary ones, and such that begin or end at 0."""
    g, kind = generator(5), torch.arange(COUNT) % 8
    draw = lambda: torch.rand(COUNT, generator=g, dtype=torch.float64)  # noqa: E731
    middle, radius = 8 * draw() - 4, 3 * draw()
    radius = torch.where(kind == 0, 0.0, torch.where(kind == 1, radius * 10 ** (-1 - 7 * draw()), radius))
    scale = torch.where(kind == 2, 10 ** (3 * draw()), 1.0)
    low, high = (middle - radius) * scale, (middle + radius) * scale
    room = draw()
    for number, shift in ((3, room - low), (4, -room - high), (5, -low), (6, -high)):
        low, high = (torch.where(kind == number, end + shift, end) for end in (low, high))
    low, high = low.to(dtype), high.to(dtype)
    if EXAMPLES[name][i].domain[0] > 0:
        low, high = (end.clamp(-12, 12).exp() for end in (low, high))
    if isinstance(RULES[name], Inside):
        inside = RULES[name].inside(low, high)
        low, high = low[inside], high[inside]
    finite = value(name, i, low.double()).to(dtype).isfinite() & value(name, i, high.double()).to(dtype).isfinite()
    return low[finite], high[finite]


def value(name: str, i: int, z: Tensor) -> Tensor:
    return sites(name, i)[0].apply(z)


def inside(low: Tensor, high: Tensor) -> Tensor:
    """Points (SAMPLES, COUNT) of the intervals, in float64, their ends among them."""
    unit = torch.rand(SAMPLES, 1, generator=generator(6), dtype=torch.float64).expand(-1, len(low)).clone()
    unit[0], unit[1], unit[2] = 0.0, 1.0, 0.5
    z = low.double() + (high.double() - low.double()) * unit
    return torch.minimum(torch.maximum(z, low.double()), high.double())


@pointwise()
@precisions
@pytest.mark.parametrize("free", [False, True], ids=["default", "alpha"])
def test_lines_hold_on_any_interval(name: str, i: int, dtype: torch.dtype, free: bool) -> None:
    low, high = intervals(name, i, dtype)
    site, z = sites(name, i)[0], inside(low, high)
    alpha = torch.rand(2, len(low), generator=generator(7), dtype=dtype).mul(1.2).sub(0.1).clamp(0, 1) if free else None
    al, bl, au, bu = (0.0 if t is None else t.double() for t in RULES[name].relax(site, Interval(low, high), alpha))
    f = site.apply(z)
    for over, slope, constant in ((1, al, bl), (-1, au, bu)):
        line = slope * z + constant
        size = 1 + f.abs() + (slope * z).abs() + abs(constant)
        worst = (over * (line - f) - tolerance(name, dtype) * size).amax(0)
        at = int(worst.argmax())
        assert float(worst[at]) <= 0, f"by {float(worst[at]):g} on [{float(low[at])}, {float(high[at])}]"


@pointwise()
@precisions
def test_intervals_hold_and_are_tight(name: str, i: int, dtype: torch.dtype) -> None:
    low, high = intervals(name, i, dtype)
    site = sites(name, i)[0]
    box, f = RULES[name].interval(site, [Interval(low, high)]), site.apply(inside(low, high))
    size = tolerance(name, dtype) * (1 + f.abs().amax(0))
    assert bool((box.low.double() - size <= f.amin(0)).all())
    assert bool((f.amax(0) <= box.high.double() + size).all())
    near = high.double() - low.double() < 10  # where the points lie close
    step = 0.1 * (f.amax(0) - f.amin(0)) + 4 * size + 1e-9
    assert bool(((f.amin(0) - box.low <= step) & (box.high - f.amax(0) <= step))[near].all())


@pointwise()
@precisions
def test_a_point_has_its_value(name: str, i: int, dtype: torch.dtype) -> None:
    z = intervals(name, i, dtype)[0]
    site, point = sites(name, i)[0], Interval(z, z)
    box, f, slack = RULES[name].interval(site, [point]), site.apply(z.double()), 4 * tolerance(name, dtype)
    al, bl, au, bu = (0.0 if t is None else t.double() for t in RULES[name].relax(site, point))
    for slope, constant in ((0.0, box.low.double()), (0.0, box.high.double()), (al, bl), (au, bu)):
        size = 1 + f.abs() + abs(slope * z.double())
        assert bool(((slope * z.double() + constant - f).abs() <= slack * size).all())


@pointwise(("tanh", "sigmoid"))
@pytest.mark.parametrize("free", [False, True], ids=["default", "alpha"])
def test_an_odd_function_has_mirrored_lines(name: str, i: int, free: bool) -> None:
    """f(z) = c - f(-z): the upper line on [l, u] is that below f on [-u, -l], turned about the origin."""
    low, high = intervals(name, i, torch.float64)
    alpha = torch.rand(2, len(low), generator=generator(), dtype=torch.float64) if free else None
    site, total = sites(name, i)[0], 1.0 if name == "sigmoid" else 0.0
    al, bl, au, bu = RULES[name].relax(site, Interval(low, high), alpha)
    turned = RULES[name].relax(site, Interval(-high, -low), None if alpha is None else alpha.flip(0))
    for found, wanted in zip(turned, (au, total - bu, al, total - bl), strict=True):
        close(found, wanted, 1e-11)


# --- in a network -----------------------------------------------------------------------------------------------------


@functools.cache
def network(name: str, i: int) -> tuple[nn.Module, Program]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = InsideNet(EXAMPLES[name][i]).eval()
    return model, Program(model, EXAMPLES[name][i].inputs())


@every_example
def test_all_methods_bound_a_network_that_uses_it(name: str, i: int) -> None:
    model, program = network(name, i)
    example, g = EXAMPLES[name][i], generator()
    box = example.box(0.3)
    bounds = Bounds(program, example.inputs(), box)
    with torch.no_grad():
        z = points(box.low, box.high, 100, g)
        values = model(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        found = {method: bounds.compute(method, ascent=Ascent(iters=2)) for method in METHODS}
        for how, (low, high) in found.items():
            slack = 1e-9 * (1 + low.abs() + high.abs())
            assert bool((low - slack <= values).all()), how
            assert bool((values <= high + slack).all()), how
        assert bool(
            (found["alpha-crown"][1] - found["alpha-crown"][0] <= found["crown"][1] - found["crown"][0] + 1e-9).all()
        )


@every_example
def test_gradients_of_the_bounds_are_right(name: str, i: int) -> None:
    """With respect to the ends of the set and to weights behind the operator, by finite differences."""
    if (name in ("tanh", "sigmoid") and i == 0) or name in ("lstm", "lstm_cell", "gru_cell", "rnn_tanh_cell"):
        pytest.skip("the point of a tangent that reaches an end is found by bisection, and held in the gradient")
    model, program = network(name, i)
    box, weight = EXAMPLES[name][i].box(0.1), model.hidden.weight
    ends = [end.clone().requires_grad_() for end in (box.low, box.high)]

    def bound(low: Tensor, high: Tensor, _: Tensor) -> Tensor:
        bounds = Bounds(program, (low + high) / 2, Box(low, high))
        return torch.cat([*bounds.compute("ibp"), *bounds.compute("crown-ibp")])

    assert torch.autograd.gradcheck(bound, (*ends, weight), fast_mode=True, atol=1e-4, eps=1e-7)
