"""What users write in a network, one line each: it is bounded, soundly and by CROWN no wider than by intervals.

What has no rule is refused by its name and its line.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlab.bounds import Bounds, LpBall, Program, UnsupportedOperator

Snippet = tuple[Callable[[Tensor], Any], tuple[int, ...], float]
"""A function of a batch in [-1, 1], the shape of a sample, and the radius of a ball."""

V, M, I = (4,), (3, 4), (2, 4, 4)  # a vector, a matrix (time, width), an image
KEEP = torch.tensor([True, False, True, True])
W34 = torch.linspace(-1, 1.2, 12, dtype=torch.float64).sin().reshape(3, 4)
W4 = torch.tensor([0.5, -1.0, 2.0, 0.3], dtype=torch.float64)
GRID = torch.linspace(-0.9, 0.9, 8, dtype=torch.float64).reshape(1, 2, 2, 2)
LABELS = torch.tensor([1, 0, 3])


def some(x: Tensor) -> Tensor:
    """Constant targets for whatever batch."""
    return (torch.zeros_like(x) + 0.3).detach()


def labels(x: Tensor) -> Tensor:
    """A constant class for each sample."""
    return torch.ones_like(x[:, 0]).long()


class Attention(nn.Module):
    """Heads and a mask, written by hand."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.register_buffer("mask", torch.tril(torch.ones(8, 8))[None, None])

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (z.view(b, t, self.heads, d // self.heads).transpose(1, 2) for z in self.qkv(x).split(d, dim=2))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).contiguous().view(b, t, d))


class Excite(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, 2), nn.Linear(2, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(self.down(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]


class SwiGLU(nn.Module):
    """A gated layer of a language model."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(width, 5), nn.Linear(width, 5), nn.Linear(5, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Decode(nn.Module):
    """A decoder layer that attends to its own input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(width, 2, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x)


def rotary(x: Tensor) -> Tensor:
    """Positions as angles."""
    angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None] / torch.tensor([1.0, 10.0], dtype=x.dtype)
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).flatten(-2)


def assigned(x: Tensor) -> Tensor:
    """What writes into an entry."""
    y = x.clone()
    y[..., 0] = 1.0
    return y


def rnn_loop(x: Tensor) -> Tensor:
    """A recurrence by hand."""
    h = x.new_zeros(x.size(0), 3)
    for t in range(x.size(1)):
        h = torch.tanh(x[:, t] @ W34.T + 0.5 * h)
    return h


with torch.random.fork_rng():
    torch.manual_seed(0)
    EVERYDAY: dict[str, Snippet] = {
        # --- activations
        "ReLU in place": (nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)), V, 0.2),
        "LeakyReLU": (nn.LeakyReLU(0.2), V, 0.3),
        "PReLU": (nn.PReLU(), V, 0.3),
        "RReLU": (nn.RReLU(), V, 0.3),
        "ELU": (nn.ELU(), V, 0.3),
        "ELU with alpha 2": (nn.ELU(2.0), V, 0.3),
        "SELU": (nn.SELU(), V, 0.3),
        "CELU": (nn.CELU(0.5), V, 0.3),
        "GELU": (nn.GELU(), V, 0.3),
        "GELU by tanh": (nn.GELU("tanh"), V, 0.3),
        "quick GELU": (lambda x: x * torch.sigmoid(1.702 * x), V, 0.3),
        "SiLU": (nn.SiLU(), V, 0.3),
        "Mish": (nn.Mish(), V, 0.3),
        "Sigmoid": (nn.Sigmoid(), V, 0.3),
        "LogSigmoid": (nn.LogSigmoid(), V, 0.3),
        "Tanh": (nn.Tanh(), V, 0.3),
        "Tanhshrink": (nn.Tanhshrink(), V, 0.3),
        "Softplus": (nn.Softplus(), V, 0.3),
        "Softsign": (nn.Softsign(), V, 0.3),
        "Hardtanh": (nn.Hardtanh(-0.4, 0.6), V, 0.3),
        "Hardsigmoid": (nn.Hardsigmoid(), V, 0.3),
        "Hardswish": (nn.Hardswish(), V, 0.3),
        "Hardshrink": (nn.Hardshrink(0.3), V, 0.3),
        "Softshrink": (nn.Softshrink(0.3), V, 0.3),
        "Threshold": (nn.Threshold(0.1, -0.5), V, 0.3),
        "GLU": (nn.GLU(1), V, 0.3),
        "SwiGLU": (SwiGLU(4), V, 0.2),
        "Softmax": (nn.Softmax(1), V, 0.3),
        "Softmin": (nn.Softmin(1), V, 0.3),
        "LogSoftmax": (nn.LogSoftmax(1), V, 0.3),
        "erf": (torch.erf, V, 0.3),
        "squared ReLU": (lambda x: F.relu(x) ** 2, V, 0.3),
        # --- normalisation
        "BatchNorm2d": (nn.BatchNorm2d(2), I, 0.2),
        "BatchNorm3d": (nn.BatchNorm3d(2), (2, 2, 3, 3), 0.2),
        "LayerNorm": (nn.LayerNorm(4), M, 0.05),
        "RMSNorm": (nn.RMSNorm(4), M, 0.05),
        "GroupNorm": (nn.GroupNorm(2, 4), (4, 3, 3), 0.05),
        "InstanceNorm2d": (nn.InstanceNorm2d(2, affine=True), I, 0.05),
        "InstanceNorm2d with statistics": (nn.InstanceNorm2d(2, track_running_stats=True), I, 0.05),
        "LocalResponseNorm": (nn.LocalResponseNorm(2), (4, 3, 3), 0.1),
        "F.normalize": (lambda x: F.normalize(x, dim=1), V, 0.05),
        "F.normalize by the sum": (lambda x: F.normalize(x, p=1, dim=1), V, 0.05),
        "x / norm": (lambda x: x / x.norm(dim=-1, keepdim=True), V, 0.05),
        "norm": (lambda x: x.norm(dim=1), M, 0.1),
        "vector_norm": (lambda x: torch.linalg.vector_norm(x, ord=1, dim=1), M, 0.1),
        "standardised": (lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True), V, 0.05),
        "cosine similarity": (lambda x: F.cosine_similarity(x, W4[None], dim=1)[:, None], V, 0.05),
        "pairwise distance": (lambda x: F.pairwise_distance(x, W4[None])[:, None], V, 0.1),
        "weight norm": (nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), V, 0.2),
        "spectral norm": (nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)), V, 0.2),
        # --- convolutions, pooling, resizing
        "Conv1d": (nn.Conv1d(3, 2, 2), M, 0.2),
        "Conv2d, depthwise": (nn.Conv2d(2, 2, 3, groups=2, padding=1), I, 0.2),
        "Conv2d, circular": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), I, 0.2),
        "Conv2d, reflected": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), I, 0.2),
        "ConvTranspose1d": (nn.ConvTranspose1d(3, 2, 3, stride=2), M, 0.2),
        "ConvTranspose2d": (nn.ConvTranspose2d(2, 2, 3, stride=2, padding=1), I, 0.2),
        "ConvTranspose3d": (nn.ConvTranspose3d(1, 2, 2), (1, 2, 2, 3), 0.2),
        "MaxPool1d": (nn.MaxPool1d(2), M, 0.2),
        "MaxPool2d": (nn.MaxPool2d(3, 2, 1), I, 0.2),
        "MaxPool3d": (nn.MaxPool3d(2), (1, 2, 4, 4), 0.2),
        "AvgPool3d": (nn.AvgPool3d(2), (1, 2, 4, 4), 0.2),
        "LPPool2d": (nn.LPPool2d(2, 2), I, 0.05),
        "AdaptiveAvgPool3d": (nn.AdaptiveAvgPool3d(1), (1, 2, 4, 4), 0.2),
        "AdaptiveMaxPool1d": (nn.AdaptiveMaxPool1d(2), M, 0.2),
        "AdaptiveMaxPool2d": (nn.AdaptiveMaxPool2d((3, 1)), I, 0.2),
        "PixelShuffle": (nn.PixelShuffle(2), (4, 2, 2), 0.2),
        "PixelUnshuffle": (nn.PixelUnshuffle(2), I, 0.2),
        "ChannelShuffle": (nn.ChannelShuffle(2), (4, 2, 2), 0.2),
        "Upsample": (nn.Upsample(scale_factor=2), I, 0.2),
        "Upsample, bilinear": (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), I, 0.2),
        "interpolate, linear": (lambda x: F.interpolate(x, size=7, mode="linear"), M, 0.2),
        "interpolate, bicubic": (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), I, 0.2),
        "ReflectionPad2d": (nn.ReflectionPad2d(1), I, 0.2),
        "ReplicationPad2d": (nn.ReplicationPad2d(1), I, 0.2),
        "ZeroPad2d": (nn.ZeroPad2d(1), I, 0.2),
        "Unfold": (nn.Unfold(2), I, 0.2),
        "Fold": (lambda x: F.fold(F.unfold(x, 2), (4, 4), 2), I, 0.2),
        # --- shapes
        "tile": (lambda x: x.tile(1, 2), V, 0.2),
        "repeat_interleave": (lambda x: x.repeat_interleave(2, dim=1), V, 0.2),
        "hstack": (lambda x: torch.hstack([x, x.relu()]), V, 0.2),
        "dstack": (lambda x: torch.dstack([x, x.relu()]), V, 0.2),
        "tensor_split": (lambda x: x.tensor_split(2, 1)[1], V, 0.2),
        "rot90": (lambda x: x.rot90(1, (2, 3)), I, 0.2),
        "diagonal": (lambda x: x.diagonal(dim1=2, dim2=3), I, 0.2),
        "tril": (lambda x: x.tril(), M, 0.2),
        "broadcast_to": (lambda x: x[:, None].broadcast_to(x.shape[0], 2, 4), V, 0.2),
        "detach": (lambda x: x.detach() + x, V, 0.2),
        "casts": (lambda x: x.float().relu().to(torch.float64), V, 0.2),
        "type_as": (lambda x: x.relu().type_as(W4) * W4, V, 0.2),
        "gather": (lambda x: x.gather(1, LABELS.expand(x.shape[0], 3)), V, 0.2),
        "a list as index": (lambda x: x[:, [0, 2, 2]], V, 0.2),
        "a mask as index": (lambda x: x[:, KEEP], V, 0.2),
        "masked_fill": (lambda x: x.masked_fill(~KEEP, 0.5), V, 0.2),
        "where, a constant mask": (lambda x: torch.where(KEEP, x, 2 * x.flip(1)), V, 0.2),
        # --- reductions
        "var": (lambda x: x.var(dim=1), M, 0.1),
        "std": (lambda x: x.std(dim=1, unbiased=False), V, 0.05),
        "prod": (lambda x: x.prod(1), (3,), 0.2),
        "max along a dimension": (lambda x: x.max(1)[0], M, 0.2),
        "min along a dimension": (lambda x: x.min(dim=1, keepdim=True).values, M, 0.2),
        "aminmax": (lambda x: x.aminmax(dim=1).max, M, 0.2),
        "logsumexp": (lambda x: x.logsumexp(1), M, 0.2),
        "logaddexp": (lambda x: torch.logaddexp(x, x.flip(1)), V, 0.2),
        "diff": (lambda x: x.diff(dim=1), V, 0.2),
        # --- arithmetic
        "x / (1 + x^2)": (lambda x: x / (1 + x**2), V, 0.2),
        "1 / (x - 2)": (lambda x: 1 / (x - 2), V, 0.2),
        "2 ** x": (lambda x: 2**x, V, 0.2),
        "expm1": (torch.expm1, V, 0.2),
        "log": (lambda x: torch.log(x + 2), V, 0.2),
        "log1p": (lambda x: torch.log1p(x.abs()), V, 0.2),
        "log2": (lambda x: torch.log2(x + 2), V, 0.2),
        "log10": (lambda x: torch.log10(x + 2), V, 0.2),
        "sqrt": (lambda x: torch.sqrt(x.square() + 1e-2), V, 0.2),
        "sign": (torch.sign, V, 0.2),
        "heaviside": (lambda x: torch.heaviside(x, torch.tensor(0.5, dtype=x.dtype)), V, 0.2),
        "floor": (lambda x: torch.floor(3 * x), V, 0.2),
        "clip": (lambda x: x.clip(-0.3, 0.4), V, 0.2),
        "clamp by tensors": (lambda x: torch.clamp(x, -W4.abs(), W4.abs()), V, 0.3),
        "maximum": (lambda x: torch.maximum(x, W4), V, 0.3),
        "sine and cosine": (lambda x: torch.cat([x.sin(), (3 * x).cos()], 1), V, 0.2),
        "tan": (torch.tan, V, 0.2),
        "atan": (torch.atan, V, 0.2),
        "asin": (lambda x: torch.asin(0.5 * x), V, 0.2),
        "addcmul": (lambda x: torch.addcmul(x, x.relu(), W4, value=0.5), V, 0.2),
        "addcdiv": (lambda x: torch.addcdiv(x, x.relu(), x.exp()), V, 0.2),
        "where(x > 0, x, x / 10)": (lambda x: torch.where(x > 0, x, 0.1 * x), V, 0.2),
        "x * (x > 0)": (lambda x: x * (x > 0), V, 0.2),
        # --- linear algebra
        "matmul": (lambda x: W34 @ x.mT, M, 0.2),
        "bmm": (lambda x: torch.bmm(x, x.mT), M, 0.1),
        "einsum with a weight": (lambda x: torch.einsum("btd,kd->btk", x, W34), M, 0.2),
        "einsum of two": (lambda x: torch.einsum("bid,bjd->bij", x, x.tanh()), M, 0.1),
        "inner": (lambda x: torch.inner(x, W34), V, 0.2),
        "mv": (lambda x: torch.mv(x, W4)[:, None], V, 0.2),
        "Bilinear": (lambda x: F.bilinear(x, x.relu(), W34.reshape(1, 3, 4).expand(2, 3, 4)[:, [0, 1, 2, 0]]), V, 0.1),
        "cdist": (lambda x: torch.cdist(x, W34[None]), M, 0.05),
        # --- recurrent layers, attention
        "RNN": (nn.RNN(4, 3, batch_first=True), M, 0.1),
        "RNN with ReLU": (nn.RNN(4, 3, nonlinearity="relu", batch_first=True), M, 0.1),
        "GRU": (nn.GRU(4, 3, batch_first=True), M, 0.1),
        "GRU both ways": (nn.GRU(4, 3, bidirectional=True, batch_first=True), M, 0.1),
        "LSTM": (nn.LSTM(4, 3, batch_first=True), M, 0.1),
        "a loop": (rnn_loop, M, 0.1),
        "attention by hand": (Attention(4, 2), M, 0.05),
        "TransformerEncoderLayer": (nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), M, 0.02),
        "TransformerDecoderLayer": (Decode(4), M, 0.02),
        "attention, causal": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), M, 0.1),
        "rotary positions": (rotary, M, 0.1),
        "squeeze and excitation": (Excite(2), I, 0.1),
        # --- losses as outputs
        "mse_loss": (lambda x: F.mse_loss(x, some(x), reduction="none"), V, 0.2),
        "smooth_l1_loss": (lambda x: F.smooth_l1_loss(x, some(x), reduction="none"), V, 0.2),
        "huber_loss": (lambda x: F.huber_loss(x, some(x), reduction="none", delta=0.5), V, 0.2),
        "cross_entropy": (lambda x: F.cross_entropy(x, labels(x), reduction="none"), V, 0.2),
        "BCE with logits": (lambda x: F.binary_cross_entropy_with_logits(x, some(x), reduction="none"), V, 0.2),
        "kl_div": (lambda x: F.kl_div(x.log_softmax(1), some(x), reduction="none").sum(1), V, 0.2),
    }


REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "sort": (lambda x: x.sort(dim=1)[0], "sort"),
    "topk": (lambda x: x.topk(2, dim=1)[0], "topk"),
    "median": (lambda x: x.median(dim=1)[0], "median"),
    "kthvalue": (lambda x: x.kthvalue(2, dim=1)[0], "kthvalue"),
    "argmax": (lambda x: x.argmax(1), "argmax"),
    "x == 0": (lambda x: x * (x == 0), "eq"),
    "isnan": (lambda x: torch.where(x.isnan(), 0.0, x), "isnan"),
    "atan2": (lambda x: torch.atan2(x, x + 1), "atan2"),
    "remainder": (lambda x: x % 0.5, "remainder"),
    "cumprod": (lambda x: x.cumprod(1), "cumprod"),
    "grid_sample": (
        lambda x: F.grid_sample(x[:, None, None].expand(-1, 1, 4, 4), GRID.expand(x.shape[0], -1, -1, -1)),
        "grid_sampler_2d",
    ),
    "inverse": (lambda x: torch.linalg.inv(x[:, :, None] * x[:, None] + torch.eye(4)), "linalg_inv"),
    "fft": (lambda x: torch.fft.fft(x).real, "fft"),
    "softmax over the batch": (lambda x: x.softmax(0), "mixes the samples"),
    "index assignment": (lambda x: assigned(x), "assignment to an index"),
    "jacrev": (lambda x: torch.func.vmap(torch.func.jacrev(torch.tanh))(x), "torch.func"),
    "batch statistics": (lambda x: F.batch_norm(x, None, None, training=True), "mixes samples"),
}


class Wrapped(nn.Module):
    """A function as a module, of which the first result counts."""

    def __init__(self, f: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        found = self.f(x)
        return found[0] if isinstance(found, tuple) else found


def inputs(shape: tuple[int, ...], *more: int) -> Tensor:
    """Numbers in [-1, 1], (*more, 3, *shape)."""
    unit = torch.rand(*more, 3, *shape, generator=torch.Generator().manual_seed(len(more)), dtype=torch.float64)
    return 2 * unit - 1


def test_there_are_as_many_as_users_write() -> None:
    assert len(EVERYDAY) + len(REFUSED) >= 166
    assert len(EVERYDAY) >= 140


@pytest.mark.parametrize("name", EVERYDAY)
def test_bounds_hold_and_crown_is_no_wider_than_intervals(name: str) -> None:
    f, shape, eps = EVERYDAY[name]
    model, x = Wrapped(f).double().eval(), inputs(shape)
    program = Program(model, x)
    torch.testing.assert_close(program(x[:1]), model(x[:1]), check_dtype=False)  # whatever the batch
    bounds = Bounds(program, x, LpBall(x, eps))
    shift = inputs(shape, 60)
    shift[::2] = shift[::2].sign()  # corners
    with torch.no_grad():
        values = model((x + eps * shift).flatten(0, 1)).unflatten(0, (60, 3))
        ends = [bounds.compute(method) for method in ("ibp", "crown")]
    slack = 1e-6 if name == "casts" else 1e-9  # of single precision
    for low, high in ends:
        room = slack * (1 + values.abs())
        assert low.shape == values.shape[1:]
        assert bool(((low - room <= values) & (values <= high + room)).all())
    (low, high), (lower, higher) = ends
    assert float((higher - lower).mean()) <= float((high - low).mean()) * (1 + 1e-9)
    assert float((values.amax(0) - values.amin(0)).mean()) > 0.2 * float((higher - lower).mean())  # and of use


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_by_its_name_and_its_line(name: str) -> None:
    f, word = REFUSED[name]
    x = inputs((4,))
    with pytest.raises(
        UnsupportedOperator, match=rf"{word}.*test_bound_everyday\.py, line [0-9]|.*line [0-9]+.*{word}"
    ):
        Bounds(Program(Wrapped(f).double().eval(), x), x, LpBall(x, 0.1))
